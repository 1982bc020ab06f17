"""Flatness: what can stand in for SAM's second pass, how flat it leaves the loss, and what it costs."""

from pipeline import store
from pipeline.methods.samerging import Params
from pipeline.problem import Setting
from pipeline.stage import Job, Stage
from pipeline.studies.flatness import COLUMNS, rows

OWN = ("rho", "temperature", "initial_coefficient", "weight_decay")
SHARED = ("schedule.{suite}", "calibration_split", "precision")
STAGE = Stage(
    name="studies.flatness",
    arguments=("suite",),
    params=(*OWN, *SHARED, "evaluation_split", "seeds", "study.flatness"),
    inputs=("data/suites/{suite}", "data/teachers/{suite}"),
    outputs=("data/studies/{suite}/flatness.csv",),
    modules=("pipeline.extras.*",),
    keeps_cells=True,
)


def run(job: Job) -> None:
    """Write scores, cost and flatness of every variant and seed."""
    params = Params(**{key: job.params[key] for key in OWN})
    setting = Setting(*job.inputs, "samerging", params, *(job.params[key] for key in SHARED))
    study, seeds, split = (job.params[key] for key in ("study.flatness", "seeds", "evaluation_split"))
    store.write_csv(job.outputs[0], COLUMNS, rows(setting, study, seeds, split, job.cells))


if __name__ == "__main__":
    STAGE.main(run)
