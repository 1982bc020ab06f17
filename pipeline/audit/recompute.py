"""Integer counts -> every value that a table shows, in per cent; numpy alone.

For accuracies a [S, T] of S seeds and T tasks, floor and ceiling f, c [T]:

    Average     mean over tasks            Normalised   mean over tasks of a / c
    Worst task  least of the tasks         Gap closed   (mean a - mean f) / (mean c - mean f)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

FLOOR, CEILING = "zeroshot", "individual"
DERIVED = ("Average", "Normalised", "Gap closed", "Worst task")


@dataclass(frozen=True)
class Value:
    """Mean and sample standard deviation (NaN for one run) over `count` runs."""

    mean: float
    deviation: float
    count: int


def odd(scores: pd.DataFrame, tasks: Sequence[str]) -> list[str]:
    """What makes scores impossible: counts beyond totals, other numbers of images, a task twice or never."""
    found = []
    for row in scores[(scores.correct < 0) | (scores.correct > scores.total) | (scores.total < 1)].itertuples():
        found.append(f"{row.method}/{row.task}: {row.correct} of {row.total} correct")
    for task, totals in scores.groupby("task").total:
        if totals.nunique() > 1:
            found.append(f"{task} was scored on {' and '.join(map(str, sorted(totals.unique())))} images")
    for (method, seed), rows in scores.groupby(["method", "seed"]):
        if sorted(rows.task) != sorted(tasks):
            found.append(
                f"{method}, seed {seed}: tasks {', '.join(rows.task)}, expected each of {', '.join(tasks)} once"
            )
    return found


def accuracies(scores: pd.DataFrame, tasks: Sequence[str]) -> dict[str, np.ndarray]:
    """{method: [S, T]}, seeds ascending; `scores` must not be odd."""
    found = {}
    for method, rows in scores.groupby("method", sort=False):
        ordered = rows.assign(place=rows.task.map({task: index for index, task in enumerate(tasks)}))
        ordered = ordered.sort_values(["seed", "place"])
        counts = ordered[["correct", "total"]].to_numpy().reshape(-1, len(tasks), 2)
        found[str(method)] = 100 * counts[..., 0] / counts[..., 1]
    return found


def derive(own: np.ndarray, every: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """{column: [S]} of one method's accuracies [S, T], NaN where undefined; `every` has floor and ceiling."""
    unknown = np.full(own.shape[1], np.nan)
    floor, ceiling = (every[name].mean(0) if name in every else unknown for name in (FLOOR, CEILING))
    span = ceiling.mean() - floor.mean()
    average = own.mean(1)
    return {
        "Average": average,
        "Normalised": 100 * (own / np.where(ceiling > 0, ceiling, np.nan)).mean(1),
        "Gap closed": 100 * (average - floor.mean()) / (span if span > 0 else np.nan),
        "Worst task": own.min(1),
    }


def values(own: np.ndarray, every: Mapping[str, np.ndarray], tasks: Sequence[str]) -> dict[str, Value]:
    """{column: value over seeds} for tasks and derived columns."""
    columns = dict(zip(tasks, own.T, strict=True)) | derive(own, every)
    return {name: over_seeds(column) for name, column in columns.items()}


def over_seeds(column: np.ndarray) -> Value:
    """The value of one column [S]."""
    deviation = float(column.std(ddof=1)) if len(column) > 1 else float("nan")
    return Value(float(column.mean()), deviation, len(column))
