"""Apply Representation Surgery to a merge: per task a low-rank correction of its features, learned without labels."""

from pipeline.merges import storage
from pipeline.runtime.stage import Job, Stage
from pipeline.steps.surgery import apply_surgery

SCOPE = ("calibration_split", "samples_per_task", "seeds", "surgery")
STAGE = Stage(
    name="surgery",
    arguments=("suite", "on"),
    params=SCOPE,
    inputs=("data/suites/{suite}", "data/merges/{suite}/{on}"),
    outputs=("data/merges/{suite}/surgery-{on}",),
)


def run(job: Job) -> None:
    """Write the artefact of `pipeline.merges.storage`."""
    suite, artefact = job.inputs
    split, samples, seeds, params = (job.params[key] for key in SCOPE)
    storage.save(apply_surgery(suite, artefact, split, samples, seeds, params), job.outputs[0])


if __name__ == "__main__":
    STAGE.main(run)
