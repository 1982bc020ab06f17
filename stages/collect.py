"""Collect everything that the report needs, from data/ into files that Git keeps."""

from pipeline.report.collect import collect
from pipeline.report.evidence import choose_methods
from pipeline.runtime.stage import Job, Stage

STAGE = Stage(
    name="collect",
    arguments=("suite",),
    params=("methods",),
    inputs=(
        *(f"data/{folder}/{{suite}}" for folder in ("scores", "answers", "costs", "diagnostics", "merges")),
        *("data/previews/{suite}.npz", "data/clusters/{suite}.npz", "data/origins/{suite}.json", "data/runs"),
    ),
    outputs=("reports/evidence/suites/{suite}",),
    modules=("pipeline.methods.*",),
    recorded=False,
)


def run(job: Job) -> None:
    """Write the files that `pipeline.report.evidence` describes."""
    collect(job.inputs, job.names["suite"], choose_methods(dict(job.params["methods"])), job.outputs[0])


if __name__ == "__main__":
    STAGE.main(run)
