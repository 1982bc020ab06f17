"""Everything that is drawn: generators that depend on a seed and a key alone, images, batches."""

import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor


def generator(seed: int, *key: object) -> torch.Generator:
    """A generator that depends on `seed` and `key` alone."""
    digest = hashlib.sha256(repr((seed, *key)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def draw(pool: int, samples: int, seed: int, task: str) -> Tensor:
    """Indices [min(samples, pool)] of a task's calibration images: seeded, without replacement.

    Draws of one seed are nested: the first k of a larger draw are the draw of size k.
    """
    return torch.randperm(pool, generator=generator(seed, "draw", task))[:samples]


def batches(count: int, size: int, rng: torch.Generator) -> Iterator[Tensor]:
    """Endless batches of min(size, count) of `count` indices; reshuffled whenever all have been used."""
    size = min(size, count)
    waiting = torch.empty(0, dtype=torch.long)
    while True:
        while len(waiting) < size:
            waiting = torch.cat([waiting, torch.randperm(count, generator=rng)])
        yield waiting[:size]
        waiting = waiting[size:]
