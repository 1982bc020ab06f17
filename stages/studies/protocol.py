"""Protocol: calibrate on held-out images and on the scored ones, and score the same images."""

from pipeline.methods.samerging import Params
from pipeline.runtime import store
from pipeline.runtime.stage import Job, Stage
from pipeline.studies._teachers import teachers
from pipeline.studies._trials import SCORES, scores
from pipeline.studies.protocol import splits, trials

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
    outputs=("data/studies/{suite}/protocol.csv",),
    modules=("pipeline.methods.adamerging", "pipeline.methods.distillation", "pipeline.merges.serving.*"),
    keeps_results=True,
)


def run(job: Job) -> None:
    """Write the scores of every method, protocol, number of images and seed."""
    (suite,), study, split = job.inputs, job.params["study.protocol"], job.params["evaluation_split"]
    own = Params(**{key: job.params[key] for key in Params.model_fields})
    methods = {**{name: job.params[f"calibrate.{name}"] for name in BASELINES}, "samerging": own}
    scratch = job.outputs[0].parent  # goes when the stage ends
    taught = {name: (one, teachers(suite, one, scratch, job.work)) for name, one in splits(study, split).items()}
    shared = [job.params[key] for key in SHARED]
    todo = trials(suite, taught, methods, *shared, study.samples, job.params["seeds"])
    store.write_csv(job.outputs[0], SCORES, scores(todo, split, "protocol", job.work))


if __name__ == "__main__":
    STAGE.main(run)
