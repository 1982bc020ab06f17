"""What the report needs of a suite: a few test examples, the origin of weights and examples, and their clusters."""

from pathlib import Path

from pipeline.models.suite import SPLITS, SuiteFolder
from pipeline.runtime import store

EXAMPLES = {"images": 16, "texts": 3}
"""Examples per task; of texts, which nobody may have licensed, no more than the report quotes."""


def write_preview(folder: Path, path: Path, origin: Path, clusters: Path) -> None:
    """Write the first EXAMPLES test examples of every task, the suite's provenance, and {split/task: clusters}.

    Only splits that are not for training have clusters, and only tasks whose examples are not independent.
    """
    suite = SuiteFolder(folder)
    count, tasks = EXAMPLES[suite.suite.encoder().kind], suite.suite.task_names
    store.write_arrays(path, {task: suite.preview(task, count) for task in tasks})
    store.write_json(origin, suite.suite.provenance)
    parts = {f"{split}/{task}": suite.clusters(split, task) for split in SPLITS[1:] for task in tasks}
    store.write_arrays(clusters, {name: part for name, part in parts.items() if part is not None}, compress=True)
