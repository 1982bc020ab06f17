"""A few test images of every task, for the report's contact sheet."""

from pathlib import Path

import numpy as np

from pipeline import store
from pipeline.suite import SuiteFolder

COUNT = 16
"""Images per task."""


def preview(folder: Path, path: Path) -> None:
    """Write the first COUNT test images of every task as one array per task: uint8 [COUNT, H, W, 3]."""
    suite = SuiteFolder(folder)
    store.write_arrays(path, {task: np.array(suite.images("test", task)[:COUNT]) for task in suite.suite.task_names})
