"""Render the page of a suite's studies, with their figures and tables."""

from pipeline.report.render import studies_report
from pipeline.runtime.stage import Job, Stage
from pipeline.runtime.store import write_bytes

STAGE = Stage(
    name="studies.render",
    arguments=("suite",),
    params=("report", "studies"),
    inputs=("reports/evidence/studies/{suite}", "pipeline/report/templates"),
    outputs=("reports/studies/{suite}",),
    modules=("pipeline.report.studies.*",),
    recorded=False,
)


def run(job: Job) -> None:
    """Write the folder that reports/README.md describes."""
    look, chosen = (job.params[key] for key in STAGE.params)
    for name, content in studies_report(job.inputs[0], look, chosen).items():
        write_bytes(job.outputs[0] / name, content)


if __name__ == "__main__":
    STAGE.main(run)
