"""Language: score the merges of language models as generators, domain by domain."""

from pipeline.runtime import store
from pipeline.runtime.stage import Job, Stage
from pipeline.studies.language import COLUMNS, score_language

METHODS = (
    *("zeroshot", "individual", "average", "task_arithmetic", "ties", "tsv_m"),
    *("adamerging", "expert_merging", "distillation", "samerging"),
)
STAGE = Stage(
    name="studies.language",
    arguments=("suite",),
    params=("evaluation_split", "study.language"),
    inputs=("data/suites/{suite}", *(f"data/merges/{{suite}}/{name}" for name in METHODS)),
    outputs=("data/studies/{suite}/language",),
    keeps_results=True,
)


def run(job: Job) -> None:
    """Write a row per method, seed, domain and text; of a suite of another kind the header alone."""
    suite, *artefacts = job.inputs
    split, study = (job.params[key] for key in STAGE.params)
    store.write_csv(job.outputs[0] / "rows.csv", COLUMNS, score_language(suite, artefacts, split, study, job.work))


if __name__ == "__main__":
    STAGE.main(run)
