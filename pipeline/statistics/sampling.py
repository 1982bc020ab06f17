"""Seeded randomness: generators that depend only on a seed and a key, samples of examples, batches."""

import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor


def generator(seed: int, *key: object) -> torch.Generator:
    """Return a generator that depends only on `seed` and `key`."""
    digest = hashlib.sha256(repr((seed, *key)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def sample_indices(pool: int, samples: int, seed: int, task: str) -> Tensor:
    """Draw the indices [min(samples, pool)] of a task's calibration examples, without replacement.

    Samples of one seed are nested: the first k of a larger sample are the sample of size k.
    """
    return torch.randperm(pool, generator=generator(seed, "draw", task))[:samples]


def batches(count: int, size: int, rng: torch.Generator) -> Iterator[Tensor]:
    """Yield endless batches of min(size, count) of `count` indices, reshuffled whenever all have been used."""
    size = min(size, count)
    waiting = torch.empty(0, dtype=torch.long)
    while True:
        while len(waiting) < size:
            waiting = torch.cat([waiting, torch.randperm(count, generator=rng)])
        yield waiting[:size]
        waiting = waiting[size:]
