"""Paired differences -> what they may be by chance: images and seeds are drawn, or tasks and seeds.

The audit's own draws, the same images for all differences on the same tasks: see `pipeline.audit.comparisons`.
"""

from collections.abc import Sequence

import numpy as np

from pipeline.audit.claimed import Drawn, Draws, Gain
from pipeline.audit.comparisons import BATCH, DRAWS, often


def draw(gains: Sequence[Gain]) -> Draws:
    """DRAWS draws of every difference."""
    generator = np.random.default_rng(20251226)
    found = {gain: Drawn(_like(gain.values, generator), None) for gain in dict.fromkeys(gains)}
    for sizes in dict.fromkeys(_sizes(gain) for gain in found if gain.answers is not None):
        alike = [gain for gain in found if gain.answers is not None and _sizes(gain) == sizes]
        for gain, drawn in zip(alike, _these(alike, sizes, generator), strict=True):
            found[gain] = Drawn(found[gain].like, drawn)
    return found


def _sizes(gain: Gain) -> tuple[int, ...]:
    """Images of every task."""
    return tuple(answers.shape[1] for answers in gain.answers or ())


def _weights(count: int, generator: np.random.Generator) -> np.ndarray:
    """The share of every member in draws of as many as there are: [DRAWS, count]."""
    return generator.multinomial(count, np.full(count, 1 / count), DRAWS) / count


def _like(values: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """[DRAWS] means of values [S, T] with seeds and tasks drawn."""
    seeds, tasks = (_weights(count, generator) for count in values.shape)
    return np.einsum("bs,st,bt->b", seeds, values, tasks)


def _these(gains: Sequence[Gain], sizes: tuple[int, ...], generator: np.random.Generator) -> list[np.ndarray]:
    """[DRAWS, T] means of every difference with images and seeds drawn."""
    counts = [len(gain.values) for gain in gains]
    seeds = {count: _weights(count, generator) for count in dict.fromkeys(counts)}
    found = [np.empty((DRAWS, len(sizes)), np.float32) for _ in gains]
    for task, size in enumerate(sizes):
        stacked = np.concatenate([gain.answers[task] for gain in gains]).astype(np.float32).T
        shares = np.concatenate([often(generator, size) @ stacked for _ in range(DRAWS // BATCH)]) * (100 / size)
        parts = np.split(shares, np.cumsum(counts)[:-1], axis=1)
        for drawn, part in zip(found, parts, strict=True):
            drawn[:, task] = (part * seeds[part.shape[1]]).sum(1)
    return found
