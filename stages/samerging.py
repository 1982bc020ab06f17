"""The method under study, once for every seed. Its parameters are top-level keys of params.yaml."""

from pipeline import merges
from pipeline.methods.samerging import Params
from pipeline.problem import calibrate_seeds
from pipeline.stage import Job, Stage

SETTINGS = ("schedule.{suite}", "calibration_split", "samples_per_task", "seeds")
STAGE = Stage(
    name="samerging",
    arguments=("suite",),
    params=(*Params.model_fields, *SETTINGS),
    inputs=("data/suites/{suite}", "data/teachers/{suite}"),
    outputs=("data/merges/{suite}/samerging",),
)


def run(job: Job) -> None:
    """Write the artefact of `pipeline.merges`."""
    params = Params(**{key: job.params[key] for key in Params.model_fields})
    schedule, split, samples, seeds = (job.params[key] for key in SETTINGS)
    (found,) = calibrate_seeds(*job.inputs, "samerging", params, schedule, split, (samples,), tuple(seeds))
    merges.save(found, job.outputs[0])


if __name__ == "__main__":
    STAGE.main(run)
