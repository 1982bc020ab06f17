"""Data efficiency of a calibrated baseline: calibrate and score it with ever more unlabelled images per task."""

from pipeline.problem import Setting
from pipeline.stage import Job, Stage
from pipeline.study import efficiency

SETTING = ("calibrate.{method}", "schedule.{suite}", "calibration_split", "precision")
SCOPE = ("evaluation_split", "study.samples", "seeds")
STAGE = Stage(
    name="study",
    arguments=("suite", "method"),
    params=(*SETTING, *SCOPE),
    inputs=("data/suites/{suite}", "data/teachers/{suite}"),
    outputs=("data/studies/{suite}/{method}",),
    modules=("pipeline.methods.{method}", "pipeline.toolbox.*", "pipeline.extras.*", "pipeline.draws"),
)


def run(job: Job) -> None:
    """Write the merges of every number of samples and their scores."""
    setting = Setting(*job.inputs, job.names["method"], *(job.params[key] for key in SETTING))
    efficiency(setting, *(job.params[key] for key in SCOPE), job.outputs[0])


if __name__ == "__main__":
    STAGE.main(run)
