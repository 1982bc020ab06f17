"""What the integer scores of a suite say: what everything printed is held against."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from pipeline.audit import recompute
from pipeline.audit.evidence import Evidence
from pipeline.audit.recompute import Value

MAIN = "samerging"
RESCALED = "-rescaled"


@dataclass(frozen=True)
class Known:
    """What the scores of a suite say."""

    suite: str
    tasks: tuple[str, ...]
    accuracies: Mapping[str, np.ndarray]
    """{method: [S, T]}, in per cent."""
    seeds: Mapping[str, tuple[int, ...]]
    values: Mapping[str, Mapping[str, Value]]
    """{method: {column: value}}."""
    samples: Mapping[str, int]
    """Most unlabelled images per task that a method used."""
    totals: Mapping[str, int]
    """{task: images that were scored}."""
    titles: Mapping[str, str]
    """{title: method} of the suite's table."""
    data_free: tuple[str, ...]
    """Methods of the section of that name."""
    costs: Mapping[str, Mapping[str, Any]]


def know(evidence: Evidence, suite: str, tasks: tuple[str, ...], scores: pd.DataFrame) -> Known:
    """What integer scores, titles and costs say of a suite."""
    every = recompute.accuracies(scores, tasks)
    table = evidence.table(f"reports/tables/{suite}.csv")
    listed = [] if table is None else [*zip(table.title, table.method, table.group, strict=True)]
    costs = {
        path.rpartition("/")[2][:-5]: evidence.json(path) for path in evidence.names(f"data/costs/{suite}", ".json")
    }
    return Known(
        suite=suite,
        tasks=tasks,
        accuracies=every,
        seeds={str(name): tuple(sorted({*rows.seed})) for name, rows in scores.groupby("method")},
        values={name: recompute.values(own, every, tasks) for name, own in every.items()},
        samples={str(name): int(rows.samples.max()) for name, rows in scores.groupby("method")},
        totals={str(task): int(rows.total.iloc[0]) for task, rows in scores.groupby("task")},
        titles={title: method for title, method, _ in listed},
        data_free=tuple(method for _, method, group in listed if group == "Data-free"),
        costs=costs,
    )


def title_of(evidence: Evidence, method: str) -> str | None:
    """TITLE of the method's file, which dvc.lock holds the hash of; None if it is not at hand."""
    name = method.removeprefix("surgery-")
    text = evidence.text(f"pipeline/methods/{name}.py")
    found = re.search(r'^TITLE = "(.*)"$', text or "", re.MULTILINE)
    if found is None:
        return None
    return found[1] if name == method else f"Surgery on {found[1]}"
