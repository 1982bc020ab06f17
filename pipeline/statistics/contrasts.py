"""Contrasts between the settings of a study: paired differences of average accuracies, in points.

A contrast of settings that has the answers to every example comes with the two intervals of
`pipeline.statistics.intervals`: on these tasks (over test examples and seeds) and on tasks like these (over tasks and
seeds). Where a study keeps only one number per task, such as a count or a loss, there is the second alone. Where the
experts were trained several times, a contrast of two methods has both intervals over replicates as well, in addition
to the interval of one training alone.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from pipeline.runtime.errors import abbreviate
from pipeline.statistics.intervals import (
    SHARE_DECIMALS,
    Interval,
    Marks,
    StatisticsError,
    compare_methods,
    mark_methods,
    mean_interval,
)

AGAIN = "run the study again (dvc repro)"
StudySetting = tuple[Hashable, ...]
"""Identifies the runs of a study that differ only in their seeds: the value of each column that varies."""


@dataclass(frozen=True)
class PairedDifference:
    """The mean of the paired differences of two methods' averages, in points, with its 95 % interval."""

    mean: float
    low: float
    high: float
    seeds: int
    tasks: int


@dataclass(frozen=True)
class Contrast:
    """The mean over some settings minus the mean over others."""

    these: PairedDifference
    """On these tasks: the interval is over test examples and seeds."""
    like: PairedDifference
    """The same difference, with the interval for tasks like these."""
    won: int
    """Number of tasks whose own interval, over examples and seeds, lies above zero."""
    lost: int
    """Number of tasks whose own interval lies below zero."""
    examples: int
    """Number of test examples of all tasks."""
    weights: Mapping[StudySetting, float]
    """Weight of each setting's accuracy (the mean over its seeds) in the sum that the contrast is."""


@dataclass(frozen=True)
class ReplicatedContrast:
    """One method minus another over several trainings of the experts, in points."""

    committed: PairedDifference
    """On the experts of the first replicate alone: the interval is over test examples and seeds."""
    these: PairedDifference
    """The mean over replicates: the interval is over test examples, seeds and replicates."""
    like: PairedDifference
    """The same difference: the interval is over tasks, seeds and replicates."""
    each: tuple[float, ...]
    """The difference in every replicate."""
    examples: int
    """Number of test examples of all tasks."""
    weights: Mapping[StudySetting, float]
    """As for a `Contrast`."""

    @property
    def same(self) -> int:
        """Number of replicates whose difference has the sign of the mean."""
        return int((np.sign(self.each) == np.sign(self.these.mean)).sum())

    @property
    def holds(self) -> bool:
        """Whether the interval over replicates excludes zero and every replicate's difference has the mean's sign."""
        return (self.these.low > 0 or self.these.high < 0) and self.same == len(self.each)


def paired_difference(table: pd.DataFrame, tasks: Sequence[str], method: str, other: str) -> PairedDifference:
    """Estimate `method` minus `other` in the same seeds, with a 95 % interval over seeds and tasks.

    table: accuracies in per cent, a row per (method, seed) and a column per task. The seeds of one task share its test
    examples, so that seeds x tasks are not that many independent differences. The interval of one seed and one task is
    NaN. Raises StatisticsError for unequal seeds.
    """
    # pyrefly: ignore[bad-index]  # the stubs of `loc` lack a key of one level with a list of columns
    pairs = (table.loc[method, list(tasks)] - table.loc[other, list(tasks)]).to_numpy()
    if not np.isfinite(pairs).all():
        raise StatisticsError(f"{method} and {other} ran with different seeds; run their stages again (dvc repro)")
    if pairs.size == 1:
        return PairedDifference(float(pairs.mean()), np.nan, np.nan, 1, 1)
    result = mean_interval(pairs)
    return PairedDifference(float(result.value), float(result.low), float(result.high), *pairs.shape)


def mark_settings(
    rows: pd.DataFrame,
    columns: Sequence[str],
    tasks: Sequence[str],
    clusters: Mapping[str, np.ndarray],
    seeded: Sequence[str] = (),
) -> Marks[StudySetting]:
    """Read which examples every setting answers rightly.

    rows: scores with the column `right`, see `pipeline.studies._trials.MARK_COLUMNS`. columns: those that distinguish
    the settings. clusters: {task: [n, 1 + C]} of the tasks whose examples are not independent. seeded: of the columns,
    those whose values have seeds of their own, such as the method. Raises StatisticsError unless all settings with
    equal values of `seeded` ran with the same seeds and the answers agree with the counts.
    """
    if "right" not in rows:
        raise StatisticsError(f"scores without the column `right`, the answer to every example; {AGAIN}")
    shared = rows.groupby([*seeded]).seed if seeded else [((), rows.seed)]
    seeds_of = {values: tuple(sorted(seeds.unique())) for values, seeds in shared}
    places = [[*columns].index(column) for column in seeded]
    correct: dict[StudySetting, dict[str, np.ndarray]] = {}
    seeds: dict[StudySetting, tuple[int, ...]] = {}
    for setting, part in rows.groupby([*columns], sort=False):
        seeds[setting] = seeds_of[tuple(setting[place] for place in places)]
        correct[setting] = {
            task: _right(part[part.task == task], seeds[setting], f"{_text(setting)}, {task}") for task in tasks
        }
    return mark_methods(correct, seeds, clusters=clusters)


def contrast_settings(
    marks: Marks[StudySetting], settings: Sequence[StudySetting], others: Sequence[StudySetting]
) -> Contrast:
    """Estimate the mean over `settings` minus the mean over `others`, in the same seeds and on the same examples."""
    weights = {setting: 1 / len(settings) for setting in settings}
    for setting in others:
        weights[setting] = weights.get(setting, 0) - 1 / len(others)
    return combine_settings(marks, weights)


def combine_settings(marks: Marks[StudySetting], weights: Mapping[StudySetting, float]) -> Contrast:
    """Estimate the weighted sum of the settings' accuracies, each the mean over its own seeds.

    The result's `seeds` is the largest number of seeds that a setting has.
    """
    comparison = compare_methods(marks, weights)
    seeds, tasks = max(comparison.seeds), comparison.tasks.value.size
    these, like = (_points(estimate, seeds, tasks) for estimate in (comparison.average, comparison.like))
    return Contrast(these, like, comparison.won, comparison.lost, comparison.examples, weights)


def mark_replicates(rows: pd.DataFrame, tasks: Sequence[str], clusters: Mapping[str, np.ndarray]) -> Marks[str]:
    """Read which examples every method answers rightly on every replicate, for `contrast_replicates`.

    rows: scores with the columns `replicate` and `right`. clusters: as for `mark_settings`. Raises
    StatisticsError unless every method ran on every replicate with the same seeds and the answers agree with the
    counts.
    """
    rows = rows.assign(seed=rows.seed.fillna(-1).astype("int64"))  # -1: no randomness
    numbers = sorted(rows.replicate.unique())
    seeds = {str(method): tuple(sorted(part.seed.unique())) for method, part in rows.groupby("method", sort=False)}
    correct: dict[str, dict[str, np.ndarray]] = {}
    for method, paired in seeds.items():
        parts = rows[rows.method == method]
        correct[method] = {
            task: np.concatenate(
                [
                    _right(
                        parts[(parts.task == task) & (parts.replicate == number)],
                        paired,
                        f"{method}, {task}, replicate {number}",
                    )
                    for number in numbers
                ]
            )
            for task in tasks
        }
    return mark_methods(correct, seeds, len(numbers), clusters)


def contrast_replicates(marks: Marks[str], method: str, other: str) -> ReplicatedContrast:
    """Estimate `method` minus `other`, paired by replicate, seed and test example."""
    pair = {method: 1, other: -1}
    first = replace(marks, tasks={name: [part[:1] for part in marks.tasks[name]] for name in pair})
    every, committed = (compare_methods(part, pair) for part in (marks, first))
    seeds, tasks = max(committed.seeds), committed.tasks.value.size
    means = [marks.accuracies(name).mean(axis=(1, 2)) for name in pair]
    each = (100 * (means[0] - means[1])).round(SHARE_DECIMALS - 2)
    return ReplicatedContrast(
        committed=_points(committed.average, seeds, tasks),
        these=_points(every.average, seeds, tasks),
        like=_points(every.like, seeds, tasks),
        each=tuple(each.tolist()),
        examples=every.examples,
        weights={(name,): weight for name, weight in pair.items()},
    )


def _points(estimate: Interval, seeds: int, tasks: int) -> PairedDifference:
    """Convert an interval of shares to points."""
    mean, low, high = (100 * float(part) for part in (estimate.value, estimate.low, estimate.high))
    return PairedDifference(mean, low, high, seeds, tasks)


def _right(runs: pd.DataFrame, seeds: Sequence[int], title: str) -> np.ndarray:
    """Return a setting's answers to a task's examples, bool [S, n], a row per seed."""
    runs = runs.sort_values("seed")
    if (*runs.seed,) != seeds or runs.total.nunique() != 1:
        raise StatisticsError(
            f"{title}: seeds {_text(runs.seed)}, examples {_text(runs.total.unique())}; expected seeds {_text(seeds)}, "
            f"each with the same examples; {AGAIN}"
        )
    return np.stack(
        [
            _bits(right, total, correct, f"{title}, seed {seed}")
            for seed, right, total, correct in zip(runs.seed, runs.right, runs.total, runs.correct, strict=True)
        ]
    )


def _bits(right: str, total: int, correct: int, title: str) -> np.ndarray:
    """Unpack one row's answers, bool [total]; StatisticsError unless they agree with its counts."""
    try:
        packed = np.frombuffer(bytes.fromhex(right), np.uint8)
    except (ValueError, TypeError) as error:
        raise StatisticsError(f"{title}: right = {abbreviate(right)}, expected hexadecimal digits; {AGAIN}") from error
    bits = np.unpackbits(packed)
    if len(packed) != -(-total // 8) or bits[total:].any():
        raise StatisticsError(f"{title}: right has {len(bits)} bits, not one for each of {total} examples; {AGAIN}")
    if bits.sum() != correct:
        raise StatisticsError(f"{title}: {bits.sum()} examples are marked right, but correct = {correct}; {AGAIN}")
    return bits[:total].astype(bool)


def _text(values: Iterable[Hashable]) -> str:
    return " ".join(map(str, values)) or "none"
