"""Landscape: the loss around the coefficients, and how sharp each method's solution is."""

from pipeline.runtime import store
from pipeline.runtime.stage import Job, Stage
from pipeline.studies.landscape import COEFFICIENT_METHODS, map_landscape

SCOPE = ("seeds", "calibration_split", "temperature", "study.landscape")
STAGE = Stage(
    name="studies.landscape",
    arguments=("suite",),
    params=SCOPE,
    inputs=("data/suites/{suite}", *(f"data/merges/{{suite}}/{name}" for name in COEFFICIENT_METHODS)),
    outputs=("data/studies/{suite}/landscape",),
    keeps_results=True,
)


def run(job: Job) -> None:
    """Write planes, segments and sharpness, a table each."""
    suite, *folders = job.inputs
    artefacts = dict(zip(COEFFICIENT_METHODS, folders, strict=True))
    seeds, split, temperature, study = (job.params[key] for key in SCOPE)
    tables = map_landscape(suite, artefacts, seeds, split, temperature, study, job.work)
    for name, (columns, rows) in tables.items():
        store.write_csv(job.outputs[0] / f"{name}.csv", columns, rows)


if __name__ == "__main__":
    STAGE.main(run)
