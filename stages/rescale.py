"""Rescale a merge without labels: multiply its delta by the factor at which it agrees most with the experts."""

from pipeline.merges import storage
from pipeline.runtime import store
from pipeline.runtime.stage import Job, Stage
from pipeline.steps.rescale import FACTOR_COLUMNS, rescale

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
    suite, teachers, artefact = job.inputs
    split, seeds, params = (job.params[key] for key in SCOPE)
    merges, losses = rescale(suite, teachers, artefact, split, seeds, params)
    storage.save(merges, job.outputs[0])
    store.write_csv(job.outputs[0] / "rescale.csv", FACTOR_COLUMNS, losses)


if __name__ == "__main__":
    STAGE.main(run)
