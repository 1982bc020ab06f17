"""Intervals and comparisons that count every source of chance: the test images, the seeds, and the tasks.

All models answer the same images, and the calibrated ones share draws and batches seed by seed. The bootstrap therefore
draws images (of each task) and seeds independently, with replacement, and crosses them (the pigeonhole bootstrap, Owen
2007, arXiv 0712.1111), the same draw for every method: differences are paired. Two questions have two intervals:

    these tasks         the test images of every task, and the seeds, are drawn
    tasks like these    the tasks, and the seeds, are drawn; a task's images are part of what makes tasks differ

Methods with the same seeds are paired seed by seed; others' seeds are drawn on their own. What there is only one of (a
method without randomness, a single seed) is not drawn: an interval does not cover it. Intervals are percentiles; with
few seeds they are rough and, if anything, too narrow. Where the experts were trained several times, these replicates
are one more source of chance: they are drawn for both questions, the same ones for every method.

Accuracies are shares in [0, 1]. Everything here is a function of the answers alone: the generator is fixed.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import bootstrap, trim_mean

from pipeline.runtime.errors import BenchmarkError

RESAMPLES = 10_000
BATCH = 250
"""Draws that are held in memory at once."""
LEVEL = 0.95
PRECISION = 12
"""Decimals beyond which a difference of shares is rounding of floating-point numbers."""
REPLICATES = ("replicates",)
"""The axis of trainings of the experts; no tuple of seeds."""

Correct = Mapping[str, Mapping[str, np.ndarray]]
"""{method: {task: bool [S, n]}}, whether each seed's model is right on each image."""
Drawn = Mapping[Hashable, np.ndarray]
"""{axis: int [B, size]}, the members of an axis in every draw."""


class StatisticsError(BenchmarkError):
    """Answers that cannot be compared."""


@dataclass(frozen=True)
class Interval:
    """A value and its 95 % interval; arrays where there are several."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True)
class Resampled:
    """Accuracies per method: `observed` [S, T], and [B, S, T] in B draws of images and seeds, or of tasks and seeds."""

    observed: Mapping[str, np.ndarray]
    images: Mapping[str, np.ndarray]
    tasks: Mapping[str, np.ndarray]
    count: int
    """Test images of all tasks."""


@dataclass(frozen=True)
class Difference:
    """One method minus another: mean accuracy over seeds, paired."""

    average: Interval
    """Of the mean over these tasks."""
    like: Interval
    """The same difference; the interval is that of tasks like these."""
    tasks: Interval
    """Of every task, [T]."""
    p: float
    """Two-sided, of no difference of the averages on these tasks; `against` adjusts it."""
    seeds: tuple[int, int]
    """How many runs each of the two has."""
    images: int
    """Test images of all tasks."""

    @property
    def won(self) -> int:
        """Tasks whose interval lies above zero."""
        return int((self.tasks.low > 0).sum())

    @property
    def lost(self) -> int:
        """Tasks whose interval lies below zero."""
        return int((self.tasks.high < 0).sum())


def pigeonhole(statistic: Callable[[Drawn], np.ndarray], sizes: Mapping[Hashable, int], resamples: int) -> np.ndarray:
    """`statistic`, floats [..., B], in B = `resamples` draws of the members of every axis, each axis drawn on its own.

    An axis of one member is not drawn.
    """
    axes = [axis for axis, size in sizes.items() if size > 1]
    if not axes:
        raise StatisticsError("nothing to draw from: one image per task and one seed; an interval needs more")

    def vectorised(*samples: np.ndarray, axis: int) -> np.ndarray:
        fixed = np.zeros((len(samples[0]), 1), int)
        return statistic(dict.fromkeys(sizes, fixed) | dict(zip(axes, samples, strict=True)))

    found = bootstrap(
        [np.arange(sizes[axis]) for axis in axes],
        vectorised,
        n_resamples=resamples,
        batch=BATCH,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    return found.bootstrap_distribution


def resample(
    correct: Correct, seeds: Mapping[str, Sequence], resamples: int = RESAMPLES, replicates: int = 1
) -> Resampled:
    """Draw the accuracies of all methods at once. seeds: of every method, in the order of its answers.

    replicates: trainings of the experts; every method then has its seeds' answers to the first, to the second, ...
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

    def replaced(drawn: Drawn) -> np.ndarray:
        """[R, B]: which of the R runs stands in each one's place, another replicate and seed of the same method."""
        others = [
            (drawn[REPLICATES][:, replicate] - replicate) * len(owner) + drawn[owner][:, place] - place
            for owner, replicate, place in runs
        ]
        return np.stack([run + other for run, other in enumerate(others)])

    def of_images(drawn: Drawn) -> np.ndarray:
        hits = [
            one @ multiplicities(drawn[task], size).T for one, (task, size) in zip(right, sizes.items(), strict=True)
        ]
        shares = np.stack(hits) / np.array([*sizes.values()], float)[:, None, None]
        return np.take_along_axis(shares, replaced(drawn)[None], axis=1)

    def of_tasks(drawn: Drawn) -> np.ndarray:
        return observed[drawn["tasks"].T[:, None], replaced(drawn)]

    def by_method(values: np.ndarray) -> dict[str, np.ndarray]:
        return {
            method: values[:, first:last].T for method, first, last in zip(correct, firsts, firsts[1:], strict=False)
        }

    drawable: dict[Hashable, int] = {REPLICATES: replicates, **{owner: len(owner) for owner, _, _ in runs}}
    images = pigeonhole(of_images, {**drawable, **sizes}, resamples)
    tasks = pigeonhole(of_tasks, {**drawable, "tasks": len(sizes)}, resamples)
    return Resampled(by_method(observed), by_method(images), by_method(tasks), sum(sizes.values()))


def multiplicities(drawn: np.ndarray, size: int) -> np.ndarray:
    """How often each of `size` members occurs in every draw [B, n]: float32 [B, size]."""
    shifted = drawn + size * np.arange(len(drawn))[:, None]
    return np.bincount(shifted.ravel(), minlength=len(drawn) * size).reshape(-1, size).astype(np.float32)


def interval(value: np.ndarray, draws: np.ndarray) -> Interval:
    """`value` with the percentile interval of `draws` [B, ...]."""
    low, high = np.quantile(draws, ((1 - LEVEL) / 2, (1 + LEVEL) / 2), axis=0)
    return Interval(np.asarray(value), low, high)


def difference(found: Resampled, method: str, other: str) -> Difference:
    """`method` minus `other`."""

    def minus(runs: Mapping[str, np.ndarray]) -> np.ndarray:
        """[..., T]: means over seeds, subtracted."""
        return (runs[method].mean(axis=-2) - runs[other].mean(axis=-2)).round(PRECISION)

    observed, images, tasks = minus(found.observed), minus(found.images), minus(found.tasks)
    averages = images.mean(axis=-1).round(PRECISION)
    rarer = min((averages <= 0).sum(), (averages >= 0).sum())
    return Difference(
        average=interval(observed.mean(), averages),
        like=interval(observed.mean(), tasks.mean(axis=-1).round(PRECISION)),
        tasks=interval(observed, images),
        p=min(1.0, 2 * (1 + int(rarer)) / (1 + len(averages))),
        seeds=(found.observed[method].shape[0], found.observed[other].shape[0]),
        images=found.count,
    )


@dataclass(frozen=True)
class Components:
    """Standard deviations of a number that was measured in several replicates with several seeds."""

    replicates: float
    """Over replicates, of the mean over seeds; undefined with one replicate."""
    seeds: float
    """Over seeds, within replicates and pooled over them; undefined with one seed."""
    share: float
    """Of the variance of a single run, what the replicate explains, in [0, 1]; undefined where either is."""


def components(runs: np.ndarray) -> Components:
    """What the replicates and the seeds do to a number [R, S]: the same S seeds in each of R replicates.

    The share is that of the crossed analysis of variance: the mean over S seeds still has the interaction's variance
    over S, which is no variance of replicates. Its estimate may fall below zero and is then zero.
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
        share = training / (training + within) if round(training + within, PRECISION) > 0 else np.nan
    return Components(float(np.sqrt(between)), float(np.sqrt(within)), float(share))


def against(found: Resampled, method: str, others: Sequence[str]) -> dict[str, Difference]:
    """`method` minus each of `others`, with p adjusted for their number."""
    differences = [difference(found, method, other) for other in others]
    adjusted = holm([one.p for one in differences])
    return {name: replace(one, p=float(p)) for name, one, p in zip(others, differences, adjusted, strict=True)}


def holm(p: Sequence[float]) -> np.ndarray:
    """p-values adjusted for their number (Holm 1979), in the order given.

    The chance that any of the claims with an adjusted p below a is wrong is at most a, however the claims depend on
    each other. `scipy.stats.false_discovery_control` bounds the share of wrong claims instead, which is too little
    where each is read on its own.
    """
    values = np.asarray(p, float)
    order = np.argsort(values, kind="stable")
    steps = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(steps, 1.0)
    return adjusted


def normalised(found: Resampled, method: str, ceiling: str) -> tuple[np.ndarray, np.ndarray]:
    """Accuracies over those of `ceiling` on the same images: observed [S, T] and drawn [B, S, T].

    Undefined where the ceiling's are zero.
    """
    pairs = [(runs[method], runs[ceiling].mean(axis=-2, keepdims=True)) for runs in (found.observed, found.images)]
    own, drawn = (np.divide(one, top, out=np.full_like(one, np.nan), where=top > 0) for one, top in pairs)
    return own, drawn


def iqm(found: Resampled, method: str, ceiling: str) -> Interval:
    """Interquartile mean of the normalised scores of all (seed, task) runs, as in rliable (arXiv 2108.13264)."""
    own, drawn = normalised(found, method, ceiling)
    return interval(*(trim_mean(runs.reshape(*runs.shape[:-2], -1), 0.25, axis=-1) for runs in (own, drawn)))


def profile(found: Resampled, method: str, ceiling: str, thresholds: np.ndarray) -> Interval:
    """Share of (seed, task) runs whose normalised score exceeds each threshold, as in rliable."""
    own, drawn = normalised(found, method, ceiling)

    def above(runs: np.ndarray) -> np.ndarray:
        shares = [(runs > threshold).mean(axis=(-2, -1)) for threshold in thresholds]
        return np.where(np.isnan(runs).any(axis=(-2, -1)), np.nan, shares).T

    return interval(above(own), above(drawn))


def _sizes(correct: Correct, seeds: Mapping[str, Sequence], replicates: int) -> dict[str, int]:
    """{task: images}; StatisticsError unless every method answered the same images once per replicate and seed."""
    first = next(iter(correct.values()))
    for method, tasks in correct.items():
        for task, right in first.items():
            expected = (replicates * len(seeds[method]), right.shape[1])
            found = tasks[task].shape if task in tasks else None
            if found != expected:
                raise StatisticsError(
                    f"{method}: answers of {task} have shape {found}, expected {expected}; run dvc repro"
                )
    return {task: right.shape[1] for task, right in first.items()}
