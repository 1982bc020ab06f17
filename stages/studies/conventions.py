"""Conventions: merge with q, k and v split and fused, with positions averaged and decomposed, and score each."""

from pipeline.runtime import store
from pipeline.runtime.stage import Job, Stage
from pipeline.steps.calibrate import Setting
from pipeline.studies.conventions import COLUMNS, score_conventions

FREE = tuple(f"merge.{name}" for name in ("iso_c", "iso_cts", "tsv_m", "wudi", "opcm", "ace", "dc_merge", "do_merging"))
SHARED = ("calibrate.esm", "schedule.{suite}", "calibration_split", "precision")
GRID = ("study.conventions", "samples_per_task", "seeds", "evaluation_split")
STAGE = Stage(
    name="studies.conventions",
    arguments=("suite",),
    params=(*FREE, *SHARED, *GRID),
    inputs=("data/suites/{suite}", "data/teachers/{suite}"),
    outputs=("data/studies/{suite}/conventions",),
    modules=tuple(f"pipeline.methods.{key.partition('.')[2]}" for key in (*FREE, "calibrate.esm")),
    keeps_results=True,
)


def run(job: Job) -> None:
    """Write the scores of every method, convention and seed."""
    suite, teachers = job.inputs
    data_free = {key.partition(".")[2]: job.params[key] for key in FREE}
    params, schedule, split, precision = (job.params[key] for key in SHARED)
    esm = Setting(suite, teachers, "esm", params, schedule, split, precision)
    study, samples, seeds, scored = (job.params[key] for key in GRID)
    rows = score_conventions(data_free, esm, study, samples, seeds, scored, job.work)
    store.write_csv(job.outputs[0] / "rows.csv", COLUMNS, rows)


if __name__ == "__main__":
    STAGE.main(run)
