"""Trim task vectors by magnitude over the whole model, elect signs, merge agreeing entries (arXiv 2306.01708).

The functions take one tensor of all tasks at a time: memory is a few models for any T.
"""

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import reduce
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import hardshrink

from pipeline.models.task_vectors import TaskVectors
from pipeline.models.weights import Weights
from pipeline.runtime.threads import map_tensors
from pipeline.toolbox.parts import split_entries

Aggregate = Literal["mean", "sum"]
LEADING_BITS = 12
"""Bits by which magnitudes are counted: of float32 the exponent and the first four of the mantissa."""
INTEGERS = {4: torch.int32, 8: torch.int64}
"""{bytes of a float: the integer of its size}."""


def flatten(vector: Mapping[str, Tensor]) -> Tensor:
    """Concatenate all entries of a model's tensors [P]."""
    return torch.cat([tensor.flatten() for tensor in vector.values()])


def entry_of_rank(values: Tensor, rank: int) -> Tensor:
    """Return the entry of `values` [P] at position `rank`, from 0, in ascending order; a scalar.

    NumPy selects it on the CPU: it uses vector instructions and takes a quarter of torch's time.
    """
    if values.device.type != "cpu":
        return values.kthvalue(rank + 1).values
    return torch.as_tensor(np.partition(values.numpy(), rank)[rank])


def lowest_of_top(values: Tensor, share: float) -> Tensor:
    """Return the smallest of the `share` of largest `values` [P], the ceil(share * P)-th from the top; a scalar."""
    return entry_of_rank(values, len(values) - math.ceil(share * len(values)))


def trim_thresholds(read: Callable[[str], Tensor], names: Collection[str], keep: float) -> Tensor:
    """Return each task's smallest magnitude [T] among the `keep` share of largest ones of its whole vector.

    `read(name)` returns a tensor of all tasks [T, *shape], float32 or float64, and the same one when it is called
    again. Magnitudes sort as the integers with the same bits do. The first pass counts them by their leading bits, the
    second collects the few that share these with the threshold: of no task is the whole vector in memory.
    """
    counts = reduce(torch.add, map_tensors(lambda name: _count_buckets(read(name)), names).values())
    upto = counts.cumsum(1)
    size = int(upto[0, -1])
    ranks = torch.full_like(upto[:, :1], size - math.ceil(keep * size))
    buckets = torch.searchsorted(upto, ranks, right=True)
    places = (ranks - (upto - counts).gather(1, buckets)).flatten().tolist()
    wanted = torch.where(buckets > 0, buckets, -1)  # a mask or a low rank leaves many zeros, which need no search
    candidates = map_tensors(lambda name: _entries_in(read(name), wanted), names).values()
    magnitudes = [torch.cat(parts) for parts in zip(*candidates, strict=True)]
    return torch.stack(
        [
            entry_of_rank(values, place) if len(values) else values.new_zeros(())
            for values, place in zip(magnitudes, places, strict=True)
        ]
    )


def _bucket(magnitudes: Tensor) -> Tensor:
    """Return the leading bits of every magnitude, plus one; 0 for zeros and for nothing else."""
    size = magnitudes.element_size()
    return ((magnitudes.view(INTEGERS[size]) - 1) >> (8 * size - 1 - LEADING_BITS)) + 1


def _count_buckets(stacked: Tensor) -> Tensor:
    """Count the entries of `stacked` [T, *shape] by bucket: [T, 2**LEADING_BITS + 1]."""
    parts = (
        torch.stack([torch.bincount(row, minlength=2**LEADING_BITS + 1) for row in _bucket(part.abs())])
        for part in split_entries(stacked)
    )
    return reduce(torch.add, parts)


def _entries_in(stacked: Tensor, buckets: Tensor) -> list[Tensor]:
    """Return, per task, the magnitudes of `stacked` [T, *shape] that are in its bucket of `buckets` [T, 1]."""
    parts = []
    for part in split_entries(stacked):
        magnitudes = part.abs()
        parts.append([*map(_select, magnitudes, _bucket(magnitudes) == buckets)])
    return [torch.cat(values) for values in zip(*parts, strict=True)]


def _select(values: Tensor, mask: Tensor) -> Tensor:
    """Return `values[mask]`; on the CPU by NumPy, in half of torch's time."""
    return values[mask] if values.device.type != "cpu" else torch.from_numpy(values.numpy()[mask.numpy()])


def align_tasks(values: Tensor, stacked: Tensor) -> Tensor:
    """Reshape one value per task [T] so that it broadcasts over `stacked` [T, *shape]."""
    return values.view(-1, *[1] * (stacked.ndim - 1))


def trim(stacked: Tensor, thresholds: Tensor) -> Tensor:
    """Set entries of `stacked` [T, *shape] below their task's threshold [T] in magnitude to zero; ties are kept."""
    below = torch.nextafter(thresholds, torch.zeros_like(thresholds)).tolist()
    return torch.stack([hardshrink(entries, limit) for entries, limit in zip(stacked, below, strict=True)])


def merge_trimmed(vectors: TaskVectors, keep: float, scale: float, aggregate: Aggregate) -> Weights:
    """Trim every task's whole vector to its `keep` share, and return `scale` times the merge of what agrees."""
    thresholds = trim_thresholds(vectors.__getitem__, vectors, keep)
    merged = merge_agreeing(vectors.__getitem__, vectors, thresholds, aggregate)
    return {name: scale * tensor for name, tensor in merged.items()}


def merge_agreeing(
    read: Callable[[str], Tensor], names: Iterable[str], thresholds: Tensor, aggregate: Aggregate
) -> Weights:
    """Take the mean or sum, per entry, of the trimmed task vectors that have the elected sign: {name: tensor}.

    `read(name)` returns a tensor of all tasks [T, *shape]; `thresholds` [T]. The elected sign is that of the sum of the
    trimmed vectors; where they cancel out, it is the majority of the signs over all entries.
    """
    first = map_tensors(lambda name: _merge_tensor(read(name), thresholds, 0, aggregate), names)
    majority = sum(votes for _, votes, _ in first.values())
    cancelled = [name for name, (_, _, undecided) in first.items() if undecided]
    second = map_tensors(lambda name: _merge_tensor(read(name), thresholds, majority, aggregate), cancelled)
    return {name: tensor for name, (tensor, _, _) in (first | second).items()}


def select_entries(vectors: Mapping[str, Tensor], keep: float) -> Weights:
    """Set the entries of task vectors [T, *shape] that TIES would not merge to zero.

    TIES merges an entry if it is among the `keep` share of its task's largest ones and has the elected sign.
    """
    thresholds = trim_thresholds(vectors.__getitem__, vectors, keep)
    trimmed = {name: trim(stacked, thresholds) for name, stacked in vectors.items()}
    majority = sum(int(entries.sum(0).sign().sum(dtype=torch.int64)) for entries in trimmed.values())
    return {name: _agreeing_entries(trimmed.pop(name), majority) for name in vectors}  # pop: no third copy


def _agreeing_entries(entries: Tensor, majority: int) -> Tensor:
    return entries * (entries * elect_signs(entries, majority) > 0)


def elect_signs(entries: Tensor, majority: int) -> Tensor:
    """Elect the signs [*shape] of trimmed `entries` [T, *shape]: of their sum, or of `majority` where it is zero."""
    signs = entries.sum(0).sign()
    return signs + (1 - signs.abs()) * float(np.sign(majority))


def _merge_tensor(stacked: Tensor, thresholds: Tensor, majority: int, aggregate: Aggregate) -> tuple[Tensor, int, bool]:
    """Return a merged tensor [*shape], the sum of its elected signs, and whether any entries cancelled undecided."""
    merged, votes, undecided = [], 0, False
    for part in split_entries(stacked):
        entries = trim(part, thresholds)
        elected = elect_signs(entries, majority)
        agreeing = torch.relu(entries * elected)
        total = agreeing.sum(0) * elected + 0.0  # no -0.0
        merged.append(total / (agreeing > 0).sum(0).clamp(min=1) if aggregate == "mean" else total)
        votes += int(elected.sum(dtype=torch.int64))
        undecided = undecided or bool((entries.amax(0) * (1 - elected.abs())).any())
    return torch.cat(merged).view(stacked.shape[1:]), votes, undecided
