"""Number of tasks: merges of subsets of the experts, on the merged tasks and on those left out."""

from pipeline.methods.samerging import Params
from pipeline.runtime import store
from pipeline.runtime.stage import Job, Stage
from pipeline.steps.calibrate import Setting
from pipeline.studies.tasks import COLUMNS, measure

FREE = tuple(f"merge.{name}" for name in ("zeroshot", "individual", "average", "task_arithmetic", "ties", "tsv_m"))
BASELINES = tuple(f"calibrate.{name}" for name in ("adamerging", "distillation"))
SHARED = ("schedule.{suite}", "calibration_split", "precision")
GRID = ("study.tasks", "samples_per_task", "evaluation_split")
STAGE = Stage(
    name="studies.tasks",
    arguments=("suite",),
    params=(*Params.model_fields, *FREE, *BASELINES, *SHARED, *GRID),
    inputs=("data/suites/{suite}", "data/teachers/{suite}"),
    outputs=("data/studies/{suite}/tasks.csv",),
    modules=tuple(f"pipeline.methods.{key.partition('.')[2]}" for key in (*FREE, *BASELINES)),
    keeps_results=True,
)


def run(job: Job) -> None:
    """Write the scores of every method, subset and seed on every task."""
    free, learned = ({key.partition(".")[2]: job.params[key] for key in keys} for keys in (FREE, BASELINES))
    learned["samerging"] = Params(**{key: job.params[key] for key in Params.model_fields})
    shared = [job.params[key] for key in SHARED]
    settings = [Setting(*job.inputs, name, params, *shared) for name, params in learned.items()]
    rows = measure(job.inputs[0], free, settings, *(job.params[key] for key in GRID), job.work)
    store.write_csv(job.outputs[0], COLUMNS, rows)


if __name__ == "__main__":
    STAGE.main(run)
