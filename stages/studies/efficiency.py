"""Data efficiency: calibrate and score with ever more unlabelled images per task."""

from pipeline.methods.samerging import Params
from pipeline.runtime import store
from pipeline.runtime.stage import Job, Stage
from pipeline.steps.calibrate import Setting
from pipeline.studies._trials import SCORES, scores
from pipeline.studies.efficiency import trials

BASELINES = ("adamerging", "distillation")
SHARED = ("schedule.{suite}", "calibration_split", "precision")
STAGE = Stage(
    name="studies.efficiency",
    arguments=("suite",),
    params=(
        *Params.model_fields,
        *(f"calibrate.{name}" for name in BASELINES),
        *SHARED,
        *("evaluation_split", "seeds", "study.efficiency"),
    ),
    inputs=("data/suites/{suite}", "data/teachers/{suite}"),
    outputs=("data/studies/{suite}/efficiency.csv",),
    modules=("pipeline.methods.adamerging", "pipeline.methods.distillation", "pipeline.merges.serving.*"),
    keeps_results=True,
)


def run(job: Job) -> None:
    """Write the scores of every method, number of images and seed."""
    shared = [job.params[key] for key in SHARED]
    own = Params(**{key: job.params[key] for key in Params.model_fields})
    params = {**{name: job.params[f"calibrate.{name}"] for name in BASELINES}, "samerging": own}
    settings = [Setting(*job.inputs, name, chosen, *shared) for name, chosen in params.items()]
    todo = trials(settings, job.params["study.efficiency"].samples, job.params["seeds"])
    rows = scores(todo, job.params["evaluation_split"], "data efficiency", job.work)
    store.write_csv(job.outputs[0], SCORES, rows)


if __name__ == "__main__":
    STAGE.main(run)
