"""Bootstrap intervals and comparisons over every source of randomness: test examples, seeds, and tasks.

All models answer the same examples, and calibrated models share draws and batches seed by seed. The bootstrap therefore
draws the examples of each task and the seeds independently, with replacement, and crosses them (the pigeonhole
bootstrap, Owen 2007, arXiv 0712.1111). Every method gets the same draws, so that differences are paired. There are two
intervals:

    these tasks         the test examples of every task and the seeds are drawn
    tasks like these    the tasks and the seeds are drawn; a task's examples are part of what makes tasks differ

Methods with the same seeds are paired seed by seed; the seeds of other methods are drawn independently. An axis with a
single member (a method without randomness, one seed) is not drawn, and the interval does not cover it. Intervals are
percentiles; with few seeds they are rough and, if anything, too narrow. Where the experts were trained several times,
these replicates are a further source of randomness: both intervals draw them, the same for every method.

Accuracies are shares in [0, 1]. All results are functions of the answers alone: the generator is fixed.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import numpy as np
from scipy.stats import bootstrap, trim_mean

from pipeline.runtime.errors import BenchmarkError

RESAMPLES = 10_000
BATCH = 250
"""Number of draws that are held in memory at once."""
LEVEL = 0.95
SHARE_DECIMALS = 12
"""Decimals beyond which a difference of shares is floating-point rounding."""
REPLICATES = ("replicates",)
"""Key of the axis of trainings of the experts; unequal to any tuple of seeds."""

MethodKey = TypeVar("MethodKey", bound=Hashable)
"""Key of a method: its name, or a setting of a study."""
Correct = Mapping[MethodKey, Mapping[str, np.ndarray]]
"""{method: {task: bool [S, n]}}, whether each seed's model is right on each example."""
Draws = Mapping[Hashable, np.ndarray]
"""{axis: int [B, size]}, the members of an axis in every draw."""
Axis = TypeVar("Axis", bound=Hashable)


class StatisticsError(BenchmarkError):
    """The answers cannot be compared."""


@dataclass(frozen=True)
class Interval:
    """A value, or an array of values, with its 95 % interval."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True)
class Resampled(Generic[MethodKey]):
    """Accuracies of every method, observed and resampled."""

    observed: Mapping[MethodKey, np.ndarray]
    """[S, T]."""
    examples: Mapping[MethodKey, np.ndarray]
    """[B, S, T], in B draws of examples and seeds."""
    tasks: Mapping[MethodKey, np.ndarray]
    """[B, S, T], in B draws of tasks and seeds."""
    count: int
    """Number of test examples of all tasks."""


@dataclass(frozen=True)
class Comparison:
    """The paired difference of two methods' mean accuracies over seeds."""

    average: Interval
    """Difference of the means over tasks, with the interval for these tasks."""
    like: Interval
    """The same difference, with the interval for tasks like these."""
    tasks: Interval
    """Difference on every task, [T]."""
    p: float
    """Two-sided p-value of no difference of the averages on these tasks; `compare_with_others` adjusts it."""
    seeds: tuple[int, int]
    """Number of runs of each of the two methods."""
    examples: int
    """Number of test examples of all tasks."""

    @property
    def won(self) -> int:
        """Number of tasks whose interval lies above zero."""
        return int((self.tasks.low > 0).sum())

    @property
    def lost(self) -> int:
        """Number of tasks whose interval lies below zero."""
        return int((self.tasks.high < 0).sum())


def pigeonhole_bootstrap(
    statistic: Callable[[Draws], np.ndarray], sizes: Mapping[Axis, int], resamples: int
) -> np.ndarray:
    """Return `statistic`, floats [..., B], in B = `resamples` draws of the members of every axis.

    sizes: {axis: number of members}. Axes are drawn independently; an axis of one member is not drawn. Raises
    StatisticsError if no axis has several members.
    """
    axes = [axis for axis, size in sizes.items() if size > 1]
    if not axes:
        raise StatisticsError("nothing to draw from: one example per task and one seed; an interval needs more")

    def vectorised(*samples: np.ndarray, axis: int) -> np.ndarray:
        fixed = np.zeros((len(samples[0]), 1), int)
        return statistic({**dict.fromkeys(sizes, fixed), **dict(zip(axes, samples, strict=True))})

    result = bootstrap(
        [np.arange(sizes[axis]) for axis in axes],
        vectorised,
        n_resamples=resamples,
        batch=BATCH,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    return result.bootstrap_distribution


def resample_accuracies(
    correct: Correct[MethodKey], seeds: Mapping[MethodKey, Sequence], resamples: int = RESAMPLES, replicates: int = 1
) -> Resampled[MethodKey]:
    """Draw the accuracies of all methods at once.

    seeds: the seeds of every method, in the order of its answers. replicates: number of trainings of the experts; with
    several, the answers of a method are those of all its seeds on the first replicate, then on the second, and so on.
    Raises StatisticsError unless all methods answered the same examples once per replicate and seed.
    """
    sizes = _sizes(correct, seeds, replicates)
    firsts = np.cumsum([0, *(replicates * len(seeds[method]) for method in correct)])
    runs = [
        (tuple(seeds[method]), replicate, place)
        for method in correct
        for replicate in range(replicates)
        for place in range(len(seeds[method]))
    ]
    # Products of these with multiplicities are whole numbers, exact in float32: the same on every machine.
    right = [np.concatenate([tasks[task] for tasks in correct.values()]).astype(np.float32) for task in sizes]
    observed = np.stack([hits.mean(axis=1, dtype=np.float64) for hits in right])

    def replaced(drawn: Draws) -> np.ndarray:
        """Return, int [R, B], which of the R runs replaces each run: another replicate and seed of its method."""
        others = [
            (drawn[REPLICATES][:, replicate] - replicate) * len(owner) + drawn[owner][:, place] - place
            for owner, replicate, place in runs
        ]
        return np.stack([run + other for run, other in enumerate(others)])

    def of_examples(drawn: Draws) -> np.ndarray:
        hits = [
            answers @ multiplicities(drawn[task], size).T
            for answers, (task, size) in zip(right, sizes.items(), strict=True)
        ]
        shares = np.stack(hits) / np.array([*sizes.values()], float)[:, None, None]
        return np.take_along_axis(shares, replaced(drawn)[None], axis=1)

    def of_tasks(drawn: Draws) -> np.ndarray:
        return observed[drawn["tasks"].T[:, None], replaced(drawn)]

    def by_method(values: np.ndarray) -> dict[MethodKey, np.ndarray]:
        return {
            method: values[:, first:last].T for method, first, last in zip(correct, firsts, firsts[1:], strict=False)
        }

    drawable: dict[Hashable, int] = {REPLICATES: replicates, **{owner: len(owner) for owner, _, _ in runs}}
    examples = pigeonhole_bootstrap(of_examples, {**drawable, **sizes}, resamples)
    tasks = pigeonhole_bootstrap(of_tasks, {**drawable, "tasks": len(sizes)}, resamples)
    return Resampled(by_method(observed), by_method(examples), by_method(tasks), sum(sizes.values()))


def multiplicities(drawn: np.ndarray, size: int) -> np.ndarray:
    """Count how often each of `size` members occurs in every draw [B, n]: float32 [B, size]."""
    shifted = drawn + size * np.arange(len(drawn))[:, None]
    return np.bincount(shifted.ravel(), minlength=len(drawn) * size).reshape(-1, size).astype(np.float32)


def percentile_interval(value: np.ndarray, draws: np.ndarray) -> Interval:
    """Return `value` with the percentile interval of `draws` [B, ...]."""
    low, high = np.quantile(draws, ((1 - LEVEL) / 2, (1 + LEVEL) / 2), axis=0)
    return Interval(np.asarray(value), low, high)


def compare_methods(resampled: Resampled[MethodKey], method: MethodKey, other: MethodKey) -> Comparison:
    """Compare two methods: `method` minus `other`."""

    def minus(runs: Mapping[MethodKey, np.ndarray]) -> np.ndarray:
        """Subtract the means over seeds, [..., T]."""
        return (runs[method].mean(axis=-2) - runs[other].mean(axis=-2)).round(SHARE_DECIMALS)

    observed, examples, tasks = minus(resampled.observed), minus(resampled.examples), minus(resampled.tasks)
    averages = examples.mean(axis=-1).round(SHARE_DECIMALS)
    rarer = min((averages <= 0).sum(), (averages >= 0).sum())
    return Comparison(
        average=percentile_interval(observed.mean(), averages),
        like=percentile_interval(observed.mean(), tasks.mean(axis=-1).round(SHARE_DECIMALS)),
        tasks=percentile_interval(observed, examples),
        p=min(1.0, 2 * (1 + int(rarer)) / (1 + len(averages))),
        seeds=(resampled.observed[method].shape[0], resampled.observed[other].shape[0]),
        examples=resampled.count,
    )


@dataclass(frozen=True)
class VarianceComponents:
    """Standard deviations of a number that was measured in several replicates with several seeds."""

    replicates: float
    """Over replicates, of the mean over seeds; NaN with one replicate."""
    seeds: float
    """Over seeds, within replicates and pooled over them; NaN with one seed."""
    share: float
    """Share of a single run's variance that the replicate explains, in [0, 1]; NaN where either of the above is."""


def variance_components(runs: np.ndarray) -> VarianceComponents:
    """Estimate the variation of a number [R, S] over R replicates and over S seeds, the same in each replicate.

    The share is that of the crossed analysis of variance: the variance of the means over S seeds contains the
    interaction's variance divided by S, which is subtracted. A negative estimate counts as zero.
    """
    replicates, seeds = runs.shape
    means = runs.mean(axis=1)
    between = means.var(ddof=1) if replicates > 1 else np.nan
    within = runs.var(axis=1, ddof=1).mean() if seeds > 1 else np.nan
    share = np.nan
    if replicates > 1 and seeds > 1:
        rest = runs - means[:, None] - runs.mean(axis=0) + runs.mean()
        interaction = (rest**2).sum() / ((replicates - 1) * (seeds - 1))
        training = max(between - interaction / seeds, 0.0)
        share = training / (training + within) if round(training + within, SHARE_DECIMALS) > 0 else np.nan
    return VarianceComponents(float(np.sqrt(between)), float(np.sqrt(within)), float(share))


def compare_with_others(
    resampled: Resampled[MethodKey], method: MethodKey, others: Sequence[MethodKey]
) -> dict[MethodKey, Comparison]:
    """Compare `method` with each of `others`, the p-values adjusted for their number."""
    comparisons = compare_pairs(resampled, [(method, other) for other in others])
    return {other: comparison for (_, other), comparison in comparisons.items()}


def compare_pairs(
    resampled: Resampled[MethodKey], pairs: Sequence[tuple[MethodKey, MethodKey]]
) -> dict[tuple[MethodKey, MethodKey], Comparison]:
    """Compare the first method of each pair with the second, the p-values adjusted for the number of pairs."""
    comparisons = [compare_methods(resampled, method, other) for method, other in pairs]
    adjusted = adjust_p_values([comparison.p for comparison in comparisons])
    return {
        pair: replace(comparison, p=float(p)) for pair, comparison, p in zip(pairs, comparisons, adjusted, strict=True)
    }


def adjust_p_values(p: Sequence[float]) -> np.ndarray:
    """Adjust p-values for their number by Holm's method (1979); the order is kept.

    The probability that any claim with an adjusted p below a is wrong is at most a, for any dependence between the
    claims. `scipy.stats.false_discovery_control` bounds the share of wrong claims instead, which is too weak where
    every claim is read separately.
    """
    values = np.asarray(p, float)
    order = np.argsort(values, kind="stable")
    steps = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(steps, 1.0)
    return adjusted


def normalised_scores(
    resampled: Resampled[MethodKey], method: MethodKey, ceiling: MethodKey
) -> tuple[np.ndarray, np.ndarray]:
    """Divide accuracies by those of `ceiling` on the same examples: observed [S, T] and drawn [B, S, T].

    NaN where the ceiling's accuracy is zero.
    """
    pairs = [
        (runs[method], runs[ceiling].mean(axis=-2, keepdims=True)) for runs in (resampled.observed, resampled.examples)
    ]
    observed, drawn = (np.divide(runs, top, out=np.full_like(runs, np.nan), where=top > 0) for runs, top in pairs)
    return observed, drawn


def iqm(resampled: Resampled[MethodKey], method: MethodKey, ceiling: MethodKey) -> Interval:
    """Interquartile mean of the normalised scores of all (seed, task) runs, as in rliable (arXiv 2108.13264)."""
    observed, drawn = normalised_scores(resampled, method, ceiling)
    return percentile_interval(
        *(trim_mean(runs.reshape(*runs.shape[:-2], -1), 0.25, axis=-1) for runs in (observed, drawn))
    )


def performance_profile(
    resampled: Resampled[MethodKey], method: MethodKey, ceiling: MethodKey, thresholds: np.ndarray
) -> Interval:
    """Share of (seed, task) runs whose normalised score exceeds each threshold, as in rliable."""
    observed, drawn = normalised_scores(resampled, method, ceiling)

    def above(runs: np.ndarray) -> np.ndarray:
        shares = [(runs > threshold).mean(axis=(-2, -1)) for threshold in thresholds]
        return np.where(np.isnan(runs).any(axis=(-2, -1)), np.nan, shares).T

    return percentile_interval(above(observed), above(drawn))


def _sizes(correct: Correct[MethodKey], seeds: Mapping[MethodKey, Sequence], replicates: int) -> dict[str, int]:
    """Return {task: number of examples}; StatisticsError unless all methods answered them once per run."""
    first = next(iter(correct.values()))
    for method, tasks in correct.items():
        for task, right in first.items():
            expected = (replicates * len(seeds[method]), right.shape[1])
            shape = tasks[task].shape if task in tasks else None
            if shape != expected:
                raise StatisticsError(
                    f"{method}: answers of {task} have shape {shape}, expected {expected}; run dvc repro"
                )
    return {task: right.shape[1] for task, right in first.items()}
