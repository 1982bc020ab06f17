"""Flatness: what can stand in for SAM's second pass, how flat it leaves the loss, and what it costs."""

from pipeline.methods.samerging import Params
from pipeline.runtime import store
from pipeline.runtime.stage import Job, Stage
from pipeline.steps.calibrate import Setting
from pipeline.studies.flatness import COLUMNS, rows

OWN = ("rho", "temperature", "initial_coefficient", "weight_decay")
SHARED = ("schedule.{suite}", "calibration_split", "precision")
STAGE = Stage(
    name="studies.flatness",
    arguments=("suite",),
    params=(*OWN, *SHARED, "evaluation_split", "seeds", "study.flatness"),
    inputs=("data/suites/{suite}", "data/teachers/{suite}"),
    outputs=("data/studies/{suite}/flatness.csv",),
    modules=("pipeline.merges.serving.*",),
    keeps_results=True,
)


def run(job: Job) -> None:
    """Write scores, cost and flatness of every variant and seed."""
    params = Params(**{key: job.params[key] for key in OWN})
    setting = Setting(*job.inputs, "samerging", params, *(job.params[key] for key in SHARED))
    study, seeds, split = (job.params[key] for key in ("study.flatness", "seeds", "evaluation_split"))
    store.write_csv(job.outputs[0], COLUMNS, rows(setting, study, seeds, split, job.work))


if __name__ == "__main__":
    STAGE.main(run)
