"""Collect what the studies of a suite share: the scores of zero-shot and of the experts, and the titles of methods."""

from pipeline import methods
from pipeline.report.collect_studies import collect_context
from pipeline.runtime.stage import Job, Stage

STAGE = Stage(
    name="studies.context",
    arguments=("suite",),
    params=(),
    inputs=("data/scores/{suite}/zeroshot.csv", "data/scores/{suite}/individual.csv"),
    outputs=("reports/evidence/studies/{suite}/scores.csv", "reports/evidence/studies/{suite}/titles.json"),
    modules=("pipeline.methods.*",),
    recorded=False,
)


def run(job: Job) -> None:
    """Write both files."""
    scores, names = job.outputs
    collect_context(job.inputs, {name: methods.load(name).TITLE for name in methods.names()}, scores, names)


if __name__ == "__main__":
    STAGE.main(run)
