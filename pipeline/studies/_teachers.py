"""The experts' logits on images that stage teach did not see, for studies that calibrate on those."""

from pathlib import Path

from pipeline import store
from pipeline.cells import Cells, Form
from pipeline.suite import SuiteFolder
from pipeline.teach import teach

LOGITS = Form(".npy", lambda path, logits: store.write_array(path, logits.numpy()), store.read_array)


def teachers(suite: Path, split: str, folder: Path, cells: Cells) -> Path:
    """Write the experts' logits on a split below `folder`, as stage teach does, and return where."""
    tasks = SuiteFolder(suite).suite.task_names
    logits = cells.run(teach, [(suite, task, split) for task in tasks], f"teachers, {split}", form=LOGITS)
    for task, values in zip(tasks, logits, strict=True):
        store.write_array(folder / split / f"{task}.npy", values)
    return folder / split
