"""Split a tensor of all tasks into parts, so that a method that works entry by entry stays in a core's cache."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

PART = 1 << 14
"""Entries of each task in a part on the CPU, where memory bandwidth is the limit; the last part has up to 2 * PART - 1.

A GPU processes a tensor at once.
"""


def split_entries(stacked: Tensor) -> Sequence[Tensor]:
    """Split the entries of `stacked` [T, *shape], in order, into views [T, n]."""
    entries = stacked.reshape(len(stacked), -1)
    further = entries.shape[1] // PART - 1 if stacked.device.type == "cpu" else 0
    if further < 1:
        return (entries,)
    # No short part at the end: torch sums entries that do not fill its vectors in another order, so bytes would differ.
    return entries.split([PART] * further + [entries.shape[1] - PART * further], dim=1)


def apply_entrywise(function: Callable[..., Tensor], stacked: Tensor, *others: Tensor) -> Tensor:
    """Apply an entrywise `function` to `stacked` [T, *shape] and `others` [*shape] part by part; return [*shape].

    It takes a part [T, n] of `stacked` and [1, n] of each other tensor, and returns [n]. Parts come in order.
    """
    arguments = zip(split_entries(stacked), *(split_entries(other[None]) for other in others), strict=True)
    return torch.cat([function(*piece) for piece in arguments]).view(stacked.shape[1:])
