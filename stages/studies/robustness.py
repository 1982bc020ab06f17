"""Robustness: the merges of all tasks on corrupted test images."""

from pipeline.runtime import store
from pipeline.runtime.stage import Job, Stage
from pipeline.studies.robustness import COLUMNS, measure

METHODS = (
    *("zeroshot", "individual", "average", "task_arithmetic", "ties", "tsv_m"),
    *("adamerging", "distillation", "samerging"),
)
STAGE = Stage(
    name="studies.robustness",
    arguments=("suite",),
    params=("evaluation_split", "study.robustness"),
    inputs=("data/suites/{suite}", *(f"data/merges/{{suite}}/{name}" for name in METHODS)),
    outputs=("data/studies/{suite}/robustness.csv",),
    keeps_results=True,
)


def run(job: Job) -> None:
    """Write the scores of every method under every corruption and severity."""
    folder, *artefacts = job.inputs
    rows = measure(folder, artefacts, *(job.params[key] for key in STAGE.params), job.work)
    store.write_csv(job.outputs[0], COLUMNS, rows)


if __name__ == "__main__":
    STAGE.main(run)
