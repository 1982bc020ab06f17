"""Sensitivity: score methods with one knob changed at a time, and data-free merges at other scales."""

from pipeline.methods.samerging import Params
from pipeline.runtime import store
from pipeline.runtime.stage import Job, Stage
from pipeline.steps.calibrate import Setting
from pipeline.studies.sensitivity import COLUMNS, score_knobs, score_scales

BASELINES = ("distillation", "adamerging")
MERGES = ("task_arithmetic", "ties", "dare", "consensus", "pcb", "tsv_m", "iso_c", "iso_cts", "wudi")
SHARED = ("schedule.{suite}", "calibration_split", "precision")
SCOPE = ("samples_per_task", "evaluation_split", "study.sensitivity")
STAGE = Stage(
    name="studies.sensitivity",
    arguments=("suite",),
    params=(*Params.model_fields, *(f"calibrate.{name}" for name in BASELINES), *SHARED, *SCOPE),
    inputs=("data/suites/{suite}", "data/teachers/{suite}", *(f"data/merges/{{suite}}/{name}" for name in MERGES)),
    outputs=("data/studies/{suite}/sensitivity",),
    modules=("pipeline.methods.adamerging", "pipeline.methods.distillation", "pipeline.merges.serving.*"),
    keeps_results=True,
)


def run(job: Job) -> None:
    """Write the scores of every method, knob, value and seed."""
    suite, teachers, *artefacts = job.inputs
    schedule, split, precision = (job.params[key] for key in SHARED)
    methods = {"samerging": Params(**{key: job.params[key] for key in Params.model_fields})}
    methods |= {name: job.params[f"calibrate.{name}"] for name in BASELINES}
    settings = [Setting(suite, teachers, name, params, schedule, split, precision) for name, params in methods.items()]
    samples, scored, study = (job.params[key] for key in SCOPE)
    rows = [*score_knobs(settings, samples, scored, study, job.work)]
    rows += score_scales(suite, artefacts, scored, study, job.work)
    store.write_csv(job.outputs[0] / "rows.csv", COLUMNS, rows)


if __name__ == "__main__":
    STAGE.main(run)
