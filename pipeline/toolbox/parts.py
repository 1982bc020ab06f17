"""A tensor of all tasks cut into parts: the steps of a method that works entry by entry stay in a core's cache."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

PART = 1 << 14
"""Entries of each task in a part on the CPU, where memory is the limit. A GPU takes a tensor at once."""


def parts(stacked: Tensor) -> Sequence[Tensor]:
    """The entries of `stacked` [T, *shape], in order, as views [T, n]."""
    size = PART if stacked.device.type == "cpu" else stacked[0].numel()
    return stacked.reshape(len(stacked), -1).split(size, dim=1)


def entrywise(function: Callable[..., Tensor], stacked: Tensor, *others: Tensor) -> Tensor:
    """What `function` makes of `stacked` [T, *shape] and `others` [*shape], entry by entry: a tensor [*shape].

    It is called with a part [T, n] of `stacked` and [1, n] of each other, and returns [n]. In the order of the entries.
    """
    pieces = zip(parts(stacked), *(parts(other[None]) for other in others), strict=True)
    return torch.cat([function(*piece) for piece in pieces]).view(stacked.shape[1:])
