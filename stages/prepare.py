"""Prepare a suite: base, experts, heads, examples and labels in one layout for all; a preview and the provenance."""

from pipeline.runtime.stage import Job, Stage
from pipeline.steps.prepare import write_preview
from pipeline.suites import load

STAGE = Stage(
    name="prepare",
    arguments=("suite",),
    params=("recipe.{suite}",),
    inputs=("pipeline/suites/{suite}.yaml", "pipeline/suites/tables", "data/checkpoints/{suite}"),
    outputs=(
        "data/suites/{suite}",
        *("data/previews/{suite}.npz", "data/origins/{suite}.json", "data/clusters/{suite}.npz"),
    ),
    modules=("pipeline.suites.*",),
)


def run(job: Job) -> None:
    """Prepare the suite with its family; write what the report shows of it."""
    name, checkpoints = job.names["suite"], job.inputs[-1]
    folder, *shown = job.outputs
    family, definition = load(name)
    family.prepare(name, definition, job.params["recipe.{suite}"], checkpoints, folder)
    if hasattr(family, "tune"):
        family.tune(definition, job.params["recipe.{suite}"], folder, job.work)
    write_preview(folder, *shown)


if __name__ == "__main__":
    STAGE.main(run)
