"""Paired differences -> their 95 % intervals, to the digit: the draws follow from the definition of the generator.

Intervals are percentiles of the crossed bootstrap (Owen 2007, arXiv 0712.1111). NumPy's default generator with seed 0
gives 250 draws at a time: of the members of every axis in turn, as many as it has, with replacement; an axis of one
member is not drawn. Axes are the seeds and then the images of every task, or the seeds and then the tasks; before them
the replicates, where experts were trained several times. Here the members are weighted by how often they are drawn.
"""

from collections.abc import Sequence

import numpy as np

from pipeline.audit.claimed import Drawn, Draws, Gain

COUNTED, ANSWERED, BATCH = 10_000, 2_000, 250
"""Draws where a study keeps counts, and where it keeps answers; how many are drawn at a time."""
DECIMALS = 10
"""Of a point; beyond them a difference is rounding of floating-point numbers."""


def draw(gains: Sequence[Gain]) -> Draws:
    """The intervals of every difference."""
    found = {gain: Drawn(_interval(_like(gain))) for gain in dict.fromkeys(gains)}
    kinds = {gain: (_axes(gain), *(len(one[0]) for one in gain.answers)) for gain in found if gain.answers}
    for kind in dict.fromkeys(kinds.values()):
        alike = [gain for gain, own in kinds.items() if own == kind]
        for gain, draws in zip(alike, _these(alike, *kind), strict=True):
            low, high = np.quantile(draws.round(DECIMALS), (0.025, 0.975), axis=0)
            won, lost = int((low > 0).sum()), int((high < 0).sum())
            found[gain] = Drawn(found[gain].like, _interval(draws.mean(1)), (won, lost))
    return found


def _interval(draws: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(draws.round(DECIMALS), (0.025, 0.975))
    return float(low), float(high)


def _shares(generator: np.random.Generator, count: int) -> np.ndarray:
    """The share of every member in BATCH draws of as many as there are [BATCH, count]."""
    if count == 1:
        return np.ones((BATCH, 1))
    picks = generator.integers(0, count, (BATCH, count)) + count * np.arange(BATCH)[:, None]
    return np.bincount(picks.ravel(), minlength=BATCH * count).reshape(BATCH, count) / count


def _axes(gain: Gain) -> tuple[int, ...]:
    """How many seeds there are to draw; how many of each kind where several draws are crossed."""
    return gain.axes or (len(gain.values),)


def _runs(generator: np.random.Generator, axes: Sequence[int]) -> np.ndarray:
    """The share of every run in BATCH draws of seeds, each axis drawn on its own [BATCH, S]."""
    weights = np.ones((BATCH, 1))
    for count in axes:
        weights = (weights[:, :, None] * _shares(generator, count)[:, None]).reshape(BATCH, -1)
    return weights


def _like(gain: Gain) -> np.ndarray:
    """Means [B] with replicates, seeds and tasks drawn."""
    generator, found = np.random.default_rng(0), []
    for _ in range((COUNTED if gain.answers is None else ANSWERED) // BATCH):
        seeds, tasks = _runs(generator, _axes(gain)), _shares(generator, gain.values.shape[1])
        found.append(np.einsum("bs,st,bt->b", seeds, gain.values, tasks))
    return np.concatenate(found)


def _these(gains: Sequence[Gain], axes: Sequence[int], *images: int) -> list[np.ndarray]:
    """Of every difference the means [B, T] with seeds and images drawn; all have the same seeds and images."""
    generator = np.random.default_rng(0)
    stacked = [100 * np.concatenate([gain.answers[task] for gain in gains]).T for task in range(len(images))]
    found = np.empty((len(gains), ANSWERED, len(images)))
    for start in range(0, ANSWERED, BATCH):
        weights = _runs(generator, axes)
        for task, size in enumerate(images):
            means = (_shares(generator, size) @ stacked[task]).reshape(BATCH, len(gains), -1)
            found[:, start : start + BATCH, task] = np.einsum("bgs,bs->gb", means, weights)
    return [*found]
