"""What the views of studies share: methods side by side in the same runs, and differences in words."""

import math
from collections.abc import Sequence

import pandas as pd

from pipeline.paired import Difference, difference

ZERO = "0"
"""A method whose every value is zero: the difference from it is a mean with its interval."""


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


def counted(number: int, thing: str) -> str:
    """'1 seed', '3 seeds', '1,200 images'."""
    return f"{number:,} {thing}{'s' * (number != 1)}"


def differs(found: Difference, decimals: int, things: str = "task") -> str:
    """The difference in points with its interval, its n, and whether the interval excludes zero; `things`: columns."""
    amount = f"{found.mean:+.{decimals}f} points"
    n = f"(n = {counted(found.seeds, 'seed')} x {counted(found.tasks, things)})"
    if not math.isfinite(found.low):
        return f"{amount}, one run, which has no interval {n}"
    verdict = "excludes zero" if found.low > 0 or found.high < 0 else "includes zero"
    return f"{amount}, 95 % interval [{found.low:+.{decimals}f}, {found.high:+.{decimals}f}], which {verdict} {n}"


def estimated(found: Difference, decimals: int, sign: str = "") -> str:
    """The mean and its interval; `sign` "+" for differences."""
    low, high = f"{found.low:{sign}.{decimals}f}", f"{found.high:{sign}.{decimals}f}"
    return f"{found.mean:{sign}.{decimals}f} [{low}, {high}]"


def listed(parts: Sequence[str]) -> str:
    """'a, b and c'."""
    return " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))
