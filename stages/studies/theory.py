"""Theory: measurable surrogates of what bounds the risk of a merge, beside the risk itself."""

from pipeline.methods.samerging import Params
from pipeline.runtime import store
from pipeline.runtime.stage import Job, Stage
from pipeline.steps.calibrate import Setting
from pipeline.studies._teachers import write_teachers
from pipeline.studies.theory import UNSEEN, measure_theory

FREE = tuple(f"merge.{name}" for name in ("average", "task_arithmetic", "ties", "tsv_m"))
BASELINES = tuple(f"calibrate.{name}" for name in ("adamerging", "distillation"))
SHARED = ("schedule.{suite}", "calibration_split", "precision")
STAGE = Stage(
    name="studies.theory",
    arguments=("suite",),
    params=(*Params.model_fields, *FREE, *BASELINES, *SHARED, "samples_per_task", "study.theory"),
    inputs=("data/suites/{suite}", "data/teachers/{suite}"),
    outputs=("data/studies/{suite}/theory",),
    modules=tuple(f"pipeline.methods.{key.partition('.')[2]}" for key in (*FREE, *BASELINES)),
    keeps_results=True,
)


def run(job: Job) -> None:
    """Write chain, bounds, expansions, slopes, transfer and correlations, a table each."""
    suite, teachers = job.inputs
    methods = {key.partition(".")[2]: job.params[key] for key in (*FREE, *BASELINES)}
    methods["samerging"] = Params(**{key: job.params[key] for key in Params.model_fields})
    schedule, split, precision = (job.params[key] for key in SHARED)
    settings = {name: Setting(suite, teachers, name, own, schedule, split, precision) for name, own in methods.items()}
    study, samples, temperature = (job.params[key] for key in ("study.theory", "samples_per_task", "temperature"))
    scratch = job.outputs[0].parent  # removed when the stage ends
    unseen = write_teachers(suite, UNSEEN, scratch, job.work)
    tables = measure_theory(settings, unseen, temperature, samples, study, job.work)
    for name, (columns, rows) in tables.items():
        store.write_csv(job.outputs[0] / f"{name}.csv", columns, rows)


if __name__ == "__main__":
    STAGE.main(run)
