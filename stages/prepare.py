"""Get a suite: base, experts, heads, images and labels in one layout for all; a preview and where it came from."""

from pipeline.runtime.stage import Job, Stage
from pipeline.steps.prepare import preview
from pipeline.suites import load

STAGE = Stage(
    name="prepare",
    arguments=("suite",),
    params=("recipe.{suite}",),
    inputs=("pipeline/suites/{suite}.yaml", "pipeline/suites/tables", "data/checkpoints/{suite}"),
    outputs=("data/suites/{suite}", "data/previews/{suite}.npz", "data/origins/{suite}.json"),
    modules=("pipeline.suites.*",),
)


def run(job: Job) -> None:
    """Prepare the suite by its family and keep for the report what it shows of it."""
    suite, checkpoints = job.names["suite"], job.inputs[-1]
    family, definition = load(suite)
    family.prepare(suite, definition, job.params["recipe.{suite}"], checkpoints, job.outputs[0])
    preview(*job.outputs)


if __name__ == "__main__":
    STAGE.main(run)
