"""Render tables, figures and the page from the evidence; no number is computed by hand afterwards."""

from pathlib import Path

from pipeline.report.render import report
from pipeline.runtime.stage import Job, Stage
from pipeline.runtime.store import write_bytes

STAGE = Stage(
    name="render",
    arguments=(),
    params=("suites", "report"),
    inputs=("reports/evidence/suites", "pipeline/report/templates"),
    outputs=("reports/tables", "reports/figures", "reports/plots", "reports/metrics.json", "reports/index.html"),
    modules=("pipeline.report.views.*",),
    recorded=False,
)


def run(job: Job) -> None:
    """Write the outputs that reports/README.md describes."""
    suites, look = (job.params[key] for key in STAGE.params)
    places = {Path(path).name: place for path, place in zip(STAGE.outputs, job.outputs, strict=True)}
    for name, content in report([job.inputs[0] / suite for suite in suites], look).items():
        folder, _, rest = name.partition("/")
        write_bytes(places[folder] / rest, content)


if __name__ == "__main__":
    STAGE.main(run)
