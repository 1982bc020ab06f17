"""What the report shows of a suite: a few test images of every task, and where weights and images came from."""

from pathlib import Path

import numpy as np

from pipeline.models.suite import SuiteFolder
from pipeline.runtime import store

COUNT = 16
"""Images per task."""


def preview(folder: Path, path: Path, origin: Path) -> None:
    """Write the first COUNT test images of every task, uint8 [COUNT, H, W, 3], and the suite's provenance."""
    suite = SuiteFolder(folder)
    store.write_arrays(path, {task: np.array(suite.images("test", task)[:COUNT]) for task in suite.suite.task_names})
    store.write_json(origin, suite.suite.provenance)
