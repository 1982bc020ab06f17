"""Random subsets of the tasks, and the accuracies and M-Loss of simple merges of them."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pipeline.diagnostics import PREDICTED_MERGES, Settings
from pipeline.diagnostics.behaviour import accuracy, add_task_vectors, classify_examples, sample_examples
from pipeline.diagnostics.ensembles import measure_mloss
from pipeline.models.suite import SuiteFolder
from pipeline.models.weights import to_device
from pipeline.runtime.device import device
from pipeline.toolbox.mloss import MLoss

TaskSubset = tuple[int, ...]


@dataclass(frozen=True)
class SubsetMerges:
    """Results of the simple merges of one subset."""

    accuracies: dict[str, list[float]]
    """{method: accuracy on each task of the subset, in per cent}."""
    ensembles: list[list[MLoss]]
    """M-Loss on the examples of each task of the subset, block by block."""


def draw_task_subsets(tasks: int, count: int, rng: torch.Generator) -> list[TaskSubset]:
    """Draw `count` different subsets of 2 to T - 1 of `tasks` tasks, or all of them; sizes take turns."""
    sizes = {size: math.comb(tasks, size) for size in range(2, tasks)}
    subsets: list[TaskSubset] = []
    for size in _in_turn(sizes, min(count, sum(sizes.values()))):
        subset = _draw(tasks, size, rng)
        while subset in subsets:
            subset = _draw(tasks, size, rng)
        subsets.append(subset)
    return subsets


def _in_turn(left: dict[int, int], count: int) -> Iterator[int]:
    """Yield `count` sizes in turn, none more often than there are subsets of it."""
    for turn in range(max(left.values(), default=0)):
        for size, available in left.items():
            if turn < available and count > 0:
                count -= 1
                yield size


def _draw(tasks: int, size: int, rng: torch.Generator) -> TaskSubset:
    return tuple(sorted(torch.randperm(tasks, generator=rng)[:size].tolist()))


def merge_subset(folder: Path, subset: TaskSubset, split: str, settings: Settings) -> SubsetMerges:
    """Merge the experts of a subset; score the merges on validation examples, measure M-Loss on examples of `split`."""
    suite, target = SuiteFolder(folder), device()
    encoder, heads = suite.suite.encoder(), suite.heads()
    scales = dict(zip(PREDICTED_MERGES, (1 / len(subset), settings.scale), strict=True))
    models = {name: to_device(add_task_vectors(suite, subset, scale), target) for name, scale in scales.items()}
    tasks = [suite.suite.task_names[index] for index in subset]
    experts, ensembles = [suite.expert(task) for task in tasks], []
    accuracies: dict[str, list[float]] = {name: [] for name in models}
    for task in tasks:
        examples, labels = sample_examples(suite, "validation", task, settings.images, settings.seed)
        for name, weights in models.items():
            accuracies[name].append(accuracy(classify_examples(encoder, weights, heads[task], examples), labels))
        unlabelled, _ = sample_examples(suite, split, task, settings.samples, settings.seed)
        ensembles.append(measure_mloss(encoder, models["average"], experts, torch.from_numpy(unlabelled).to(target)))
    return SubsetMerges(accuracies, ensembles)


def average_pairs(pairs: Tensor, subsets: list[TaskSubset]) -> Tensor:
    """Average a measure of ordered pairs of tasks [T, T] over the other tasks of every subset: [subsets, T].

    NaN for tasks outside the subset; the diagonal of `pairs` is not read.
    """
    means = torch.full((len(subsets), len(pairs)), torch.nan, dtype=pairs.dtype)
    for row, subset in enumerate(subsets):
        for task in subset:
            means[row, task] = pairs[task, [other for other in subset if other != task]].mean()
    return means
