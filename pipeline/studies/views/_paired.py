"""Paired differences in words and in tables: what every view of scores needs."""

from collections.abc import Sequence

import pandas as pd

from pipeline import scores
from pipeline.paired import RESAMPLES, Contrast, Difference

LIKE, WON = "Tasks like these", "Won : lost"
INTERVALS = "Intervals: test images and seeds are drawn; tasks like these: tasks and seeds."
WINS = "Won : lost: tasks whose own interval, over images and seeds, lies above or below zero."
"""What a table's caption says of the columns LIKE and WON."""


def accuracies(rows: pd.DataFrame, columns: Sequence[str], tasks: Sequence[str]) -> pd.DataFrame:
    """Accuracy in per cent: a row per (*columns, seed), a column per task; ScoresError unless every run is whole."""
    named = rows.assign(method=rows[list(columns)].astype(str).agg(" ".join, axis=1))
    scores.check(named, tasks)
    measured = rows.assign(accuracy=100 * rows.correct / rows.total)
    return measured.pivot(index=[*columns, "seed"], columns="task", values="accuracy")[list(tasks)]


def excludes_zero(found: Difference) -> bool:
    """Whether the 95 % interval lies on one side of zero."""
    return found.low > 0 or found.high < 0


def interval(found: Difference, decimals: int) -> str:
    """`+0.12 [-0.03, +0.27]`."""
    return f"{found.mean:+.{decimals}f} {edges(found, decimals)}"


def edges(found: Difference, decimals: int) -> str:
    """`[-0.03, +0.27]`."""
    return f"[{found.low:+.{decimals}f}, {found.high:+.{decimals}f}]"


def said(found: Difference, decimals: int, unit: str = " points") -> str:
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
