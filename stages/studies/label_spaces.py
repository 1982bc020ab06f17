"""Label spaces: merge two tasks on one domain that ask for different labels, and tasks of two domains."""

from pipeline.methods.samerging import Params
from pipeline.models.suite import SuiteFolder
from pipeline.runtime import store
from pipeline.runtime.stage import Job, Stage
from pipeline.steps.calibrate import Setting
from pipeline.studies.label_spaces import COLUMNS, construct_tasks, pair_domains, score_pairs
from pipeline.suites.mini import Recipe

FREE = tuple(f"merge.{name}" for name in ("average", "task_arithmetic", "ties", "tsv_m"))
BASELINES = tuple(f"calibrate.{name}" for name in ("adamerging", "distillation"))
SHARED = ("schedule.{suite}", "calibration_split", "precision", "samples_per_task", "evaluation_split")
STAGE = Stage(
    name="studies.label_spaces",
    arguments=("suite",),
    params=(*Params.model_fields, *FREE, *BASELINES, *SHARED, "recipe.{suite}", "study.label_spaces"),
    inputs=("data/suites/{suite}",),
    outputs=("data/studies/{suite}/label_spaces",),
    modules=tuple(f"pipeline.methods.{key.partition('.')[2]}" for key in (*FREE, *BASELINES)),
    keeps_results=True,
)


def run(job: Job) -> None:
    """Write the scores of every pair and method; none for a suite without two tasks on one domain."""
    (suite,), recipe, study, rows = job.inputs, job.params["recipe.{suite}"], job.params["study.label_spaces"], []
    if pairs := pair_domains(SuiteFolder(suite).suite.task_names, study, isinstance(recipe, Recipe)):
        schedule, split, precision, samples, scored = (job.params[key] for key in SHARED)
        scratch = job.outputs[0].parent  # removed when the stage ends
        suite, teachers = construct_tasks(suite, recipe, pairs, study.seed, split, scratch, job.work)
        parameters = {key.partition(".")[2]: job.params[key] for key in (*FREE, *BASELINES)}
        parameters["samerging"] = Params(**{key: job.params[key] for key in Params.model_fields})
        settings = [Setting(suite, teachers, name, own, schedule, split, precision) for name, own in parameters.items()]
        rows = score_pairs(settings, pairs, samples, study.seed, scored, job.work)
    store.write_csv(job.outputs[0] / "rows.csv", COLUMNS, rows)


if __name__ == "__main__":
    STAGE.main(run)
