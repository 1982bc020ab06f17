"""Tables, figures and one page from everything that was measured; no number is computed by hand afterwards."""

from pipeline.report import write
from pipeline.results import choose
from pipeline.stage import Job, Stage

STAGE = Stage(
    name="report",
    arguments=(),
    params=("suites", "methods", "report"),
    inputs=(
        *("data/scores", "data/answers", "data/costs", "data/diagnostics", "data/merges"),
        *("data/previews", "data/origins", "data/runs", "pipeline/templates"),
    ),
    outputs=(
        "reports/tables",
        "reports/figures",
        "reports/plots",
        "reports/scores",
        "reports/metrics.json",
        "reports/index.html",
        "reports/records.json",
    ),
    modules=("pipeline.methods.*",),
    recorded=False,
)


def run(job: Job) -> None:
    """Write the outputs that reports/README.md explains."""
    suites, chosen, look = (job.params[key] for key in STAGE.params)
    write(job.inputs, suites, choose(dict(chosen)), look, job.outputs)


if __name__ == "__main__":
    STAGE.main(run)
