"""Trimming task vectors by magnitude over the whole model, electing signs, merging what agrees (arXiv 2306.01708).

Functions of one task's whole vector or of one tensor of all tasks at a time: memory is a few models, whatever T.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from pipeline.model import Weights

Aggregate = Literal["mean", "sum"]


def flat(vector: Mapping[str, Tensor]) -> Tensor:
    """All entries of a model's tensors, one after the other [P]."""
    return torch.cat([tensor.flatten() for tensor in vector.values()])


def lowest_of_top(values: Tensor, share: float) -> Tensor:
    """The smallest of the `share` of largest `values` [P]: that of rank ceil(share * P) from the top; a scalar."""
    below = len(values) - math.ceil(share * len(values))
    return values.new_tensor(np.partition(values.cpu().numpy(), below)[below])  # kthvalue is slower and takes indices


def threshold(vector: Mapping[str, Tensor], keep: float) -> Tensor:
    """The smallest magnitude among the `keep` share of largest ones in one task's whole vector; a scalar."""
    return lowest_of_top(flat(vector).abs(), keep)


def over_tasks(values: Tensor, stacked: Tensor) -> Tensor:
    """One value per task [T], shaped to act on the tasks of `stacked` [T, *shape]."""
    return values.view(-1, *[1] * (stacked.ndim - 1))


def trimmed(stacked: Tensor, thresholds: Tensor) -> Tensor:
    """`stacked` [T, *shape] with zeros where the magnitude is below its task's threshold [T]; ties are kept."""
    return torch.where(stacked.abs() >= over_tasks(thresholds, stacked), stacked, torch.zeros_like(stacked))


def merge_agreeing(
    read: Callable[[str], Tensor], names: Iterable[str], thresholds: Tensor, aggregate: Aggregate
) -> Weights:
    """Per entry the mean or sum over the trimmed task vectors that have the elected sign: {name: tensor}.

    `read(name)` gives a tensor of all tasks [T, *shape] and is asked twice for each of `names`; `thresholds` [T]. The
    elected sign is that of the sum of the trimmed vectors; where it is zero, the majority of signs over all entries.
    """
    totals = {name: trimmed(read(name), thresholds).sum(0) for name in names}
    majority = torch.stack([total.sign().sum() for total in totals.values()]).sum().sign()
    return {
        name: _agreeing(trimmed(read(name), thresholds), torch.where(total == 0, majority, total.sign()), aggregate)
        for name, total in totals.items()
    }


def _agreeing(stacked: Tensor, elected: Tensor, aggregate: Aggregate) -> Tensor:
    agreeing = (stacked * elected > 0).to(stacked.dtype)
    total = (stacked * agreeing).sum(0)
    return total / agreeing.sum(0).clamp(min=1) if aggregate == "mean" else total
