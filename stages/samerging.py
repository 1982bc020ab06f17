"""Merge by SAMerging, the method under study, once for every seed. Its parameters are top-level keys of params.yaml."""

from pipeline.merges import storage
from pipeline.methods.samerging import Params
from pipeline.runtime.stage import Job, Stage
from pipeline.steps.calibrate import Setting, calibrate_seeds

SETTING = ("schedule.{suite}", "calibration_split", "precision")
STAGE = Stage(
    name="samerging",
    arguments=("suite",),
    params=(*Params.model_fields, *SETTING, "samples_per_task", "seeds"),
    inputs=("data/suites/{suite}", "data/teachers/{suite}"),
    outputs=("data/merges/{suite}/samerging",),
    modules=("pipeline.merges.serving.*",),
)


def run(job: Job) -> None:
    """Write the artefact of `pipeline.merges.storage`."""
    suite, teachers = job.inputs
    params = Params(**{key: job.params[key] for key in Params.model_fields})
    schedule, split, precision = (job.params[key] for key in SETTING)
    setting = Setting(suite, teachers, "samerging", params, schedule, split, precision)
    merges = calibrate_seeds(setting, job.params["samples_per_task"], job.params["seeds"], job.work)
    storage.save(merges, job.outputs[0])


if __name__ == "__main__":
    STAGE.main(run)
