"""Merge without data: from the task vectors alone."""

from pipeline import methods
from pipeline.merges import storage
from pipeline.models.suite import SuiteFolder
from pipeline.runtime.device import device
from pipeline.runtime.stage import Job, Stage
from pipeline.steps.merge import check_memory, merge_data_free

STAGE = Stage(
    name="merge",
    arguments=("suite", "method"),
    params=("merge.{method}",),
    inputs=("data/suites/{suite}",),
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
    suite, target = SuiteFolder(job.inputs[0]), device()
    method, params = methods.load(job.names["method"]), job.params["merge.{method}"]
    check_memory(suite, target)
    vectors = suite.vectors(target=target)
    storage.save(merge_data_free(method, vectors, params, suite.suite.task_names), job.outputs[0])


if __name__ == "__main__":
    STAGE.main(run)
