"""Data efficiency of SAMerging: as stages/study.py, with its top-level parameters."""

from pipeline.methods.samerging import Params
from pipeline.stage import Job, Stage
from pipeline.study import efficiency

SETTINGS = ("schedule.{suite}", "calibration_split", "evaluation_split", "study.samples", "seeds")
STAGE = Stage(
    name="study_samerging",
    arguments=("suite",),
    params=(*Params.model_fields, *SETTINGS),
    inputs=("data/suites/{suite}", "data/teachers/{suite}"),
    outputs=("data/studies/{suite}/samerging",),
)


def run(job: Job) -> None:
    """Write the merges of every number of samples and their scores."""
    params = Params(**{key: job.params[key] for key in Params.model_fields})
    efficiency(*job.inputs, "samerging", params, *(job.params[key] for key in SETTINGS), job.outputs[0])


if __name__ == "__main__":
    STAGE.main(run)
