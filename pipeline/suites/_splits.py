"""Which rows of a training split become training, which validation; and what two splits have in common."""

from hashlib import blake2b
from typing import cast

import numpy as np
import torch

LEAST = 10
"""Rows that a training split needs: a tenth of them becomes the validation split."""


def draw_pool(total: int, size: int, seed: int) -> np.ndarray:
    """Draw `size` of `total` rows without replacement, ascending; all rows if there are fewer."""
    return np.sort(np.random.default_rng(seed).choice(total, min(size, total), replace=False))


def split_validation(total: int) -> tuple[np.ndarray, np.ndarray]:
    """Split the training rows 90 % to 10 %, each part ascending, as is usual for these suites.

    The split is torch's random_split with seed 0. A pool is drawn from the first part alone,
    `train[draw_pool(len(train), size, seed)]`, so that it shares no row with the second.
    """
    held_out = int(total * 0.1)
    rng = torch.Generator().manual_seed(0)
    rows = cast("torch.utils.data.Dataset[int]", range(total))
    parts = torch.utils.data.random_split(rows, [total - held_out, held_out], rng)
    train, validation = (np.sort(np.array(part.indices, dtype=np.int64)) for part in parts)
    return train, validation


def count_overlap(a: np.ndarray, b: np.ndarray) -> int:
    """Count the examples of `a` that occur in `b`, by content; both [N, ...]."""
    contents = {_digest(example) for example in b}
    return sum(_digest(example) in contents for example in a)


def _digest(example: np.ndarray) -> bytes:
    return blake2b(np.ascontiguousarray(example).data, digest_size=16).digest()
