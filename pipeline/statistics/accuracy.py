"""Accuracies from counts of correct answers, and the values that the tables derive from them.

All values are in per cent. For the accuracies a_t of T tasks in one run (a method and a seed):

    Average     mean_t a_t
    Normalised  mean_t a_t / a_t(expert of t)
    Gap closed  (Average - Average of zero-shot) / (Average of the experts - Average of zero-shot)
    Worst task  min_t a_t

A mean over seeds comes with its sample standard deviation and its number of seeds. No mean skips missing values: one
undefined quotient makes the whole value undefined.
"""

import io
from collections.abc import Hashable, Sequence
from typing import cast

import numpy as np
import pandas as pd

from pipeline.runtime.errors import BenchmarkError

FLOOR, CEILING = "zeroshot", "individual"
MAIN, TWIN, ENTROPY = "samerging", "distillation", "adamerging"
AVERAGE, NORMALISED, GAP, WORST = "Average", "Normalised", "Gap closed", "Worst task"
COLUMNS = ("suite", "method", "task", "seed", "samples", "correct", "total")
TYPES = {"suite": "str", "method": "str", "task": "str", "seed": "Int64"} | dict.fromkeys(COLUMNS[4:], "int64")


class ScoresError(BenchmarkError):
    """Scores are incomplete or inconsistent."""


def parse_scores(text: str, source: object, extra: Sequence[str] = ()) -> pd.DataFrame:
    """Parse the scores of one CSV file.

    extra: integer columns that precede COLUMNS; source: what a ScoresError names as the file.
    """
    types: dict[Hashable, str] = {**TYPES, **dict.fromkeys(extra, "int64")}
    try:
        frame = pd.read_csv(io.StringIO(text), dtype=types, keep_default_na=False, na_values={"seed": [""]})
    except (ValueError, TypeError, OverflowError) as error:
        raise ScoresError(f"{source}: not a table of scores ({error}); `dvc repro` writes it again") from error
    if list(frame) != [*extra, *COLUMNS]:
        raise ScoresError(f"{source}: columns {', '.join(map(str, frame))}, expected {', '.join((*extra, *COLUMNS))}")
    return frame


def check_scores(frame: pd.DataFrame, tasks: Sequence[str]) -> None:
    """Check that every run has every task once, with possible counts and the same examples for all methods.

    Raises ScoresError.
    """
    for row in frame[(frame.total <= 0) | (frame.correct < 0) | (frame.correct > frame.total)].itertuples():
        raise ScoresError(f"{row.suite}/{row.method}: {row.correct} of {row.total} correct on {row.task}")
    for task, totals in frame.groupby("task").total:
        if totals.nunique() > 1:
            sizes = ", ".join(str(total) for total in sorted(totals.unique()))
            raise ScoresError(
                f"{frame.suite.iloc[0]}: methods were scored on different numbers of {task} examples: {sizes}"
            )
    for run, rows in frame.groupby([*_budget(frame), "suite", "method", "seed"], dropna=False):
        if sorted(rows.task) != sorted(tasks):
            name = " ".join(str(part) for part in run)
            raise ScoresError(f"scores of {name}: tasks {', '.join(rows.task)}; expected {', '.join(tasks)}, each once")


def tabulate_runs(frame: pd.DataFrame, tasks: Sequence[str], main: pd.DataFrame | None = None) -> pd.DataFrame:
    """Tabulate accuracies in per cent: a row per run, a column per task and derived value.

    Rows are indexed by (k,) method and seed, -1 for a method without randomness. Floor and ceiling are taken from
    `main`, by default from `frame` itself. Raises ScoresError.
    """
    check_scores(frame, tasks)
    named = frame.assign(seed=frame.seed.fillna(-1).astype("int64"), accuracy=100 * frame.correct / frame.total)
    wide = named.pivot(index=[*_budget(frame), "method", "seed"], columns="task", values="accuracy")[list(tasks)]
    wide.columns.name = None
    low, high = (_reference(wide if main is None else main, name, tasks) for name in (FLOOR, CEILING))
    span = high.mean(skipna=False) - low.mean(skipna=False)
    average = wide.mean(axis=1)
    return wide.assign(
        **{
            AVERAGE: average,
            NORMALISED: (100 * wide / high.where(high > 0)).mean(axis=1, skipna=False),
            GAP: 100 * (average - low.mean(skipna=False)) / (span if span > 0 else np.nan),
            WORST: wide.min(axis=1),
        }
    )


def _budget(frame: pd.DataFrame) -> list[str]:
    return [name for name in ("k",) if name in frame]


def _reference(wide: pd.DataFrame, method: str, tasks: Sequence[str]) -> pd.Series:
    """Return the accuracies of the floor or the ceiling, NaN if that method was not run."""
    if method not in wide.index.get_level_values("method"):
        return pd.Series(np.nan, index=list(tasks))
    return cast("pd.DataFrame", wide.xs(method, level="method"))[list(tasks)].mean()
