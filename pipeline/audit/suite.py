"""What several checks read of one suite; every file is read once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from pipeline.audit.repository import EVIDENCE, SCORES, Repository, RepositoryError
from pipeline.audit.rows import read_rows

TABLES = {"clip": "pipeline/suites/tables/tasks.csv", "glue": "pipeline/suites/tables/glue.csv"}
"""Family of public suites -> the table of its tasks."""


@dataclass(frozen=True)
class AuditedSuite:
    """The files of a suite by what they mean; None where a file is missing."""

    repository: Repository
    name: str

    @property
    def evidence(self) -> str:
        """The folder of its evidence."""
        return f"{EVIDENCE}/suites/{self.name}"

    @cached_property
    def definition(self) -> dict[str, Any]:
        """The content of its YAML file."""
        return self.repository.yaml(f"pipeline/suites/{self.name}.yaml")

    @cached_property
    def tasks(self) -> tuple[str, ...]:
        """The names of its tasks, in order."""
        entries = self.definition["tasks"]
        return tuple(entry if isinstance(entry, str) else entry["name"] for entry in entries)

    @cached_property
    def public_tasks(self) -> dict[str, dict[str, str]]:
        """{task: its row of the table, which has the published numbers}; empty if there is no table."""
        table = TABLES.get(self.definition["family"])
        return {row["task"]: row for row in (table and self.repository.rows(table)) or ()}

    @cached_property
    def scores(self) -> pd.DataFrame | None:
        """The integer scores: SCORES, seed -1 without randomness; RepositoryError if a count is no whole number."""
        path = f"{self.evidence}/scores.csv"
        read = self.repository.table
        paths = [path] if self.repository.text(path) else self.repository.names(f"data/scores/{self.name}", ".csv")
        tables = [table for path in paths if (table := read(path)) is not None and {*SCORES} <= {*table}]
        if not tables:
            return None
        try:
            return read_rows(pd.concat(tables, ignore_index=True)[[*SCORES]])
        except ValueError as error:
            raise RepositoryError(f"{paths[0]}: counts must be whole numbers ({error}); run dvc repro") from error

    @cached_property
    def answers(self) -> Mapping[str, np.ndarray] | None:
        """{method/task: bits [S, n / 8], 1 for examples that were answered rightly}."""
        return self.repository.arrays(f"{self.evidence}/answers.npz")

    def clusters(self, folder: str, tasks: Sequence[str]) -> list[np.ndarray | None]:
        """Return the clusters of the scored examples [n, 1 + C] per task, None where all are independent.

        folder: that of the evidence of the suite or of its studies.
        """
        path = f"{folder}/clusters.npz"
        arrays = self.repository.arrays(path) or {}
        split = self.repository.params["evaluation_split"] if arrays else None
        totals = {} if self.scores is None else dict(zip(self.scores.task, self.scores.total, strict=True))
        clusters = {task: arrays.get(f"{split}/{task}") for task in tasks}
        for task, part in clusters.items():
            if part is not None and (part.ndim != 2 or len(part) != totals.get(task, len(part))):
                raise RepositoryError(
                    f"{path}: clusters of {task} have shape {part.shape}, {totals.get(task)} were scored"
                )
        return [*clusters.values()]

    @cached_property
    def table(self) -> list[dict[str, str]] | None:
        """The rows of reports/tables/<suite>.csv."""
        return self.repository.rows(f"reports/tables/{self.name}.csv")

    @cached_property
    def caption(self) -> str:
        """reports/tables/<suite>.md: the table with its caption; empty if there is none."""
        return self.repository.text(f"reports/tables/{self.name}.md") or ""

    def examples(self, split: str, task: str) -> np.ndarray | None:
        """The examples of a task: images uint8 [N, H, W, 3], or texts int32 [N, L]."""
        places = (f"data/suites/{self.name}/{kind}/{split}/{task}.npy" for kind in ("images", "texts"))
        return next((array for place in places if (array := self.repository.array(place)) is not None), None)

    def labels(self, split: str, task: str) -> np.ndarray | None:
        """The labels of a task [N]."""
        return self.repository.array(f"data/suites/{self.name}/labels/{split}/{task}.npy")
