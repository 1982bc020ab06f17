"""Merge without data: from the task vectors alone."""

from pipeline import merges, methods
from pipeline.stage import Job, Stage
from pipeline.suite import SuiteFolder

STAGE = Stage(
    name="merge",
    arguments=("suite", "method"),
    params=("merge.{method}",),
    inputs=("data/suites/{suite}",),
    outputs=("data/merges/{suite}/{method}",),
    modules=("pipeline.methods.{method}",),
)


def run(job: Job) -> None:
    """Write the artefact of `pipeline.merges`."""
    suite = SuiteFolder(job.inputs[0])
    result = methods.load(job.names["method"]).merge(suite.vectors(), job.params["merge.{method}"])
    merges.save(merges.data_free(result, suite.suite), job.outputs[0])


if __name__ == "__main__":
    STAGE.main(run)
