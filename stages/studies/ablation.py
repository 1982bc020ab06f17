"""Ablation: objective, sharpness and granularity, every combination, all else equal."""

from pipeline.methods.samerging import Params
from pipeline.runtime import store
from pipeline.runtime.stage import Job, Stage
from pipeline.steps.calibrate import Setting
from pipeline.studies._trials import TRIAL_COLUMNS
from pipeline.studies.ablation import score_combinations

METHOD = ("rho", "temperature", "weight_decay")
SHARED = ("schedule.{suite}", "calibration_split", "precision")
STAGE = Stage(
    name="studies.ablation",
    arguments=("suite",),
    params=(*METHOD, *SHARED, "evaluation_split", "samples_per_task", "seeds", "study.ablation"),
    inputs=("data/suites/{suite}", "data/teachers/{suite}"),
    outputs=("data/studies/{suite}/ablation",),
    modules=("pipeline.merges.serving.*",),
    keeps_results=True,
)


def run(job: Job) -> None:
    """Write the scores of every combination and seed."""
    suite, teachers = job.inputs
    params = Params(**{key: job.params[key] for key in METHOD}, **job.params["study.ablation"].model_dump())
    schedule, split, precision = (job.params[key] for key in SHARED)
    setting = Setting(suite, teachers, "samerging", params, schedule, split, precision)
    samples, seeds, scored = (job.params[key] for key in ("samples_per_task", "seeds", "evaluation_split"))
    rows = score_combinations(setting, samples, seeds, scored, job.work)
    store.write_csv(job.outputs[0] / "rows.csv", TRIAL_COLUMNS, rows)


if __name__ == "__main__":
    STAGE.main(run)
