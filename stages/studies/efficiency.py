"""Data efficiency: calibrate and score with more and more unlabelled examples per task."""

from pipeline.methods.samerging import Params
from pipeline.runtime import store
from pipeline.runtime.stage import Job, Stage
from pipeline.steps.calibrate import Setting
from pipeline.studies._trials import TRIAL_COLUMNS, score_trials
from pipeline.studies.efficiency import list_sample_trials

BASELINES = ("adamerging", "distillation")
SHARED = ("schedule.{suite}", "calibration_split", "precision")
STAGE = Stage(
    name="studies.efficiency",
    arguments=("suite",),
    params=(
        *(*Params.model_fields, *(f"calibrate.{name}" for name in BASELINES), *SHARED),
        *("evaluation_split", "seeds", "study.efficiency"),
    ),
    inputs=("data/suites/{suite}", "data/teachers/{suite}"),
    outputs=("data/studies/{suite}/efficiency",),
    modules=("pipeline.methods.adamerging", "pipeline.methods.distillation", "pipeline.merges.serving.*"),
    keeps_results=True,
)


def run(job: Job) -> None:
    """Write the scores of every method, number of examples and seed."""
    suite, teachers = job.inputs
    schedule, split, precision = (job.params[key] for key in SHARED)
    methods = {name: job.params[f"calibrate.{name}"] for name in BASELINES}
    methods["samerging"] = Params(**{key: job.params[key] for key in Params.model_fields})
    settings = [Setting(suite, teachers, name, params, schedule, split, precision) for name, params in methods.items()]
    trials = list_sample_trials(settings, job.params["study.efficiency"].samples, job.params["seeds"])
    rows = score_trials(trials, job.params["evaluation_split"], "data efficiency", job.work)
    store.write_csv(job.outputs[0] / "rows.csv", TRIAL_COLUMNS, rows)


if __name__ == "__main__":
    STAGE.main(run)
