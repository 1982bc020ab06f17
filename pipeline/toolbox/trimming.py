"""Trimming task vectors by magnitude over the whole model, and electing signs: steps 1 and 2 of TIES (2306.01708)."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from pipeline.model import Weights


def threshold(vector: Mapping[str, Tensor], keep: float) -> Tensor:
    """The smallest magnitude that is kept: that of rank ceil(keep * P) from the top; P entries in all tensors."""
    magnitudes = torch.cat([tensor.abs().flatten() for tensor in vector.values()])
    dropped = len(magnitudes) - math.ceil(keep * len(magnitudes))
    return magnitudes.kthvalue(dropped + 1).values


def trimmed(stacked: Tensor, thresholds: Tensor) -> Tensor:
    """[T, *shape] with zeros where the magnitude is below the task's threshold; `thresholds` [T]."""
    limits = thresholds.view(-1, *[1] * (stacked.ndim - 1))
    return torch.where(stacked.abs() >= limits, stacked, torch.zeros_like(stacked))


def selected(vectors: Mapping[str, Tensor], keep: float) -> Weights:
    """The task vectors [T, *shape] with zeros where TIES would not take an entry.

    An entry is taken if it is among the `keep` share of its task's largest and has the elected sign: that of the sum
    of the trimmed task vectors or, where this is zero, the majority of all such signs.
    """
    tasks = range(len(next(iter(vectors.values()))))
    thresholds = torch.stack(
        [threshold({name: stacked[task] for name, stacked in vectors.items()}, keep) for task in tasks]
    )
    elected = {name: trimmed(stacked, thresholds).sum(0).sign() for name, stacked in vectors.items()}
    majority = torch.stack([signs.sum() for signs in elected.values()]).sum().sign()
    taken = {}
    for name, stacked in vectors.items():
        entries, signs = trimmed(stacked, thresholds), torch.where(elected[name] == 0, majority, elected[name])
        taken[name] = torch.where(entries * signs > 0, entries, torch.zeros_like(entries))
    return taken
