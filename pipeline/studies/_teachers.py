"""Teacher logits on splits that stage teach does not cover, for studies that calibrate on those."""

from pathlib import Path

from pipeline.models.suite import SuiteFolder
from pipeline.runtime import store
from pipeline.runtime.resumable import Form, Resumable
from pipeline.steps.teach import compute_teacher_logits

LOGITS = Form(".npy", lambda path, logits: store.write_array(path, logits.numpy()), store.read_array)


def write_teachers(suite: Path, split: str, folder: Path, work: Resumable) -> Path:
    """Write the experts' logits on a split as stage teach does; return their folder, `folder`/`split`."""
    tasks = SuiteFolder(suite).suite.task_names
    logits = work.run(
        compute_teacher_logits, [(suite, task, split) for task in tasks], f"teachers, {split}", form=LOGITS
    )
    for task, values in zip(tasks, logits, strict=True):
        store.write_array(folder / split / f"{task}.npy", values)
    return folder / split
