"""The scale of a merge, chosen without labels: the whole delta times the factor at which the experts agree most."""

from pipeline import merges, store
from pipeline.rescale import HEADER, rescale
from pipeline.stage import Job, Stage

SCOPE = ("calibration_split", "seeds", "rescale")
STAGE = Stage(
    name="rescale",
    arguments=("suite", "method"),
    params=SCOPE,
    inputs=("data/suites/{suite}", "data/teachers/{suite}", "data/merges/{suite}/{method}"),
    outputs=("data/merges/{suite}/{method}-rescaled",),
)


def run(job: Job) -> None:
    """Write the artefact of `pipeline.merges`, with the losses of all factors."""
    found, losses = rescale(*job.inputs, *(job.params[key] for key in SCOPE))
    merges.save(found, job.outputs[0])
    store.write_csv(job.outputs[0] / "rescale.csv", HEADER, losses)


if __name__ == "__main__":
    STAGE.main(run)
