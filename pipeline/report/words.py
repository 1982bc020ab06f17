"""Numbers, differences and their intervals in words, for all views."""

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from pipeline.statistics import accuracy
from pipeline.statistics.contrasts import Contrast, PairedDifference, paired_difference
from pipeline.statistics.intervals import Marks

LIKE, WON = "Tasks like these", "Won : lost"
INTERVALS = "Intervals: over test examples and seeds; tasks like these: over tasks and seeds."
WINS = "Won : lost: tasks whose own interval, over examples and seeds, lies above or below zero."
"""The explanation of the columns LIKE and WON in a table's caption."""
METHOD = "Intervals are of 95 %, of Student's t for paired differences, not adjusted for their number:"
"""How the sentence begins that explains intervals; it goes on with what they are over."""

ZERO = "0"
"""A method whose every value is zero: the difference from it is a mean with its interval."""


def accuracies(rows: pd.DataFrame, columns: Sequence[str], tasks: Sequence[str]) -> pd.DataFrame:
    """Return accuracy in %: a row per (*columns, seed), a column per task; ScoresError unless every run is whole."""
    named = rows.assign(method=rows[list(columns)].astype(str).agg(" ".join, axis=1))
    accuracy.check_scores(named, tasks)
    measured = rows.assign(accuracy=100 * rows.correct / rows.total)
    return measured.pivot(index=[*columns, "seed"], columns="task", values="accuracy")[list(tasks)]


def excludes_zero(difference: PairedDifference) -> bool:
    """Return whether the 95 % interval lies on one side of zero."""
    return difference.low > 0 or difference.high < 0


def interval(difference: PairedDifference, decimals: int, sign: str = "+") -> str:
    """`+0.12 [-0.03, +0.27]`; sign: "" for values that are no differences."""
    return f"{difference.mean:{sign}.{decimals}f} {edges(difference, decimals, sign)}"


def edges(difference: PairedDifference, decimals: int, sign: str = "+") -> str:
    """`[-0.03, +0.27]`."""
    return f"[{difference.low:{sign}.{decimals}f}, {difference.high:{sign}.{decimals}f}]"


def stated(difference: PairedDifference, decimals: int, unit: str = " points") -> str:
    """`+0.12 points [-0.03, +0.27], which includes zero`."""
    verb = "excludes" if excludes_zero(difference) else "includes"
    return f"{difference.mean:+.{decimals}f}{unit} {edges(difference, decimals)}, which {verb} zero"


def further(contrast: Contrast, decimals: int) -> dict[str, str]:
    """Return the cells that follow a difference in a table, see INTERVALS and WINS."""
    return {LIKE: edges(contrast.like, decimals), WON: f"{contrast.won} : {contrast.lost}"}


def spread(values: pd.Series, decimals: int) -> str:
    """`87.5 ± 0.1`: mean and sample standard deviation; the mean alone if there is one value."""
    return f"{values.mean():.{decimals}f}" + (f" ± {values.std():.{decimals}f}" if len(values) > 1 else "")


def count(number: int, thing: str) -> str:
    """`3 seeds`, `1 seed`."""
    return f"{number:,} {thing}{'s' * (number != 1)}"


def tested(marks: Marks[Any]) -> str:
    """`7,449 test examples, clusters of them on 6 of 8 tasks`; without the latter where all are independent."""
    clustered = f", clusters of them on {marks.clustered} of {count(len(marks.clusters), 'task')}"
    return f"{count(marks.count, 'test example')}{clustered if marks.clustered else ''}"


def basis(contrast: Contrast) -> str:
    """Explain the intervals of a view in one sentence."""
    seeds, tasks = count(contrast.these.seeds, "seed"), count(contrast.these.tasks, "task")
    more = f" and {seeds}" if contrast.these.seeds > 1 else f" ({seeds})"
    return (
        f"{METHOD} over the {count(contrast.examples, 'test example')} of these {tasks}{more} or, where tasks like "
        f"these are named, over the {tasks}{more}."
    )


def percentages(rows: pd.DataFrame) -> pd.DataFrame:
    """Add `accuracy` in per cent to scores, and -1 for the seed of a method without randomness."""
    return rows.assign(seed=rows.seed.fillna(-1).astype("int64"), accuracy=100 * rows.correct / rows.total)


def side_by_side(values: pd.DataFrame, column: str, value: str) -> pd.DataFrame:
    """Average `value`: a row per method and seed (-1: no randomness), ZERO among them; a column per `column`."""
    wide = values.pivot_table(value, ["method", "seed"], column)
    zero = pd.DataFrame(0.0, pd.MultiIndex.from_tuples([(ZERO, -1)], names=wide.index.names), wide.columns)
    return pd.concat([wide, zero])


def compare(table: pd.DataFrame, method: str, other: str) -> PairedDifference:
    """Return `method` minus `other` in a table of `side_by_side`, over its columns.

    A method without randomness is repeated for every seed of the other; a pair without any has one seed.
    """
    pair = {name: table.loc[name] for name in (method, other)}
    seeds = sorted({seed for rows in pair.values() for seed in rows.index if seed >= 0}) or [-1]
    aligned = {
        name: rows.loc[[-1] * len(seeds)].set_axis(seeds) if -1 in rows.index else rows for name, rows in pair.items()
    }
    return paired_difference(pd.concat(aligned), table.columns.tolist(), method, other)


def differs(difference: PairedDifference, decimals: int, things: str = "task") -> str:
    """State a difference in points, its interval, its n, and whether the interval excludes zero; things: columns."""
    amount = f"{difference.mean:+.{decimals}f} points"
    n = f"(n = {count(difference.seeds, 'seed')} x {count(difference.tasks, things)})"
    if not math.isfinite(difference.low):
        return f"{amount}, no interval {n}"
    verb = "excludes" if excludes_zero(difference) else "includes"
    return f"{amount}, 95 % interval {edges(difference, decimals)}, which {verb} zero {n}"


def listed(parts: Sequence[str]) -> str:
    """'a, b and c'."""
    return " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))
