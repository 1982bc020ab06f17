"""Preview a suite for the report: a few test examples of every task, and the origin of weights and examples."""

from pathlib import Path

from pipeline.models.suite import SuiteFolder
from pipeline.runtime import store

EXAMPLES = 16
"""Examples per task."""


def write_preview(folder: Path, path: Path, origin: Path) -> None:
    """Write the first EXAMPLES test examples of every task, and the suite's provenance."""
    suite = SuiteFolder(folder)
    store.write_arrays(path, {task: suite.preview(task, EXAMPLES) for task in suite.suite.task_names})
    store.write_json(origin, suite.suite.provenance)
