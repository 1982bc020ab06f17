"""Trimming task vectors by magnitude over the whole model, electing signs, merging what agrees (arXiv 2306.01708).

Functions of one task's whole vector or of one tensor of all tasks at a time: memory is a few models, whatever T.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import hardshrink

from pipeline.models.weights import Weights
from pipeline.toolbox.parts import parts

Aggregate = Literal["mean", "sum"]


def flat(vector: Mapping[str, Tensor]) -> Tensor:
    """All entries of a model's tensors, one after the other [P]."""
    return torch.cat([tensor.flatten() for tensor in vector.values()])


def ranked(values: Tensor, rank: int) -> Tensor:
    """The entry of `values` [P] that has `rank` smaller ones before it when they are sorted; a scalar.

    By NumPy on the CPU: its selection uses vector instructions and takes a quarter of the time of torch's.
    """
    if values.device.type != "cpu":
        return values.kthvalue(rank + 1).values
    return torch.as_tensor(np.partition(values.numpy(), rank)[rank])


def lowest_of_top(values: Tensor, share: float) -> Tensor:
    """The smallest of the `share` of largest `values` [P]: that of rank ceil(share * P) from the top; a scalar."""
    return ranked(values, len(values) - math.ceil(share * len(values)))


def threshold(vector: Mapping[str, Tensor], keep: float) -> Tensor:
    """The smallest magnitude among the `keep` share of largest ones in one task's whole vector; a scalar."""
    return lowest_of_top(flat(vector).abs_(), keep)


def over_tasks(values: Tensor, stacked: Tensor) -> Tensor:
    """One value per task [T], shaped to act on the tasks of `stacked` [T, *shape]."""
    return values.view(-1, *[1] * (stacked.ndim - 1))


def trimmed(stacked: Tensor, thresholds: Tensor) -> Tensor:
    """`stacked` [T, *shape] with zeros where the magnitude is below its task's threshold [T]; ties are kept."""
    below = torch.nextafter(thresholds, torch.zeros_like(thresholds)).tolist()
    return torch.stack([hardshrink(entries, limit) for entries, limit in zip(stacked, below, strict=True)])


def merge_agreeing(
    read: Callable[[str], Tensor], names: Iterable[str], thresholds: Tensor, aggregate: Aggregate
) -> Weights:
    """Per entry the mean or sum over the trimmed task vectors that have the elected sign: {name: tensor}.

    `read(name)` gives a tensor of all tasks [T, *shape]; `thresholds` [T]. The elected sign is that of the sum of the
    trimmed vectors; where they cancel out, the majority of signs over all entries.
    """
    merged, majority, cancelled = {}, 0, []
    for name in names:
        merged[name], votes, undecided = _agreeing(read(name), thresholds, 0, aggregate)
        majority += votes
        if undecided:
            cancelled.append(name)
    for name in cancelled:
        merged[name], *_ = _agreeing(read(name), thresholds, majority, aggregate)
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
    return signs + (1 - signs.abs()) * float(np.sign(majority))


def _agreeing(stacked: Tensor, thresholds: Tensor, majority: int, aggregate: Aggregate) -> tuple[Tensor, int, bool]:
    """One merged tensor [*shape], the sum of its elected signs, and whether task vectors cancelled without election."""
    merged, votes, undecided = [], 0, False
    for part in parts(stacked):
        entries = trimmed(part, thresholds)
        elected = elect(entries, majority)
        agreeing = torch.relu(entries * elected)
        total = agreeing.sum(0) * elected + 0.0  # no -0.0
        merged.append(total / (agreeing > 0).sum(0).clamp(min=1) if aggregate == "mean" else total)
        votes += int(elected.sum(dtype=torch.int64))
        undecided = undecided or bool((entries.amax(0) * (1 - elected.abs())).any())
    return torch.cat(merged).view(stacked.shape[1:]), votes, undecided
