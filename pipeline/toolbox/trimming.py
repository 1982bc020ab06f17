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
BUCKETS = 1 << 17
CHUNK = 1 << 22
"""Values looked at together."""


def flat(vector: Mapping[str, Tensor]) -> Tensor:
    """All entries of a model's tensors, one after the other [P]."""
    return torch.cat([tensor.flatten() for tensor in vector.values()])


def lowest_of_top(values: Tensor, share: float) -> Tensor:
    """The smallest of the `share` of largest `values` [P]: that of rank ceil(share * P) from the top; a scalar.

    Exact. The values are counted into buckets by their leading bits, so that only one bucket has to be ordered.
    """
    rank = len(values) - math.ceil(share * len(values)) + 1
    parts = values.split(CHUNK)
    counts = torch.stack([torch.bincount(_bucket(part), minlength=BUCKETS) for part in parts]).sum(0)
    filled = counts.cumsum(0)
    found = torch.searchsorted(filled, rank)
    candidates = torch.cat([part[_bucket(part) == found] for part in parts])
    return candidates.kthvalue(rank - int(filled[found] - counts[found])).values


def _bucket(values: Tensor) -> Tensor:
    """A number from 0 to BUCKETS - 1 per value, in the order of the values: the leading bits of their float32."""
    bits = values.to(torch.float32).view(torch.int32)
    return ((bits ^ ((bits >> 31) & 0x7FFFFFFF)) >> 15) + BUCKETS // 2


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

    `read(name)` gives a tensor of all tasks [T, *shape]; `thresholds` [T]. The elected sign is that of the sum of the
    trimmed vectors; where they cancel out, the majority of signs over all entries.
    """
    merged, majority, cancelled = {}, 0, []
    for name in names:
        entries = trimmed(read(name), thresholds)
        elected = entries.sum(0).sign()
        merged[name] = _agreeing(entries, elected, aggregate)
        majority += int(elected.sum(dtype=torch.int64))
        if bool(((elected == 0) & (entries != 0).any(0)).any()):
            cancelled.append(name)
    for name in cancelled:
        entries = trimmed(read(name), thresholds)
        merged[name] = _agreeing(entries, elect(entries, majority), aggregate)
    return merged


def selected(vectors: Mapping[str, Tensor], keep: float) -> Weights:
    """The task vectors [T, *shape] with zeros where TIES would not take an entry.

    An entry is taken if it is among the `keep` share of its task's largest and has the elected sign.
    """
    tasks = range(len(next(iter(vectors.values()))))
    thresholds = torch.stack(
        [threshold({name: stacked[task] for name, stacked in vectors.items()}, keep) for task in tasks]
    )
    kept = {name: trimmed(stacked, thresholds) for name, stacked in vectors.items()}
    majority = sum(int(entries.sum(0).sign().sum(dtype=torch.int64)) for entries in kept.values())
    return {name: _taken(kept.pop(name), majority) for name in vectors}  # pop: no third set of the task vectors


def _taken(entries: Tensor, majority: int) -> Tensor:
    return entries * (entries * elect(entries, majority) > 0)


def elect(entries: Tensor, majority: int) -> Tensor:
    """The elected signs [*shape] of trimmed `entries` [T, *shape]: of their sum, or of `majority` where it is zero."""
    signs = entries.sum(0).sign()
    return torch.where(signs == 0, float(np.sign(majority)), signs)


def _agreeing(entries: Tensor, elected: Tensor, aggregate: Aggregate) -> Tensor:
    agreeing = (entries * elected > 0).to(entries.dtype)
    total = (entries * agreeing).sum(0)
    return total / agreeing.sum(0).clamp(min=1) if aggregate == "mean" else total
