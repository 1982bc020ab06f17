"""Measure a suite's experts before they are merged, and whether that predicts what merging costs."""

from pipeline.runtime.stage import Job, Stage
from pipeline.steps.diagnose import diagnose

STAGE = Stage(
    name="diagnose",
    arguments=("suite",),
    params=("diagnose", "calibration_split"),
    inputs=("data/suites/{suite}",),
    outputs=("data/diagnostics/{suite}",),
)


def run(job: Job) -> None:
    """Write the tables of measures, tasks, subsets and predictions, and M-Loss per unit."""
    diagnose(job.inputs[0], job.params["calibration_split"], job.params["diagnose"], job.outputs[0])


if __name__ == "__main__":
    STAGE.main(run)
