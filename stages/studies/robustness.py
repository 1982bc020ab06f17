"""Robustness: score the merges of all tasks on corrupted test images."""

from pipeline.runtime import store
from pipeline.runtime.stage import Job, Stage
from pipeline.studies.robustness import COLUMNS, score_corruptions

METHODS = (
    *("zeroshot", "individual", "average", "task_arithmetic", "ties", "tsv_m"),
    *("adamerging", "distillation", "samerging"),
)
STAGE = Stage(
    name="studies.robustness",
    arguments=("suite",),
    params=("evaluation_split", "study.robustness"),
    inputs=("data/suites/{suite}", *(f"data/merges/{{suite}}/{name}" for name in METHODS)),
    outputs=("data/studies/{suite}/robustness",),
    keeps_results=True,
)


def run(job: Job) -> None:
    """Write the scores of every method under every corruption and severity."""
    suite, *artefacts = job.inputs
    split, study = (job.params[key] for key in STAGE.params)
    store.write_csv(job.outputs[0] / "rows.csv", COLUMNS, score_corruptions(suite, artefacts, split, study, job.work))


if __name__ == "__main__":
    STAGE.main(run)
