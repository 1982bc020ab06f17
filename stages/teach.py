"""Compute every expert's logits on the calibration pool of its own task: the teachers of distillation."""

from pipeline.models.suite import SuiteFolder
from pipeline.runtime import store
from pipeline.runtime.parallel import run_all
from pipeline.runtime.stage import Job, Stage
from pipeline.steps.teach import compute_teacher_logits

STAGE = Stage(
    name="teach",
    arguments=("suite",),
    params=("calibration_split",),
    inputs=("data/suites/{suite}",),
    outputs=("data/teachers/{suite}",),
)


def run(job: Job) -> None:
    """Write <task>.npy, float32 [pool, classes], for every task."""
    folder, split = job.inputs[0], job.params["calibration_split"]
    tasks = SuiteFolder(folder).suite.task_names
    logits = run_all(compute_teacher_logits, [(folder, task, split) for task in tasks], "teachers")
    for task, values in zip(tasks, logits, strict=True):
        store.write_array(job.outputs[0] / f"{task}.npy", values.numpy())


if __name__ == "__main__":
    STAGE.main(run)
