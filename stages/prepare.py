"""Get a suite: base, experts, zero-shot heads, images and labels in one layout for all, and a preview of its images."""

from pipeline.preview import preview
from pipeline.stage import Job, Stage
from pipeline.suites import load

STAGE = Stage(
    name="prepare",
    arguments=("suite",),
    params=("recipe.{suite}",),
    inputs=("pipeline/suites/{suite}.yaml",),
    outputs=("data/suites/{suite}", "data/previews/{suite}.npz"),
    modules=("pipeline.suites.*",),
)


def run(job: Job) -> None:
    """Prepare the suite by its family and keep a few images for the report."""
    suite = job.names["suite"]
    family, definition = load(suite)
    family.prepare(suite, definition, job.params["recipe.{suite}"], job.outputs[0])
    preview(job.outputs[0], job.outputs[1])


if __name__ == "__main__":
    STAGE.main(run)
