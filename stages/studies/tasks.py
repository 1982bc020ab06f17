"""Number of tasks: merge subsets of the experts; score them on the merged tasks and on those left out."""

from pipeline.methods.samerging import Params
from pipeline.runtime import store
from pipeline.runtime.stage import Job, Stage
from pipeline.steps.calibrate import Setting
from pipeline.studies.tasks import COLUMNS, score_subsets

FREE = tuple(f"merge.{name}" for name in ("zeroshot", "individual", "average", "task_arithmetic", "ties", "tsv_m"))
BASELINES = tuple(f"calibrate.{name}" for name in ("adamerging", "distillation"))
SHARED = ("schedule.{suite}", "calibration_split", "precision")
GRID = ("study.tasks", "samples_per_task", "evaluation_split")
STAGE = Stage(
    name="studies.tasks",
    arguments=("suite",),
    params=(*Params.model_fields, *FREE, *BASELINES, *SHARED, *GRID),
    inputs=("data/suites/{suite}", "data/teachers/{suite}"),
    outputs=("data/studies/{suite}/tasks",),
    modules=tuple(f"pipeline.methods.{key.partition('.')[2]}" for key in (*FREE, *BASELINES)),
    keeps_results=True,
)


def run(job: Job) -> None:
    """Write the scores of every method, subset and seed on every task."""
    suite, teachers = job.inputs
    data_free, calibrated = ({key.partition(".")[2]: job.params[key] for key in keys} for keys in (FREE, BASELINES))
    calibrated["samerging"] = Params(**{key: job.params[key] for key in Params.model_fields})
    schedule, split, precision = (job.params[key] for key in SHARED)
    settings = [Setting(suite, teachers, name, own, schedule, split, precision) for name, own in calibrated.items()]
    study, samples, scored = (job.params[key] for key in GRID)
    rows = score_subsets(suite, data_free, settings, study, samples, scored, job.work)
    store.write_csv(job.outputs[0] / "rows.csv", COLUMNS, rows)


if __name__ == "__main__":
    STAGE.main(run)
