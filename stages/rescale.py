"""The scale of a merge, chosen without labels: the whole delta times the factor at which the experts agree most."""

from pipeline.merges import storage
from pipeline.runtime import store
from pipeline.runtime.stage import Job, Stage
from pipeline.steps.rescale import HEADER, rescale

SCOPE = ("calibration_split", "seeds", "rescale")
STAGE = Stage(
    name="rescale",
    arguments=("suite", "method"),
    params=SCOPE,
    inputs=("data/suites/{suite}", "data/teachers/{suite}", "data/merges/{suite}/{method}"),
    outputs=("data/merges/{suite}/{method}-rescaled",),
)


def run(job: Job) -> None:
    """Write the artefact of `pipeline.merges.storage`, with the losses of all factors."""
    found, losses = rescale(*job.inputs, *(job.params[key] for key in SCOPE))
    storage.save(found, job.outputs[0])
    store.write_csv(job.outputs[0] / "rescale.csv", HEADER, losses)


if __name__ == "__main__":
    STAGE.main(run)
