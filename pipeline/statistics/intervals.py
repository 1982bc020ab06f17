"""Intervals and comparisons over every source of chance: test examples, seeds, tasks, and trainings of the experts.

All models answer the same examples, and calibrated models share draws and batches seed by seed, so that differences are
paired. A difference of average accuracies is a mean over crossed axes. Its variance is the sum, over the axes a, of the
variance of the means of their n_a members over n_a, and the interval is Student's t (Welch 1947, Satterthwaite 1946):

    V = sum_a V_a,    V_a = s_a^2 / n_a,    degrees of freedom = V^2 / sum_a V_a^2 / (n_a - 1)

There are two intervals:

    these tasks         the axes are the test examples of every task, and the seeds
    tasks like these    the axes are the tasks and the seeds; a task's examples are part of what makes tasks differ

Examples that depend on each other, such as letters in one font, are a cluster, and the axis has the clusters of a task
as its members: the variance is the one that is robust to clusters (Liang & Zeger 1986), G / (G - 1) times the sum of
squares of what the G clusters contribute. Examples may be clusters in several ways, each an axis. Where a task has
strata, such as classes that are one photograph each, every stratum has axes of its own, since strata are not drawn.
Tasks that share fonts or photographs count as if each had its own.

Methods with the same seeds are paired seed by seed; other seeds are another axis. An axis with a single member (a
method without randomness, one seed) is left out, and the interval does not cover it. Where the experts were trained
several times, these replicates are a further axis of both intervals. What two axes cause together counts for each of
them. Effects of seeds, tasks and replicates are presumed to be roughly normal: then 92 to 97 % of intervals over three
seeds and three to twenty tasks cover the truth; percentiles of a bootstrap over eight tasks would in 89 %.

Accuracies are shares in [0, 1].
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import numpy as np
from scipy.stats import t, trim_mean

from pipeline.runtime.errors import BenchmarkError

LEVEL = 0.95
SHARE_DECIMALS = 12
"""Decimals beyond which a difference of shares is floating-point rounding."""

MethodKey = TypeVar("MethodKey", bound=Hashable)
"""Key of a method: its name, or a setting of a study."""
Correct = Mapping[MethodKey, Mapping[str, np.ndarray]]
"""{method: {task: bool [R * S, n]}}, whether the model of each training and seed is right on each example."""


class StatisticsError(BenchmarkError):
    """The answers cannot be compared."""


@dataclass(frozen=True)
class Marks(Generic[MethodKey]):
    """Which test examples every method answers rightly."""

    tasks: Mapping[MethodKey, Sequence[np.ndarray]]
    """Per task [R, S, n], of R trainings of the experts and S seeds: 1 for a right answer, 0 for a wrong one."""
    seeds: Mapping[MethodKey, tuple[Hashable, ...]]
    clusters: Sequence[np.ndarray]
    """Per task [n, 1 + C]: strata, and the clusters within them in C ways."""

    def accuracies(self, method: MethodKey) -> np.ndarray:
        """[R, S, T]."""
        return np.stack([marks.mean(axis=-1) for marks in self.tasks[method]], axis=-1)

    @property
    def count(self) -> int:
        """Number of test examples of all tasks."""
        return sum(map(len, self.clusters))

    @property
    def clustered(self) -> int:
        """Number of tasks whose examples depend on each other."""
        shared = [[len(np.unique(column)) < len(part) for column in part[:, 1:].T] for part in self.clusters]
        return sum(map(any, shared))


@dataclass(frozen=True)
class Interval:
    """A value, or an array of values, with its 95 % interval and the two-sided p of zero."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p: np.ndarray


@dataclass(frozen=True)
class Comparison:
    """A paired difference of mean accuracies over seeds."""

    average: Interval
    """Difference of the means over tasks, with the interval for these tasks."""
    like: Interval
    """The same difference, with the interval for tasks like these."""
    tasks: Interval
    """Difference on every task, [T]."""
    p: float
    """Two-sided p of no difference of the averages on these tasks; `compare_pairs` adjusts it."""
    seeds: tuple[int, ...]
    """Number of runs of each of the methods."""
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


def t_interval(value: np.ndarray, axes: Sequence[np.ndarray]) -> Interval:
    """Return `value`, of any shape, with the interval of a sum of means.

    axes: the means of the members of every axis, [members, *shape]; those of one member are left out. Raises
    StatisticsError if none has several.
    """
    several = [axis.round(SHARE_DECIMALS) for axis in axes if len(axis) > 1]
    if not several:
        raise StatisticsError("nothing to draw from: one example per task and one seed; an interval needs more")
    parts = [(axis.var(axis=0, ddof=1) / len(axis), len(axis) - 1) for axis in several]
    variance = np.sum([part for part, _ in parts], axis=0)
    squares = np.sum([part**2 / freedom for part, freedom in parts], axis=0)
    freedom = np.divide(variance**2, squares, out=np.ones_like(squares), where=squares > 0)
    error = np.sqrt(variance)
    half = t.ppf((1 + LEVEL) / 2, freedom) * error
    distance = np.divide(np.abs(value), error, out=np.where(value == 0, 0.0, np.inf), where=error > 0)
    low, high = (np.round(end, SHARE_DECIMALS) for end in (value - half, value + half))
    return Interval(np.asarray(value), low, high, 2 * t.sf(distance, freedom))


def mean_interval(grid: np.ndarray) -> Interval:
    """Return the mean of a grid [S, T], with the interval over both axes.

    Raises StatisticsError if both have one member.
    """
    return t_interval(grid.mean(), [grid.mean(axis=1), grid.mean(axis=0)])


def mark_methods(
    correct: Correct[MethodKey],
    seeds: Mapping[MethodKey, Sequence[Hashable]],
    replicates: int = 1,
    clusters: Mapping[str, np.ndarray] | None = None,
) -> Marks[MethodKey]:
    """Arrange the answers of all methods.

    seeds: the seeds of every method, in the order of its answers. replicates: number of trainings of the experts; with
    several, the answers of a method are those of all its seeds on the first replicate, then on the second, and so on.
    clusters: {task: [n, 1 + C]}, see `Marks`; examples of other tasks are independent. Raises StatisticsError unless
    all methods answered the same examples once per replicate and seed, and every stratum has several clusters.
    """
    first = next(iter(correct.values()))
    parts = {task: _independent(right.shape[1]) for task, right in first.items()} | dict(clusters or {})
    for task, right in first.items():
        shape, count = parts[task].shape, right.shape[1]
        if shape[0] != count:
            raise StatisticsError(f"{task}: clusters of shape {shape}, expected {count} rows; run dvc repro")
        if any(len(axis) < min(2, count) for axis in example_axes(right[0], parts[task])):
            raise StatisticsError(f"{task}: a stratum of one cluster; an interval needs more, prepare a larger suite")
    for method, tasks in correct.items():
        for task, right in first.items():
            expected = (replicates * len(seeds[method]), right.shape[1])
            shape = tasks[task].shape if task in tasks else None
            if shape != expected:
                raise StatisticsError(
                    f"{method}: answers of {task} have shape {shape}, expected {expected}; run dvc repro"
                )
    return Marks(
        {
            method: [tasks[task].reshape(replicates, len(seeds[method]), -1).astype(float) for task in first]
            for method, tasks in correct.items()
        },
        {method: tuple(seeds[method]) for method in correct},
        [parts[task] for task in first],
    )


def example_axes(effects: np.ndarray, clusters: np.ndarray) -> list[np.ndarray]:
    """Return the axes [G] of the mean effect of examples [n]: for every stratum, one per way of clustering.

    clusters: [n, 1 + C], see `Marks`. A stratum's axis of G clusters has members that are its mean plus G / n times the
    sums of their examples' deviations from it, all times the stratum's share of the examples: of single examples in one
    stratum, the effects themselves.
    """
    axes = []
    for stratum in np.unique(clusters[:, 0]):
        inside = clusters[:, 0] == stratum
        part, mean = effects[inside], effects[inside].mean()
        for column in clusters[inside, 1:].T:
            sums = np.bincount(np.unique(column, return_inverse=True)[1], weights=part - mean)
            axes.append((mean * len(part) + sums * len(sums)) / len(effects))
    return axes


def _independent(count: int) -> np.ndarray:
    """Return the clusters of so many independent examples, one each in one stratum."""
    return np.stack([np.zeros(count, np.int64), np.arange(count)], 1)


def compare_methods(marks: Marks[MethodKey], weights: Mapping[MethodKey, float]) -> Comparison:
    """Compare methods: the sum of their accuracies, each times its weight, such as 1 and -1."""
    accuracies = {method: marks.accuracies(method) for method in weights}

    def total(parts: Mapping[MethodKey, np.ndarray]) -> np.ndarray:
        return np.sum([weights[method] * part for method, part in parts.items()], axis=0)

    tasks = total({method: runs.mean((0, 1)) for method, runs in accuracies.items()}).round(SHARE_DECIMALS)
    places = range(len(tasks))
    examples = [
        example_axes(total({method: marks.tasks[method][place].mean((0, 1)) for method in weights}), clusters)
        for place, clusters in enumerate(marks.clusters)
    ]
    shared = [total({method: runs.mean(axis=1) for method, runs in accuracies.items()})]  # replicates, [R, T]
    for seeds in dict.fromkeys(marks.seeds[method] for method in weights):  # [S, T]
        shared.append(total({name: runs.mean(0) for name, runs in accuracies.items() if marks.seeds[name] == seeds}))
    averages = [axis.mean(axis=1) for axis in shared]
    average = t_interval(tasks.mean(), [*(axis / len(tasks) for axes in examples for axis in axes), *averages])
    each = [t_interval(tasks[place], [*examples[place], *(axis[:, place] for axis in shared)]) for place in places]
    return Comparison(
        average=average,
        like=t_interval(tasks.mean(), [tasks, *averages]),
        tasks=Interval(*(np.stack([getattr(part, name) for part in each]) for name in ("value", "low", "high", "p"))),
        p=float(average.p),
        seeds=tuple(len(marks.seeds[method]) for method in weights),
        examples=marks.count,
    )


def compare_pairs(
    marks: Marks[MethodKey], pairs: Sequence[tuple[MethodKey, MethodKey]]
) -> dict[tuple[MethodKey, MethodKey], Comparison]:
    """Compare the first method of each pair with the second, the p-values adjusted for the number of pairs."""
    comparisons = [compare_methods(marks, {method: 1, other: -1}) for method, other in pairs]
    adjusted = adjust_p_values([comparison.p for comparison in comparisons])
    return {
        pair: replace(comparison, p=float(p)) for pair, comparison, p in zip(pairs, comparisons, adjusted, strict=True)
    }


def adjust_p_values(p: Sequence[float]) -> np.ndarray:
    """Adjust p-values for their number by Holm's method (1979); the order is kept.

    Where the p-values hold, the probability that any claim with an adjusted p below a is wrong is at most a, for any
    dependence between the claims. `scipy.stats.false_discovery_control` bounds the share of wrong claims instead, which
    is too weak where every claim is read separately.
    """
    values = np.asarray(p, float)
    order = np.argsort(values, kind="stable")
    steps = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(steps, 1.0)
    return adjusted


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


def normalised_scores(marks: Marks[MethodKey], method: MethodKey, ceiling: MethodKey) -> np.ndarray:
    """Divide accuracies [S, T] by the means of `ceiling`; NaN where the ceiling's accuracy is zero."""
    runs, top = marks.accuracies(method)[0], marks.accuracies(ceiling)[0].mean(axis=0, keepdims=True)
    return np.divide(runs, top, out=np.full_like(runs, np.nan), where=top > 0)


def interquartile_mean(marks: Marks[MethodKey], method: MethodKey, ceiling: MethodKey) -> float:
    """Interquartile mean of the normalised scores of all (seed, task) runs, as in rliable (arXiv 2108.13264)."""
    return float(trim_mean(normalised_scores(marks, method, ceiling), 0.25, axis=None))


def performance_profile(
    marks: Marks[MethodKey], method: MethodKey, ceiling: MethodKey, thresholds: np.ndarray
) -> np.ndarray:
    """Share of (seed, task) runs whose normalised score exceeds each threshold, as in rliable; NaN if a score is."""
    scores = normalised_scores(marks, method, ceiling)[..., None]
    return np.where(np.isnan(scores), np.nan, scores > thresholds).mean(axis=(0, 1))
