"""Settings of a study against others in the same runs: paired differences of average accuracies, in points.

From the answers to every image a contrast of settings has the two intervals of `pipeline.statistics`: on these tasks
(test images and seeds are drawn) and on tasks like these (tasks and seeds are drawn). Where a study keeps one number
per task alone, such as a count or a loss, there is the second. Where the experts were trained several times, the order
of two methods has these intervals with the replicates drawn as well, beside that of one training alone.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline.runtime.errors import shown
from pipeline.statistics import bootstrap
from pipeline.statistics.bootstrap import Drawn, Interval, Resampled, StatisticsError, interval, pigeonhole

RESAMPLES = 2_000
"""Draws of a contrast; every image is drawn in each, in every study anew."""
AGAIN = "run the study again (dvc repro)"
Setting = tuple[Hashable, ...]
"""What tells the runs of a study apart but for their seeds: a value of each column that varies."""
Runs = Mapping[Setting, np.ndarray]
"""Accuracies [..., S, T] of every setting."""


@dataclass(frozen=True)
class Difference:
    """`mean` of the paired differences of two methods' averages, in points, and its 95 % interval."""

    mean: float
    low: float
    high: float
    seeds: int
    tasks: int


@dataclass(frozen=True)
class Contrast:
    """The mean over some settings minus that over others."""

    these: Difference
    """On these tasks: over test images and seeds."""
    like: Difference
    """The same difference; the interval is that of tasks like these."""
    won: int
    """Tasks whose own interval, over images and seeds, lies above zero."""
    lost: int
    """Tasks whose own interval lies below zero."""
    images: int
    """Test images of all tasks."""
    weights: Mapping[Setting, float]
    """What is added up: a setting's accuracy, the mean over its seeds, times its weight."""


@dataclass(frozen=True)
class Replicated:
    """The accuracies of methods in every replicate, drawn together with the replicates and without."""

    every: Resampled
    """Of all replicates, [replicates * S, T], which are drawn too."""
    committed: Resampled
    """Of the first replicate alone, [S, T]."""
    replicates: int


@dataclass(frozen=True)
class Order:
    """One method minus another over trainings of the experts, in points."""

    committed: Difference
    """On the experts of the first replicate alone: over test images and seeds."""
    these: Difference
    """The mean over replicates: over test images, seeds and replicates."""
    like: Difference
    """The same difference; the interval is over tasks, seeds and replicates."""
    each: tuple[float, ...]
    """In every replicate."""
    images: int
    """Test images of all tasks."""
    weights: Mapping[Setting, float]
    """As those of a `Contrast`."""

    @property
    def same(self) -> int:
        """Replicates whose difference has the sign of the mean."""
        return int((np.sign(self.each) == np.sign(self.these.mean)).sum())

    @property
    def holds(self) -> bool:
        """Whether it is about the methods: zero is outside the interval over replicates, and no replicate disagrees."""
        return (self.these.low > 0 or self.these.high < 0) and self.same == len(self.each)


def difference(table: pd.DataFrame, tasks: Sequence[str], method: Hashable, other: Hashable) -> Difference:
    """`method` minus `other` in the same seeds, with a 95 % interval over seeds and tasks.

    table: accuracies in per cent, a row per (method, seed) and a column per task. Seeds and tasks are drawn
    independently and crossed: seeds of one task share its test images, so that seeds x tasks are not that many
    independent differences. One seed and one task have no interval.
    """
    pairs = (table.loc[method, list(tasks)] - table.loc[other, list(tasks)]).to_numpy()
    if not np.isfinite(pairs).all():
        raise StatisticsError(f"{method} and {other} ran with different seeds; run their stages again (dvc repro)")

    def mean(drawn: Drawn) -> np.ndarray:
        return pairs[drawn["seeds"][:, :, None], drawn["tasks"][:, None, :]].mean(axis=(1, 2))

    if pairs.size == 1:
        return Difference(float(pairs.mean()), np.nan, np.nan, 1, 1)
    sizes = dict(zip(("seeds", "tasks"), pairs.shape, strict=True))
    found = interval(pairs.mean(), pigeonhole(mean, sizes, bootstrap.RESAMPLES))
    return Difference(float(found.value), float(found.low), float(found.high), *pairs.shape)


def resample(
    rows: pd.DataFrame,
    columns: Sequence[str],
    tasks: Sequence[str],
    resamples: int = RESAMPLES,
    seeded: Sequence[str] = (),
) -> Resampled:
    """The accuracies of every setting in the same draws, which all contrasts of a study share; keys are `Setting`s.

    rows: scores with the column `right`, see `pipeline.studies._trials.MARKED`; `columns` tell the settings apart. `seeded`: of
    these, the columns whose values have seeds of their own, such as the method; other seeds are then drawn on their
    own. StatisticsError unless all settings of one such value ran with the same seeds and the answers are those that
    were counted.
    """
    if "right" not in rows:
        raise StatisticsError(f"scores without the column `right`, the answer to every image; {AGAIN}")
    shared = rows.groupby([*seeded]).seed if seeded else [((), rows.seed)]
    seeds_of = {values: tuple(sorted(seeds.unique())) for values, seeds in shared}
    places, correct, seeds = [[*columns].index(column) for column in seeded], {}, {}
    for setting, part in rows.groupby([*columns], sort=False):
        seeds[setting] = seeds_of[tuple(setting[place] for place in places)]
        correct[setting] = {
            task: _right(part[part.task == task], seeds[setting], f"{_text(setting)}, {task}") for task in tasks
        }
    return bootstrap.resample(correct, seeds, resamples)


def contrast(found: Resampled, settings: Sequence[Setting], others: Sequence[Setting]) -> Contrast:
    """The mean over `settings` minus the mean over `others`, in the same seeds and on the same images."""
    seeds = len(next(iter(found.observed.values())))
    weights = {setting: 1 / len(settings) for setting in settings}
    for setting in others:
        weights[setting] = weights.get(setting, 0) - 1 / len(others)
    return _between(found, lambda runs: (_mean(runs, settings), _mean(runs, others)), seeds, weights)


def combined(found: Resampled, weights: Mapping[Setting, int]) -> Contrast:
    """The sum of the settings' accuracies, each the mean over its own seeds times its weight.

    Its `seeds` are the most that a setting has.
    """

    def total(runs: Runs) -> np.ndarray:
        return np.sum([weight * runs[key].mean(axis=-2, keepdims=True) for key, weight in weights.items()], axis=0)

    seeds = max(len(found.observed[setting]) for setting in weights)
    return _between(found, lambda runs: (total(runs), np.zeros_like(total(runs))), seeds, weights)


def _between(
    found: Resampled,
    sides: Callable[[Runs], tuple[np.ndarray, np.ndarray]],
    seeds: int,
    weights: Mapping[Setting, float],
) -> Contrast:
    """One of two `sides`, arrays [..., S, T], minus the other."""
    parts = (
        dict(zip(("one", "other"), sides(part), strict=True)) for part in (found.observed, found.images, found.tasks)
    )
    made = bootstrap.difference(Resampled(*parts, found.count), "one", "other")
    tasks = made.tasks.value.size
    these, like = (_points(estimate, seeds, tasks) for estimate in (made.average, made.like))
    return Contrast(these, like, made.won, made.lost, found.count, weights)


def replicated(rows: pd.DataFrame, tasks: Sequence[str], resamples: int = RESAMPLES) -> Replicated:
    """Draw the methods of rows with the columns `replicate` and `right`, which `order` compares.

    StatisticsError unless every method ran in every replicate with the same seeds and the answers are those counted.
    """
    rows = rows.assign(seed=rows.seed.fillna(-1).astype("int64"))  # -1: no randomness
    numbers = sorted(rows.replicate.unique())
    seeds = {method: tuple(sorted(part.seed.unique())) for method, part in rows.groupby("method", sort=False)}
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
    first = {
        method: {task: right[: len(seeds[method])] for task, right in by_task.items()}
        for method, by_task in correct.items()
    }
    return Replicated(
        bootstrap.resample(correct, seeds, resamples, len(numbers)),
        bootstrap.resample(first, seeds, resamples),
        len(numbers),
    )


def order(drawn: Replicated, method: str, other: str) -> Order:
    """`method` minus `other`, paired by replicate, seed and test image."""
    every, committed = (bootstrap.difference(part, method, other) for part in (drawn.every, drawn.committed))
    seeds, tasks = max(committed.seeds), drawn.committed.observed[method].shape[1]
    means = [
        drawn.every.observed[name].reshape(drawn.replicates, -1, tasks).mean(axis=(1, 2)) for name in (method, other)
    ]
    each = (100 * (means[0] - means[1])).round(bootstrap.PRECISION - 2)
    parts = (_points(part, seeds, tasks) for part in (committed.average, every.average, every.like))
    return Order(*parts, tuple(each.tolist()), every.images, {(method,): 1, (other,): -1})


def _mean(runs: Runs, settings: Sequence[Setting]) -> np.ndarray:
    """[..., S, T]: as the statistics are linear, the mean of accuracies is the accuracy of the mean."""
    return np.mean([runs[setting] for setting in settings], axis=0)


def _points(found: Interval, seeds: int, tasks: int) -> Difference:
    mean, low, high = (100 * float(part) for part in (found.value, found.low, found.high))
    return Difference(mean, low, high, seeds, tasks)


def _right(runs: pd.DataFrame, seeds: Sequence[int], title: str) -> np.ndarray:
    """Bool [S, n]: the answers of a setting to a task's images, a row per seed."""
    runs = runs.sort_values("seed")
    if (*runs.seed,) != seeds or runs.total.nunique() != 1:
        raise StatisticsError(
            f"{title}: seeds {_text(runs.seed)}, images {_text(runs.total.unique())}; expected seeds {_text(seeds)}, "
            f"each with the same images; {AGAIN}"
        )
    return np.stack([_bits(row, f"{title}, seed {row.seed}") for row in runs.itertuples()])


def _bits(row: tuple, title: str) -> np.ndarray:
    """Bool [n] of one row of scores."""
    try:
        packed = np.frombuffer(bytes.fromhex(row.right), np.uint8)
    except (ValueError, TypeError) as error:
        raise StatisticsError(f"{title}: right = {shown(row.right)}, expected hexadecimal digits; {AGAIN}") from error
    bits = np.unpackbits(packed)
    if len(packed) != -(-row.total // 8) or bits[row.total :].any():
        raise StatisticsError(f"{title}: right has {len(bits)} bits, not one for each of {row.total} images; {AGAIN}")
    if bits.sum() != row.correct:
        raise StatisticsError(f"{title}: {bits.sum()} images are marked right, but correct = {row.correct}; {AGAIN}")
    return bits[: row.total].astype(bool)


def _text(values: Sequence[Hashable]) -> str:
    return " ".join(map(str, values)) or "none"
