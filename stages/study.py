"""Data efficiency of a calibrated baseline: calibrate and score it with ever more unlabelled images per task."""

from pipeline.stage import Job, Stage
from pipeline.study import efficiency

SETTINGS = ("calibrate.{method}", "schedule.{suite}", "calibration_split", "evaluation_split", "study.samples", "seeds")
STAGE = Stage(
    name="study",
    arguments=("suite", "method"),
    params=SETTINGS,
    inputs=("data/suites/{suite}", "data/teachers/{suite}"),
    outputs=("data/studies/{suite}/{method}",),
    modules=("pipeline.methods.{method}",),
)


def run(job: Job) -> None:
    """Write the merges of every number of samples and their scores."""
    efficiency(*job.inputs, job.names["method"], *(job.params[key] for key in SETTINGS), job.outputs[0])


if __name__ == "__main__":
    STAGE.main(run)
