"""Merge without data: from the task vectors alone."""

from pipeline import headroom, merges, methods
from pipeline.stage import Job, Stage
from pipeline.suite import SuiteFolder, device

STAGE = Stage(
    name="merge",
    arguments=("suite", "method"),
    params=("merge.{method}",),
    inputs=("data/suites/{suite}",),
    outputs=("data/merges/{suite}/{method}",),
    modules=("pipeline.methods.{method}", "pipeline.toolbox.*", "pipeline.extras.*", "pipeline.draws"),
)


def run(job: Job) -> None:
    """Write the artefact of `pipeline.merges`."""
    suite = SuiteFolder(job.inputs[0])
    method, params = methods.load(job.names["method"]), job.params["merge.{method}"]
    target = device()
    headroom.check(suite, target)
    vectors = suite.vectors(target=target)
    merges.save(merges.data_free(method, vectors, params, suite.suite.task_names), job.outputs[0])


if __name__ == "__main__":
    STAGE.main(run)
