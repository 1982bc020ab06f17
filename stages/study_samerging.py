"""Data efficiency of SAMerging: as stages/study.py, with its top-level parameters."""

from pipeline.methods.samerging import Params
from pipeline.problem import Setting
from pipeline.stage import Job, Stage
from pipeline.study import efficiency

SETTING = ("schedule.{suite}", "calibration_split", "precision")
SCOPE = ("evaluation_split", "study.samples", "seeds")
STAGE = Stage(
    name="study_samerging",
    arguments=("suite",),
    params=(*Params.model_fields, *SETTING, *SCOPE),
    inputs=("data/suites/{suite}", "data/teachers/{suite}"),
    outputs=("data/studies/{suite}/samerging",),
    modules=("pipeline.extras.*",),
)


def run(job: Job) -> None:
    """Write the merges of every number of samples and their scores."""
    params = Params(**{key: job.params[key] for key in Params.model_fields})
    setting = Setting(*job.inputs, "samerging", params, *(job.params[key] for key in SETTING))
    efficiency(setting, *(job.params[key] for key in SCOPE), job.outputs[0])


if __name__ == "__main__":
    STAGE.main(run)
