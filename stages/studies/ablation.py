"""Ablation: objective, sharpness and granularity, every combination, all else equal."""

from pipeline.methods.samerging import Params
from pipeline.runtime import store
from pipeline.runtime.stage import Job, Stage
from pipeline.steps.calibrate import Setting
from pipeline.studies._trials import SCORES
from pipeline.studies.ablation import rows

OWN = ("rho", "temperature", "weight_decay")
SHARED = ("schedule.{suite}", "calibration_split", "precision")
STAGE = Stage(
    name="studies.ablation",
    arguments=("suite",),
    params=(*OWN, *SHARED, "evaluation_split", "samples_per_task", "seeds", "study.ablation"),
    inputs=("data/suites/{suite}", "data/teachers/{suite}"),
    outputs=("data/studies/{suite}/ablation.csv",),
    modules=("pipeline.merges.serving.*",),
    keeps_results=True,
)


def run(job: Job) -> None:
    """Write the scores of every combination and seed."""
    own = {key: job.params[key] for key in OWN} | job.params["study.ablation"].model_dump()
    setting = Setting(*job.inputs, "samerging", Params(**own), *(job.params[key] for key in SHARED))
    samples, seeds, split = (job.params[key] for key in ("samples_per_task", "seeds", "evaluation_split"))
    store.write_csv(job.outputs[0], SCORES, rows(setting, samples, seeds, split, job.work))


if __name__ == "__main__":
    STAGE.main(run)
