"""Collect what the studies of a suite share: scores of zero-shot and experts, titles of methods, clusters."""

from pipeline import methods
from pipeline.report.collect_studies import collect_context
from pipeline.runtime.stage import Job, Stage

STAGE = Stage(
    name="studies.context",
    arguments=("suite",),
    params=(),
    inputs=(
        *("data/scores/{suite}/zeroshot.csv", "data/scores/{suite}/individual.csv"),
        "data/clusters/{suite}.npz",
    ),
    outputs=tuple(
        f"reports/evidence/studies/{{suite}}/{name}" for name in ("scores.csv", "titles.json", "clusters.npz")
    ),
    modules=("pipeline.methods.*",),
    recorded=False,
)


def run(job: Job) -> None:
    """Write the files."""
    *fixed, clusters = job.inputs
    titles = {name: methods.load(name).TITLE for name in methods.names()}
    collect_context(fixed, clusters, titles, job.outputs)


if __name__ == "__main__":
    STAGE.main(run)
