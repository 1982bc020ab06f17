"""Collect the rows of a suite's studies and of the methods they are compared with, into files that Git keeps."""

from pipeline.report.collect import collect_studies
from pipeline.report.evidence import STUDIES, rows_path
from pipeline.runtime.stage import Job, Stage

FIXED = ("data/scores/{suite}/zeroshot.csv", "data/scores/{suite}/individual.csv")
STAGE = Stage(
    name="studies.collect",
    arguments=("suite",),
    params=(),
    inputs=(
        *(rows_path(study, "{suite}") for study in STUDIES),
        *(f"data/studies/runs/{study}-{{suite}}.json" for study in STUDIES),
        *FIXED,
    ),
    outputs=("reports/evidence/studies/{suite}",),
    modules=("pipeline.methods.*",),
    recorded=False,
)


def run(job: Job) -> None:
    """Write the files that `pipeline.report.collect` describes."""
    rows, records = job.inputs[: len(STUDIES)], job.inputs[len(STUDIES) : -len(FIXED)]
    collect_studies(dict(zip(STUDIES, rows, strict=True)), job.inputs[-len(FIXED) :], records, job.outputs[0])


if __name__ == "__main__":
    STAGE.main(run)
