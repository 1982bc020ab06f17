"""How far two programs' merges of the same models agree."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pipeline.toolbox.trimming import align_tasks, lowest_of_top, trim_thresholds

Model = Mapping[str, Tensor]


def compare_models(ours: Model, theirs: Model, undecided: Callable[[str], Tensor]) -> dict[str, Any]:
    """Compare all entries but the undecided ones.

    `undecided(name)` is a mask of the tensor's entries. Returns the largest difference, relative to the largest weight
    of its tensor; the numbers of entries and of undecided ones. Raises ValueError if names or shapes differ.
    """
    _check_names(ours, theirs)
    largest, skipped, entries = 0.0, 0, 0
    for name in ours:
        first, second, mask = ours[name], theirs[name], undecided(name)
        if first.shape != second.shape:
            raise ValueError(f"{name}: shapes {[*first.shape]} and {[*second.shape]}")
        difference = (first - second).abs().masked_fill(mask, 0).max() / second.abs().max()
        largest = max(largest, difference.item())
        skipped += int(mask.sum())
        entries += mask.numel()
    return {"largest_relative_difference": largest, "undecided_entries": skipped, "entries": entries}


def compare_draws(base: Model, ours: Sequence[Model], theirs: Sequence[Model]) -> dict[str, float]:
    """Compare two independent draws each of two random merges; all values are 1 if the distributions are the same.

    With deltas a_1, a_2 (ours) and b_1, b_2 (theirs), the expectation of <a_1, a_2> is |E a|^2:

    length    |E a| / |E b|
    cosine    <E a, E b> / (|E a| |E b|)
    spread    |a_1 - a_2| / |b_1 - b_2|
    """
    _check_names(ours[0], theirs[0])
    sums = torch.zeros(5, dtype=torch.float64)
    for name in base:
        deltas = ((model[name] - base[name]).flatten().double() for model in (*ours, *theirs))
        a, other_a, b, other_b = deltas
        products = (a @ other_a, b @ other_b, (a @ other_b + b @ other_a) / 2)
        sums += torch.stack([*products, (a - other_a).square().sum(), (b - other_b).square().sum()])
    within, within_theirs, across, spread, spread_theirs = sums.tolist()
    return {
        "length": (within / within_theirs) ** 0.5,
        "cosine": across / (within * within_theirs) ** 0.5,
        "spread": (spread / spread_theirs) ** 0.5,
    }


def undecided_by_ties(stacked: Tensor, keep: float) -> Tensor:
    """Return where TIES of a tensor alone depends on how a tie is broken; a mask [*shape] for task vectors [T, *shape].

    A tie is one of magnitudes at a task's threshold, or of signs: a sum of trimmed entries within rounding of zero.
    """
    magnitudes = stacked.abs()
    thresholds = torch.stack([lowest_of_top(task.flatten(), keep) for task in magnitudes])
    limits = align_tasks(thresholds, stacked)
    at_limit = magnitudes == limits
    tied = at_limit & align_tasks(at_limit.flatten(1).sum(1) > 1, stacked)
    return tied.any(0) | _cancelling(stacked * (magnitudes >= limits))


def thresholds_of_one_more(vectors: Mapping[str, Tensor], keep: float) -> Tensor:
    """Return each task's threshold [T] if one entry more is kept than the `keep` share of its whole vector.

    A program that rounds down and counts from the other end keeps that many.
    """
    entries = sum(stacked[0].numel() for stacked in vectors.values())
    return trim_thresholds(vectors.__getitem__, vectors, (math.floor(keep * entries) + 0.5) / entries)


def undecided_by_one(stacked: Tensor, thresholds: Tensor) -> Tensor:
    """Return where TIES depends on whether entries at their task's threshold [T] are kept, or where signs cancel."""
    magnitudes, limits = stacked.abs(), align_tasks(thresholds, stacked)
    return (magnitudes == limits).any(0) | _cancelling(stacked * (magnitudes >= limits))


def _cancelling(trimmed: Tensor) -> Tensor:
    """Return where the sum over tasks of trimmed entries is within rounding of zero."""
    size = trimmed.abs().sum(0)
    return (trimmed.sum(0).abs() <= 1e-6 * size) & (size > 0)


def _check_names(ours: Model, theirs: Model) -> None:
    if {*ours} != {*theirs}:
        raise ValueError(f"tensors of one model only: {', '.join(sorted({*ours} ^ {*theirs})[:8])}")
