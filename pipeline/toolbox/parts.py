"""A tensor of all tasks cut into parts: the steps of a method that works entry by entry stay in a core's cache."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

PART = 1 << 14
"""Entries of each task in a part on the CPU, where memory is the limit; twice as many in the last one, less one.

A GPU takes a tensor at once.
"""


def parts(stacked: Tensor) -> Sequence[Tensor]:
    """The entries of `stacked` [T, *shape], in order, as views [T, n]."""
    entries = stacked.reshape(len(stacked), -1)
    further = entries.shape[1] // PART - 1 if stacked.device.type == "cpu" else 0
    if further < 1:
        return (entries,)
    # No short part at the end: torch adds up what does not fill its vectors in another order, alone or in a part.
    return entries.split([PART] * further + [entries.shape[1] - PART * further], dim=1)


def entrywise(function: Callable[..., Tensor], stacked: Tensor, *others: Tensor) -> Tensor:
    """What `function` makes of `stacked` [T, *shape] and `others` [*shape], entry by entry: a tensor [*shape].

    It is called with a part [T, n] of `stacked` and [1, n] of each other, and returns [n]. In the order of the entries.
    """
    pieces = zip(parts(stacked), *(parts(other[None]) for other in others), strict=True)
    return torch.cat([function(*piece) for piece in pieces]).view(stacked.shape[1:])
