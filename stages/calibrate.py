"""Merge by a baseline that sees unlabelled calibration images, once for every seed."""

from pipeline import merges
from pipeline.problem import calibrate_seeds
from pipeline.stage import Job, Stage

SETTINGS = ("calibrate.{method}", "schedule.{suite}", "calibration_split", "samples_per_task", "seeds")
STAGE = Stage(
    name="calibrate",
    arguments=("suite", "method"),
    params=SETTINGS,
    inputs=("data/suites/{suite}", "data/teachers/{suite}"),
    outputs=("data/merges/{suite}/{method}",),
    modules=("pipeline.methods.{method}",),
)


def run(job: Job) -> None:
    """Write the artefact of `pipeline.merges`."""
    params, schedule, split, samples, seeds = (job.params[key] for key in SETTINGS)
    (found,) = calibrate_seeds(*job.inputs, job.names["method"], params, schedule, split, (samples,), tuple(seeds))
    merges.save(found, job.outputs[0])


if __name__ == "__main__":
    STAGE.main(run)
