"""Collect the rows of a study and its run record into files that Git keeps."""

from pipeline.report.collect_studies import collect_study
from pipeline.runtime.stage import Job, Stage

STAGE = Stage(
    name="studies.collect",
    arguments=("suite", "study"),
    params=(),
    inputs=("data/studies/{suite}/{study}", "data/studies/runs/{study}-{suite}.json"),
    outputs=("reports/evidence/studies/{suite}/{study}",),
    recorded=False,
)


def run(job: Job) -> None:
    """Write the folder of the study."""
    rows, record = job.inputs
    collect_study(rows, record, job.outputs[0])


if __name__ == "__main__":
    STAGE.main(run)
