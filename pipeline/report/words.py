"""Numbers, differences and their intervals in words: what views share."""

import math
from collections.abc import Sequence

import pandas as pd

from pipeline.statistics import accuracy
from pipeline.statistics.contrasts import RESAMPLES, Contrast, Difference, difference

LIKE, WON = "Tasks like these", "Won : lost"
INTERVALS = "Intervals: test images and seeds are drawn; tasks like these: tasks and seeds."
WINS = "Won : lost: tasks whose own interval, over images and seeds, lies above or below zero."
"""What a table's caption says of the columns LIKE and WON."""

ZERO = "0"
"""A method whose every value is zero: the difference from it is a mean with its interval."""


def accuracies(rows: pd.DataFrame, columns: Sequence[str], tasks: Sequence[str]) -> pd.DataFrame:
    """Accuracy in per cent: a row per (*columns, seed), a column per task; ScoresError unless every run is whole."""
    named = rows.assign(method=rows[list(columns)].astype(str).agg(" ".join, axis=1))
    accuracy.check(named, tasks)
    measured = rows.assign(accuracy=100 * rows.correct / rows.total)
    return measured.pivot(index=[*columns, "seed"], columns="task", values="accuracy")[list(tasks)]


def excludes_zero(found: Difference) -> bool:
    """Whether the 95 % interval lies on one side of zero."""
    return found.low > 0 or found.high < 0


def interval(found: Difference, decimals: int, sign: str = "+") -> str:
    """`+0.12 [-0.03, +0.27]`; without a sign for what is no difference."""
    return f"{found.mean:{sign}.{decimals}f} {edges(found, decimals, sign)}"


def edges(found: Difference, decimals: int, sign: str = "+") -> str:
    """`[-0.03, +0.27]`."""
    return f"[{found.low:{sign}.{decimals}f}, {found.high:{sign}.{decimals}f}]"


def stated(found: Difference, decimals: int, unit: str = " points") -> str:
    """`+0.12 points [-0.03, +0.27], which includes zero`."""
    verb = "excludes" if excludes_zero(found) else "includes"
    return f"{found.mean:+.{decimals}f}{unit} {edges(found, decimals)}, which {verb} zero"


def further(found: Contrast, decimals: int) -> dict[str, str]:
    """What a table has beside a difference, see INTERVALS and WINS."""
    return {LIKE: edges(found.like, decimals), WON: f"{found.won} : {found.lost}"}


def spread(values: pd.Series, decimals: int) -> str:
    """`87.5 ± 0.1`: mean and sample standard deviation; the mean alone if there is one value."""
    return f"{values.mean():.{decimals}f}" + (f" ± {values.std():.{decimals}f}" if len(values) > 1 else "")


def count(number: int, thing: str) -> str:
    """`3 seeds`, `1 seed`."""
    return f"{number:,} {thing}{'s' * (number != 1)}"


def basis(found: Contrast) -> str:
    """What the intervals of a view are, in one sentence."""
    seeds, tasks = count(found.these.seeds, "seed"), count(found.these.tasks, "task")
    drawn = f" and {seeds}" if found.these.seeds > 1 else f" ({seeds})"
    return (
        f"Intervals are of 95 %, of {RESAMPLES:,} bootstrap draws of the paired differences, not adjusted for their "
        f"number: over the {count(found.images, 'test image')} of these {tasks}{drawn} or, where tasks like these are "
        f"named, over the {tasks}{drawn}; with few seeds they are rough and, if anything, too narrow."
    )


def percentages(rows: pd.DataFrame) -> pd.DataFrame:
    """Scores with `accuracy` in per cent, and -1 for the seed of a method without randomness."""
    return rows.assign(seed=rows.seed.fillna(-1).astype("int64"), accuracy=100 * rows.correct / rows.total)


def side_by_side(values: pd.DataFrame, column: str, value: str) -> pd.DataFrame:
    """Means of `value`: a row per method and seed (-1: no randomness), ZERO among them; a column per `column`."""
    wide = values.pivot_table(value, ["method", "seed"], column)
    zero = pd.DataFrame(0.0, pd.MultiIndex.from_tuples([(ZERO, -1)], names=wide.index.names), wide.columns)
    return pd.concat([wide, zero])


def compare(table: pd.DataFrame, method: str, other: str) -> Difference:
    """`method` minus `other` in a table of `side_by_side`, over its columns.

    What has no randomness is the same beside every seed of the other; a pair without any has one seed.
    """
    pair = {name: table.loc[name] for name in (method, other)}
    seeds = sorted({seed for rows in pair.values() for seed in rows.index if seed >= 0}) or [-1]
    beside = {
        name: rows.loc[[-1] * len(seeds)].set_axis(seeds) if -1 in rows.index else rows for name, rows in pair.items()
    }
    return difference(pd.concat(beside), [*table], method, other)


def differs(found: Difference, decimals: int, things: str = "task") -> str:
    """The difference in points with its interval, its n, and whether the interval excludes zero; `things`: columns."""
    amount = f"{found.mean:+.{decimals}f} points"
    n = f"(n = {count(found.seeds, 'seed')} x {count(found.tasks, things)})"
    if not math.isfinite(found.low):
        return f"{amount}, one run, which has no interval {n}"
    verb = "excludes" if excludes_zero(found) else "includes"
    return f"{amount}, 95 % interval {edges(found, decimals)}, which {verb} zero {n}"


def listed(parts: Sequence[str]) -> str:
    """'a, b and c'."""
    return " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))
