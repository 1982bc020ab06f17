"""Replicates: train the suite again with other seeds and score the headline methods on every training."""

from pipeline.methods.samerging import Params
from pipeline.runtime import store
from pipeline.runtime.stage import Job, Stage
from pipeline.steps.calibrate import Setting
from pipeline.studies.replicates import COLUMNS, score_replicates, train_replicates

CLASSICS = ("zeroshot", "individual", "average", "task_arithmetic", "ties", "tsv_m", "iso_c")
FREE = tuple(f"merge.{name}" for name in CLASSICS)
BASELINES = tuple(f"calibrate.{name}" for name in ("regmean", "adamerging", "distillation"))
SHARED = ("schedule.{suite}", "calibration_split", "precision")
SCOPE = ("samples_per_task", "seeds", "evaluation_split")
STAGE = Stage(
    name="studies.replicates",
    arguments=("suite",),
    params=(*Params.model_fields, *FREE, *BASELINES, *SHARED, *SCOPE, "recipe.{suite}", "study.replicates"),
    inputs=("data/suites/{suite}", "data/teachers/{suite}"),
    outputs=("data/studies/{suite}/replicates",),
    modules=tuple(f"pipeline.methods.{key.partition('.')[2]}" for key in (*FREE, *BASELINES)),
    keeps_results=True,
)


def run(job: Job) -> None:
    """Write the scores of every replicate, method and seed; none for a suite whose experts are public."""
    suite, teachers = job.inputs
    data_free, calibrated = ({key.partition(".")[2]: job.params[key] for key in keys} for keys in (FREE, BASELINES))
    calibrated["samerging"] = Params(**{key: job.params[key] for key in Params.model_fields})
    schedule, split, precision, samples, seeds, scored = (job.params[key] for key in (*SHARED, *SCOPE))
    settings = [Setting(suite, teachers, name, own, schedule, split, precision) for name, own in calibrated.items()]
    recipe, study = job.params["recipe.{suite}"], job.params["study.replicates"]
    scratch = job.outputs[0].parent  # removed when the stage ends
    replicates = train_replicates(suite, teachers, recipe, study, split, scratch, job.work)
    rows = score_replicates(replicates, data_free, settings, samples, seeds, scored, job.work)
    store.write_csv(job.outputs[0] / "rows.csv", COLUMNS, rows)


if __name__ == "__main__":
    STAGE.main(run)
