"""Random subsets of the tasks, and what simple merges of them lose."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pipeline.diagnostics import METHODS, Settings
from pipeline.diagnostics.behaviour import accuracy, arithmetic, chosen, predictions
from pipeline.diagnostics.ensembles import losses
from pipeline.models.suite import SuiteFolder
from pipeline.models.weights import to_device
from pipeline.runtime.device import device
from pipeline.toolbox.mloss import MLoss

Subset = tuple[int, ...]


@dataclass(frozen=True)
class Merged:
    """The merges of one subset."""

    accuracies: dict[str, list[float]]
    """{method: per task of the subset, in per cent}."""
    ensembles: list[list[MLoss]]
    """Per task of the subset M-Loss on its images, block by block."""


def draw_subsets(tasks: int, count: int, rng: torch.Generator) -> list[Subset]:
    """`count` different subsets of 2 to T - 1 of `tasks` tasks, or all there are; every size in turn."""
    sizes = {size: math.comb(tasks, size) for size in range(2, tasks)}
    found: list[Subset] = []
    for size in _in_turn(sizes, min(count, sum(sizes.values()))):
        subset = _any(tasks, size, rng)
        while subset in found:
            subset = _any(tasks, size, rng)
        found.append(subset)
    return found


def _in_turn(left: dict[int, int], count: int) -> Iterator[int]:
    """`count` sizes, one of each in turn, none more often than there are subsets of it."""
    for turn in range(max(left.values(), default=0)):
        for size, available in left.items():
            if turn < available and count > 0:
                count -= 1
                yield size


def _any(tasks: int, size: int, rng: torch.Generator) -> Subset:
    return tuple(sorted(torch.randperm(tasks, generator=rng)[:size].tolist()))


def merged(folder: Path, subset: Subset, split: str, settings: Settings) -> Merged:
    """Merge the experts of a subset; score it on validation images, take M-Loss on images of the calibration split."""
    suite, target = SuiteFolder(folder), device()
    encoder, heads = suite.suite.encoder(), suite.heads()
    scales = dict(zip(METHODS, (1 / len(subset), settings.scale), strict=True))
    models = {name: to_device(arithmetic(suite, subset, scale), target) for name, scale in scales.items()}
    tasks = [suite.suite.task_names[index] for index in subset]
    experts, ensembles = [suite.expert(task) for task in tasks], []
    accuracies: dict[str, list[float]] = {name: [] for name in models}
    for task in tasks:
        images, labels = chosen(suite, "validation", task, settings.images, settings.seed)
        for name, weights in models.items():
            accuracies[name].append(accuracy(predictions(encoder, weights, heads[task], images), labels))
        unlabelled, _ = chosen(suite, split, task, settings.samples, settings.seed)
        ensembles.append(losses(encoder, models["average"], experts, torch.from_numpy(unlabelled).to(target)))
    return Merged(accuracies, ensembles)


def among(pairs: Tensor, subsets: list[Subset]) -> Tensor:
    """From a value for every ordered pair of tasks [T, T]: for every subset [subsets, T] a task's mean over the others.

    NaN for tasks outside the subset; the diagonal of `pairs` is not read.
    """
    found = torch.full((len(subsets), len(pairs)), torch.nan, dtype=pairs.dtype)
    for row, subset in enumerate(subsets):
        for task in subset:
            found[row, task] = pairs[task, [other for other in subset if other != task]].mean()
    return found
