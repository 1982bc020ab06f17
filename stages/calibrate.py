"""Merge by a baseline that uses unlabelled calibration examples, once for every seed."""

from pipeline.merges import storage
from pipeline.runtime.stage import Job, Stage
from pipeline.steps.calibrate import Setting, calibrate_seeds

SETTING = ("calibrate.{method}", "schedule.{suite}", "calibration_split", "precision")
STAGE = Stage(
    name="calibrate",
    arguments=("suite", "method"),
    params=(*SETTING, "samples_per_task", "seeds"),
    inputs=("data/suites/{suite}", "data/teachers/{suite}"),
    outputs=("data/merges/{suite}/{method}",),
    modules=(
        "pipeline.methods.{method}",
        "pipeline.toolbox.*",
        "pipeline.merges.serving.*",
        "pipeline.statistics.sampling",
    ),
)


def run(job: Job) -> None:
    """Write the artefact of `pipeline.merges.storage`."""
    suite, teachers = job.inputs
    params, schedule, split, precision = (job.params[key] for key in SETTING)
    setting = Setting(suite, teachers, job.names["method"], params, schedule, split, precision)
    merges = calibrate_seeds(setting, job.params["samples_per_task"], job.params["seeds"], job.work)
    storage.save(merges, job.outputs[0])


if __name__ == "__main__":
    STAGE.main(run)
