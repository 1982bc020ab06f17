"""Preview a suite for the report: a few test examples of every task, and the origin of weights and examples."""

from pathlib import Path

from pipeline.models.suite import SuiteFolder
from pipeline.runtime import store

EXAMPLES = {"images": 16, "texts": 3}
"""Examples per task; of texts, which nobody may have licensed, no more than the report quotes."""


def write_preview(folder: Path, path: Path, origin: Path) -> None:
    """Write the first EXAMPLES test examples of every task, and the suite's provenance."""
    suite = SuiteFolder(folder)
    count = EXAMPLES[suite.suite.encoder().kind]
    store.write_arrays(path, {task: suite.preview(task, count) for task in suite.suite.task_names})
    store.write_json(origin, suite.suite.provenance)
