"""Contrasts between the settings of a study: paired differences of average accuracies, in points.

A contrast of settings that has the answers to every example comes with the two intervals of
`pipeline.statistics.bootstrap`: on these tasks (test examples and seeds are drawn) and on tasks like these (tasks and
seeds are drawn). Where a study keeps only one number per task, such as a count or a loss, there is the second alone.
Where the experts were trained several times, a contrast of two methods has both intervals with the replicates drawn as
well, in addition to the interval of one training alone.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline.runtime.errors import abbreviate
from pipeline.statistics import bootstrap
from pipeline.statistics.bootstrap import (
    Draws,
    Interval,
    Resampled,
    StatisticsError,
    compare_methods,
    percentile_interval,
    pigeonhole_bootstrap,
    resample_accuracies,
)

CONTRAST_RESAMPLES = 2_000
"""Number of draws of a contrast; fewer than elsewhere, as every study draws every example again."""
AGAIN = "run the study again (dvc repro)"
StudySetting = tuple[Hashable, ...]
"""Identifies the runs of a study that differ only in their seeds: the value of each column that varies."""
SettingAccuracies = Mapping[StudySetting, np.ndarray]
"""Accuracies [..., S, T] of every setting."""


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
class ResampledReplicates:
    """Resampled accuracies of methods on every replicate, with the replicates drawn and without."""

    every: Resampled[str]
    """Of all replicates, [replicates * S, T]; the replicates are drawn too."""
    committed: Resampled[str]
    """Of the first replicate alone, [S, T]."""
    replicates: int


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

    table: accuracies in per cent, a row per (method, seed) and a column per task. Seeds and tasks are drawn
    independently and crossed: the seeds of one task share its test examples, so that seeds x tasks are not that many
    independent differences. The interval of one seed and one task is NaN. Raises StatisticsError for unequal seeds.
    """
    # pyrefly: ignore[bad-index]  # the stubs of `loc` lack a key of one level with a list of columns
    pairs = (table.loc[method, list(tasks)] - table.loc[other, list(tasks)]).to_numpy()
    if not np.isfinite(pairs).all():
        raise StatisticsError(f"{method} and {other} ran with different seeds; run their stages again (dvc repro)")

    def mean(drawn: Draws) -> np.ndarray:
        return pairs[drawn["seeds"][:, :, None], drawn["tasks"][:, None, :]].mean(axis=(1, 2))

    if pairs.size == 1:
        return PairedDifference(float(pairs.mean()), np.nan, np.nan, 1, 1)
    sizes = dict(zip(("seeds", "tasks"), pairs.shape, strict=True))
    result = percentile_interval(pairs.mean(), pigeonhole_bootstrap(mean, sizes, bootstrap.RESAMPLES))
    return PairedDifference(float(result.value), float(result.low), float(result.high), *pairs.shape)


def resample_settings(
    rows: pd.DataFrame,
    columns: Sequence[str],
    tasks: Sequence[str],
    resamples: int = CONTRAST_RESAMPLES,
    seeded: Sequence[str] = (),
) -> Resampled[StudySetting]:
    """Draw the accuracies of every setting in the same draws, which all contrasts of a study share.

    rows: scores with the column `right`, see `pipeline.studies._trials.MARK_COLUMNS`. columns: those that distinguish
    the settings. seeded: of these, the columns whose values have seeds of their own, such as the method; seeds that are
    not shared are drawn independently. Raises StatisticsError unless all settings with equal values of `seeded` ran
    with the same seeds and the answers agree with the counts.
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
    return resample_accuracies(correct, seeds, resamples)


def contrast_settings(
    resampled: Resampled[StudySetting], settings: Sequence[StudySetting], others: Sequence[StudySetting]
) -> Contrast:
    """Estimate the mean over `settings` minus the mean over `others`, in the same seeds and on the same examples."""
    seeds = len(next(iter(resampled.observed.values())))
    weights = {setting: 1 / len(settings) for setting in settings}
    for setting in others:
        weights[setting] = weights.get(setting, 0) - 1 / len(others)
    return _contrast(resampled, lambda runs: (_mean(runs, settings), _mean(runs, others)), seeds, weights)


def combine_settings(resampled: Resampled[StudySetting], weights: Mapping[StudySetting, int]) -> Contrast:
    """Estimate the weighted sum of the settings' accuracies, each the mean over its own seeds.

    The result's `seeds` is the largest number of seeds that a setting has.
    """

    def total(runs: SettingAccuracies) -> np.ndarray:
        return np.sum([weight * runs[key].mean(axis=-2, keepdims=True) for key, weight in weights.items()], axis=0)

    seeds = max(len(resampled.observed[setting]) for setting in weights)
    return _contrast(resampled, lambda runs: (total(runs), np.zeros_like(total(runs))), seeds, weights)


def _contrast(
    resampled: Resampled[StudySetting],
    sides: Callable[[SettingAccuracies], tuple[np.ndarray, np.ndarray]],
    seeds: int,
    weights: Mapping[StudySetting, float],
) -> Contrast:
    """Subtract the second of two `sides`, arrays [..., S, T], from the first."""
    observed, examples, tasks = (
        dict(zip(("one", "other"), sides(runs), strict=True))
        for runs in (resampled.observed, resampled.examples, resampled.tasks)
    )
    comparison = compare_methods(Resampled(observed, examples, tasks, resampled.count), "one", "other")
    size = comparison.tasks.value.size
    these, like = (_points(estimate, seeds, size) for estimate in (comparison.average, comparison.like))
    return Contrast(these, like, comparison.won, comparison.lost, resampled.count, weights)


def resample_replicates(
    rows: pd.DataFrame, tasks: Sequence[str], resamples: int = CONTRAST_RESAMPLES
) -> ResampledReplicates:
    """Draw the accuracies of all methods on every replicate, for `contrast_replicates`.

    rows: scores with the columns `replicate` and `right`. Raises StatisticsError unless every method ran on every
    replicate with the same seeds and the answers agree with the counts.
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
    first = {
        method: {task: right[: len(seeds[method])] for task, right in by_task.items()}
        for method, by_task in correct.items()
    }
    return ResampledReplicates(
        resample_accuracies(correct, seeds, resamples, len(numbers)),
        resample_accuracies(first, seeds, resamples),
        len(numbers),
    )


def contrast_replicates(drawn: ResampledReplicates, method: str, other: str) -> ReplicatedContrast:
    """Estimate `method` minus `other`, paired by replicate, seed and test example."""
    every, committed = (compare_methods(part, method, other) for part in (drawn.every, drawn.committed))
    seeds, tasks = max(committed.seeds), drawn.committed.observed[method].shape[1]
    means = [
        drawn.every.observed[name].reshape(drawn.replicates, -1, tasks).mean(axis=(1, 2)) for name in (method, other)
    ]
    each = (100 * (means[0] - means[1])).round(bootstrap.SHARE_DECIMALS - 2)
    return ReplicatedContrast(
        committed=_points(committed.average, seeds, tasks),
        these=_points(every.average, seeds, tasks),
        like=_points(every.like, seeds, tasks),
        each=tuple(each.tolist()),
        examples=every.examples,
        weights={(method,): 1, (other,): -1},
    )


def _mean(runs: SettingAccuracies, settings: Sequence[StudySetting]) -> np.ndarray:
    """Average the accuracies of settings, [..., S, T]: contrasts are linear, so means can be taken first."""
    return np.mean([runs[setting] for setting in settings], axis=0)


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
