"""The page of a suite's studies, with their figures, tables and rows."""

from pipeline.stage import Job, Stage
from pipeline.studies._report import STUDIES, data, write

FIXED = ("data/scores/{suite}/zeroshot.csv", "data/scores/{suite}/individual.csv")
STAGE = Stage(
    name="studies.report",
    arguments=("suite",),
    params=("report",),
    inputs=(
        *(data(study, "{suite}") for study in STUDIES),
        *(f"data/studies/runs/{study}-{{suite}}.json" for study in STUDIES),
        *FIXED,
        "pipeline/templates",
    ),
    outputs=("reports/studies/{suite}",),
    modules=("pipeline.methods.*", "pipeline.studies.views.*"),
    recorded=False,
)


def run(job: Job) -> None:
    """Write the folder that reports/README.md explains."""
    rows, records = job.inputs[: len(STUDIES)], job.inputs[len(STUDIES) : -len(FIXED) - 1]
    *fixed, templates = job.inputs[-len(FIXED) - 1 :]
    found = dict(zip(STUDIES, rows, strict=True))
    write(found, fixed, records, templates, job.params["report"], job.outputs[0])


if __name__ == "__main__":
    STAGE.main(run)
