"""Conflict: merge tasks that label the same images differently, and as many that do not."""

from pipeline.methods.samerging import Params
from pipeline.runtime import store
from pipeline.runtime.stage import Job, Stage
from pipeline.steps.calibrate import Setting
from pipeline.studies.conflict import COLUMNS, score_conflicts, train_conflicts
from pipeline.suites.mini import Recipe

FREE = tuple(f"merge.{name}" for name in ("average", "task_arithmetic", "ties", "tsv_m"))
BASELINES = tuple(f"calibrate.{name}" for name in ("adamerging", "distillation"))
SHARED = ("schedule.{suite}", "calibration_split", "precision")
SCOPE = ("samples_per_task", "evaluation_split")
STAGE = Stage(
    name="studies.conflict",
    arguments=("suite",),
    params=(*Params.model_fields, *FREE, *BASELINES, *SHARED, *SCOPE, "recipe.{suite}", "study.conflict"),
    inputs=("data/suites/{suite}",),
    outputs=("data/studies/{suite}/conflict",),
    modules=tuple(f"pipeline.methods.{key.partition('.')[2]}" for key in (*FREE, *BASELINES)),
    keeps_results=True,
)


def run(job: Job) -> None:
    """Write the scores of every pair and method; none for a suite that does not train experts on all weights."""
    recipe, study, rows = job.params["recipe.{suite}"], job.params["study.conflict"], []
    if isinstance(recipe, Recipe):
        schedule, split, precision, samples, scored = (job.params[key] for key in (*SHARED, *SCOPE))
        scratch = job.outputs[0].parent  # removed when the stage ends
        suite, teachers = train_conflicts(job.inputs[0], recipe, study, split, scratch, job.work)
        parameters = {key.partition(".")[2]: job.params[key] for key in (*FREE, *BASELINES)}
        parameters["samerging"] = Params(**{key: job.params[key] for key in Params.model_fields})
        settings = [Setting(suite, teachers, name, own, schedule, split, precision) for name, own in parameters.items()]
        rows = score_conflicts(settings, study, samples, scored, job.params["temperature"], job.work)
    store.write_csv(job.outputs[0] / "rows.csv", COLUMNS, rows)


if __name__ == "__main__":
    STAGE.main(run)
