"""Protocol: calibrate on held-out examples and on the scored ones, and score the same examples."""

from pipeline.methods.samerging import Params
from pipeline.runtime import store
from pipeline.runtime.stage import Job, Stage
from pipeline.studies._teachers import write_teachers
from pipeline.studies._trials import TRIAL_COLUMNS, score_trials
from pipeline.studies.protocol import choose_splits, list_protocol_trials

BASELINES = ("adamerging", "distillation")
SHARED = ("schedule.{suite}", "precision")
STAGE = Stage(
    name="studies.protocol",
    arguments=("suite",),
    params=(
        *(*Params.model_fields, *SHARED, "evaluation_split", "seeds", "study.protocol"),
        *(f"calibrate.{name}" for name in BASELINES),
    ),
    inputs=("data/suites/{suite}",),
    outputs=("data/studies/{suite}/protocol",),
    modules=("pipeline.methods.adamerging", "pipeline.methods.distillation", "pipeline.merges.serving.*"),
    keeps_results=True,
)


def run(job: Job) -> None:
    """Write the scores of every method, protocol, number of examples and seed."""
    suite, scored, study = job.inputs[0], job.params["evaluation_split"], job.params["study.protocol"]
    methods = {name: job.params[f"calibrate.{name}"] for name in BASELINES}
    methods["samerging"] = Params(**{key: job.params[key] for key in Params.model_fields})
    scratch = job.outputs[0].parent  # removed when the stage ends
    splits = choose_splits(study, scored)
    teachers = {name: (split, write_teachers(suite, split, scratch, job.work)) for name, split in splits.items()}
    schedule, precision = (job.params[key] for key in SHARED)
    trials = list_protocol_trials(suite, teachers, methods, schedule, precision, study.samples, job.params["seeds"])
    store.write_csv(job.outputs[0] / "rows.csv", TRIAL_COLUMNS, score_trials(trials, scored, "protocol", job.work))


if __name__ == "__main__":
    STAGE.main(run)
