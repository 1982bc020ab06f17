"""Train the weights of an embedded suite: base, zero-shot heads, experts. They travel in git, so this runs once."""

from pipeline.runtime import store
from pipeline.runtime.stage import Job, Stage
from pipeline.suites import load

STAGE = Stage(
    name="train",
    arguments=("suite",),
    params=("recipe.{suite}",),
    inputs=("data/checked.json", "pipeline/suites/{suite}.yaml"),
    outputs=("data/checkpoints/{suite}",),
    basis=("pipeline.embedded.*",),
)


def run(job: Job) -> None:
    """Write what the family trains; weights that are fetched are left to stage `prepare`."""
    family, definition = load(job.names["suite"])
    if hasattr(family, "train"):
        family.train(definition, job.params["recipe.{suite}"], job.outputs[0])
    else:
        store.write_json(job.outputs[0] / "elsewhere.json", {"trained": False, "weights": "fetched by stage prepare"})


if __name__ == "__main__":
    STAGE.main(run)
