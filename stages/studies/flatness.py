"""Flatness: alternatives to SAM's second pass, how flat they leave the loss, and what they cost."""

from pipeline.methods.samerging import Params
from pipeline.runtime import store
from pipeline.runtime.stage import Job, Stage
from pipeline.steps.calibrate import Setting
from pipeline.studies.flatness import COLUMNS, score_variants

METHOD = ("rho", "temperature", "initial_coefficient", "weight_decay")
SHARED = ("schedule.{suite}", "calibration_split", "precision")
STAGE = Stage(
    name="studies.flatness",
    arguments=("suite",),
    params=(*METHOD, *SHARED, "evaluation_split", "seeds", "study.flatness"),
    inputs=("data/suites/{suite}", "data/teachers/{suite}"),
    outputs=("data/studies/{suite}/flatness",),
    modules=("pipeline.merges.serving.*",),
    keeps_results=True,
)


def run(job: Job) -> None:
    """Write scores, cost and flatness of every variant and seed."""
    suite, teachers = job.inputs
    params = Params(**{key: job.params[key] for key in METHOD})
    schedule, split, precision = (job.params[key] for key in SHARED)
    setting = Setting(suite, teachers, "samerging", params, schedule, split, precision)
    study, seeds, scored = (job.params[key] for key in ("study.flatness", "seeds", "evaluation_split"))
    store.write_csv(job.outputs[0] / "rows.csv", COLUMNS, score_variants(setting, study, seeds, scored, job.work))


if __name__ == "__main__":
    STAGE.main(run)
