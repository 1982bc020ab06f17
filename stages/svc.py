"""Calibrate the singular values of a data-free merge (SVC); without data."""

from pipeline.merges import storage
from pipeline.runtime.stage import Job, Stage
from pipeline.steps.svc import calibrate_merges

STAGE = Stage(
    name="svc",
    arguments=("suite", "method"),
    params=("svc",),
    inputs=("data/suites/{suite}", "data/merges/{suite}/{method}"),
    outputs=("data/merges/{suite}/{method}-svc",),
)


def run(job: Job) -> None:
    """Write the artefact of `pipeline.merges.storage`."""
    suite, artefact = job.inputs
    storage.save(calibrate_merges(suite, artefact, job.names["method"], job.params["svc"]), job.outputs[0])


if __name__ == "__main__":
    STAGE.main(run)
