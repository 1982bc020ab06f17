"""Intervals over seeds and examples, or seeds and tasks, by code that shares nothing with the report's.

A difference is a mean over crossed axes: the examples of every task (or clusters of them) or the tasks, every set of
seeds, the trainings of the experts. Each axis of n > 1 members adds the variance of their means, over n. The interval
is Student's t, whose degrees of freedom follow from the shares that the axes have of the sum (Satterthwaite).
"""

import itertools
import math
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, TypeVar

import numpy as np

CHANCE, NORMAL = 0.05, 1.959963984540054
"""Share of cases that an interval does not cover, and the ends of such an interval of a standard normal variable."""
DECIMALS = 10
"""Of a point; beyond them a difference is rounding of floating-point numbers."""

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Runs:
    """The answers of a method or setting in R replicates and S seeds."""

    seeds: tuple[int, ...]
    """Ascending."""
    right: Sequence[np.ndarray]
    """Per task [R, S, n], 1 for examples that were answered rightly."""

    @cached_property
    def accuracies(self) -> np.ndarray:
        """[R, S, T], in per cent."""
        return np.stack([100 * task.mean(-1) for task in self.right], -1)


class Bounds(NamedTuple):
    """The ends of an interval, and the two-sided p of zero."""

    low: float
    high: float
    p: float


class Sum(NamedTuple):
    """A weighted sum of accuracies, in points."""

    tasks: np.ndarray
    """[T]."""
    average: Bounds
    """Of the mean over tasks, over examples and seeds."""
    like: Bounds
    """The same over tasks and seeds."""
    each: tuple[Bounds, ...]
    """Of every task, over examples and seeds."""


def weigh_runs(
    runs: Mapping[Key, Runs], weights: Mapping[Key, float], clusters: Sequence[np.ndarray | None] = ()
) -> Sum:
    """Return the sum of the accuracies of methods or settings, times their weights, with its intervals.

    clusters: per task [n, 1 + C] or None, as a suite has them: strata, and examples that depend on each other.
    """
    chosen = [(runs[key], weight) for key, weight in weights.items()]
    number = len(chosen[0][0].right)
    shared = [_add(weight * part.accuracies.mean(1) for part, weight in chosen)]
    for seeds in {part.seeds for part, _ in chosen}:
        shared.append(_add(weight * part.accuracies.mean(0) for part, weight in chosen if part.seeds == seeds))
    examples = [_add(100 * weight * part.right[task].mean((0, 1)) for part, weight in chosen) for task in range(number)]
    drawn = [list(pool_examples(*parts)) for parts in itertools.zip_longest(examples, clusters)]
    tasks = np.array([effects.mean() for effects in examples])
    means = [axis.mean(1) for axis in shared]
    return Sum(
        tasks,
        bound_mean(tasks.mean(), [*(axis / number for axes in drawn for axis in axes), *means]),
        bound_mean(tasks.mean(), [tasks, *means]),
        tuple(
            bound_mean(mean, [*axes, *(axis[:, task] for axis in shared)])
            for task, (mean, axes) in enumerate(zip(tasks, drawn, strict=True))
        ),
    )


def pool_examples(effects: np.ndarray, clusters: np.ndarray | None) -> Iterator[np.ndarray]:
    """Yield what the clusters of every stratum contribute to the mean of effects [n], times their number."""
    if clusters is None:
        yield effects
        return
    for stratum in sorted({*clusters[:, 0].tolist()}):
        part = clusters[:, 0] == stratum
        share, middle = part.sum() / len(effects), effects[part].mean()
        for way in range(1, clusters.shape[1]):
            names = sorted({*clusters[part, way].tolist()})
            sums = [(effects[part & (clusters[:, way] == name)] - middle).sum() for name in names]
            yield share * middle + len(names) / len(effects) * np.array(sums)


def bound_grid(grid: np.ndarray) -> Bounds:
    """Bound the mean of a grid [S, T] of numbers, over seeds and tasks."""
    return bound_mean(grid.mean(), [grid.mean(0), grid.mean(1)])


def bound_grids(grids: Sequence[np.ndarray]) -> Bounds:
    """Bound the mean over grids [S, n] of their means, over seeds and the members of every grid."""
    seeds = _add(grid.mean(1) / len(grids) for grid in grids)
    return bound_mean(seeds.mean(), [seeds, *(grid.mean(0) / len(grids) for grid in grids)])


def bound_mean(mean: float, axes: Iterable[np.ndarray]) -> Bounds:
    """Bound a mean; axes: the means of the members of each."""
    several = [axis.round(DECIMALS) for axis in axes if len(axis) > 1]
    shares = [(((axis - axis.mean()) ** 2).sum() / len(axis) / (len(axis) - 1), len(axis) - 1) for axis in several]
    variance, mean = sum(share for share, _ in shares), round(float(mean), DECIMALS)
    if not variance:
        return Bounds(mean, mean, float(mean == 0))
    freedom = 1 / sum((share / variance) ** 2 / members for share, members in shares)
    error = variance**0.5
    half = error * find_end(freedom)
    return Bounds(round(mean - half, DECIMALS), round(mean + half, DECIMALS), measure_tails(mean / error, freedom))


def find_end(freedom: float) -> float:
    """Return the x beyond which, on both sides, Student's t is with probability CHANCE.

    By Newton's method from the left: tails are convex, so that no step goes too far.
    """
    scale = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2) - math.log(freedom * math.pi) / 2
    x, step = NORMAL, 1.0
    while step > 1e-12 * x:
        density = math.exp(scale - (freedom + 1) / 2 * math.log1p(x * x / freedom))
        step = (measure_tails(x, freedom) - CHANCE) / (2 * density)
        x += step
    return x


def measure_tails(x: float, freedom: float) -> float:
    """Return the probability that |t| > |x|, for Student's t."""
    return _beta(freedom / 2, 0.5, freedom / (freedom + x * x))


def _beta(a: float, b: float, x: float) -> float:
    """Return the regularised incomplete beta function, by its continued fraction (Abramowitz & Stegun 26.5.8)."""
    if not 0 < x < 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta(b, a, 1 - x)
    value, above, below, step, order = 1.0, 1.0, 0.0, 0.0, 0
    while abs(step - 1) > 1e-15:  # Lentz's algorithm
        order += 1
        half = order // 2
        if order % 2:
            term = -(a + half) * (a + b + half) * x / ((a + 2 * half) * (a + 2 * half + 1))
        else:
            term = half * (b - half) * x / ((a + 2 * half - 1) * (a + 2 * half))
        below, above = 1 / (1 + term * below), 1 + term / above
        step = above * below
        value *= step
    front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(front) / a / value


def _add(parts: Iterable[np.ndarray]) -> np.ndarray:
    return np.sum([*parts], axis=0)
