"""Preview a suite for the report: a few test images of every task, and the origin of weights and images."""

from pathlib import Path

import numpy as np

from pipeline.models.suite import SuiteFolder
from pipeline.runtime import store

IMAGES = 16
"""Images per task."""


def write_preview(folder: Path, path: Path, origin: Path) -> None:
    """Write the first IMAGES test images of every task, uint8 [IMAGES, H, W, 3], and the suite's provenance."""
    suite = SuiteFolder(folder)
    store.write_arrays(path, {task: np.array(suite.images("test", task)[:IMAGES]) for task in suite.suite.task_names})
    store.write_json(origin, suite.suite.provenance)
