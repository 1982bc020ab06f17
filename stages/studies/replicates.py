"""Replicates: train the suite again with other seeds and score the headline methods on every training."""

from pipeline.methods.samerging import Params
from pipeline.runtime import store
from pipeline.runtime.stage import Job, Stage
from pipeline.steps.calibrate import Setting
from pipeline.studies.replicates import COLUMNS, measure, replicates

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
    outputs=("data/studies/{suite}/replicates.csv",),
    modules=tuple(f"pipeline.methods.{key.partition('.')[2]}" for key in (*FREE, *BASELINES)),
    keeps_results=True,
)


def run(job: Job) -> None:
    """Write the scores of every replicate, method and seed; none for a suite whose experts are public."""
    free, learned = ({key.partition(".")[2]: job.params[key] for key in keys} for keys in (FREE, BASELINES))
    learned["samerging"] = Params(**{key: job.params[key] for key in Params.model_fields})
    shared = [job.params[key] for key in SHARED]
    settings = [Setting(*job.inputs, name, params, *shared) for name, params in learned.items()]
    chosen = [job.params[key] for key in ("recipe.{suite}", "study.replicates", "calibration_split")]
    written = replicates(*job.inputs, *chosen, job.outputs[0].parent, job.work)  # goes when the stage ends
    rows = measure(written, free, settings, *(job.params[key] for key in SCOPE), job.work)
    store.write_csv(job.outputs[0], COLUMNS, rows)


if __name__ == "__main__":
    STAGE.main(run)
