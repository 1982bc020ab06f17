"""Intervals over drawn seeds and examples, or seeds and tasks, by code that shares nothing with the report's.

The report draws with `scipy.stats.bootstrap`, whose draws follow from the definition of the generator: NumPy's default
one with seed 0 gives BATCH draws at a time, of the members of every axis in turn, as many as it has, with replacement;
an axis of one member is not drawn. Axes are the replicates, the sets of seeds, then the examples of every task, or the
tasks. Here members are weighted by how often they are drawn.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np

BATCH = 250
DRAWS, CONTRAST_DRAWS = 10_000, 2_000
"""Of a suite's comparisons and of numbers per task; of a study's comparisons of answers."""
TAIL = 0.025
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


@dataclass(frozen=True)
class AccuracyDraws:
    """Accuracies of one method or setting, in per cent; the same draws for all that were drawn together."""

    examples: np.ndarray
    """[draws, T], of drawn examples and seeds."""
    tasks: np.ndarray
    """[draws], averages of drawn tasks and seeds."""


def resample_runs(
    runs: Mapping[Key, Runs], count: int, axes: Sequence[tuple[int, ...]] = ()
) -> dict[Key, AccuracyDraws]:
    """Draw examples and tasks `count` times each; `axes`: sets of seeds that are drawn before those of the runs."""
    axes = [*dict.fromkeys((*axes, *(part.seeds for part in runs.values())))]
    [first, *_] = runs.values()
    replicates, tasks = len(first.right[0]), len(first.right)
    drawn = {key: AccuracyDraws(np.empty((count, tasks)), np.empty(count)) for key in runs}
    of_examples, of_tasks = np.random.default_rng(0), np.random.default_rng(0)
    for start in range(0, count, BATCH):
        batch = slice(start, start + BATCH)
        weights = _weigh_runs(of_examples, replicates, axes)
        for place, answers in enumerate(first.right):
            examples = 100 * weigh_members(of_examples, answers.shape[-1])
            for key, part in runs.items():
                means = np.einsum("bn,rsn->brs", examples, part.right[place], optimize=True)
                drawn[key].examples[batch, place] = (weights[part.seeds] * means).sum((1, 2))
        weights = _weigh_runs(of_tasks, replicates, axes)
        picked = weigh_members(of_tasks, tasks)
        for key, part in runs.items():
            drawn[key].tasks[batch] = np.einsum("brs,rst,bt->b", weights[part.seeds], part.accuracies, picked)
    return drawn


def resample_grid(grid: np.ndarray) -> np.ndarray:
    """Return the mean of a grid [S, T] of numbers in DRAWS draws of seeds and tasks."""
    generator, (seeds, tasks) = np.random.default_rng(0), grid.shape
    batches = (
        np.einsum("bs,st,bt->b", weigh_members(generator, seeds), grid, weigh_members(generator, tasks))
        for _ in range(0, DRAWS, BATCH)
    )
    return np.concatenate([*batches])


def resample_grids(grids: Sequence[np.ndarray]) -> np.ndarray:
    """Return the mean over grids [S, n] of their means in DRAWS draws of seeds, and of the members of every grid."""
    generator, means = np.random.default_rng(0), []
    for _ in range(0, DRAWS, BATCH):
        seeds = weigh_members(generator, len(grids[0]))
        parts = [np.einsum("bs,sn,bn->b", seeds, grid, weigh_members(generator, grid.shape[1])) for grid in grids]
        means.append(np.mean(parts, axis=0))
    return np.concatenate(means)


def weigh_members(generator: np.random.Generator, count: int) -> np.ndarray:
    """Return the share of every member in BATCH draws of as many as there are [BATCH, count]."""
    if count == 1:
        return np.ones((BATCH, 1))
    picks = generator.integers(0, count, (BATCH, count)) + count * np.arange(BATCH)[:, None]
    return np.bincount(picks.ravel(), minlength=BATCH * count).reshape(BATCH, count) / count


def _weigh_runs(
    generator: np.random.Generator, replicates: int, axes: Sequence[tuple[int, ...]]
) -> dict[tuple[int, ...], np.ndarray]:
    """Return {seeds: the share of every run in BATCH draws of replicates and of these seeds [BATCH, R, S]}."""
    drawn = weigh_members(generator, replicates)
    return {seeds: drawn[:, :, None] * weigh_members(generator, len(seeds))[:, None] for seeds in axes}


def central_interval(draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of the central 95 % of draws, of each column if there are several."""
    low, high = np.quantile(draws.round(DECIMALS), (TAIL, 1 - TAIL), axis=0)
    return low, high
