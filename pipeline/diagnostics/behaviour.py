"""Predictions of models: experts on each other's tasks, and weight disentanglement.

Weight disentanglement error (arXiv 2305.12827) of tasks i and j, on examples x of task i, with f the predicted class:

    share of x with f(x; theta_0 + a tau_i) != f(x; theta_0 + a (tau_i + tau_j))

It needs no labels. The value here is the part on the examples of task i alone; the paper's value for a pair is the sum
of both parts.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.models.examples import encode
from pipeline.models.suite import SuiteFolder
from pipeline.models.task_vectors import TaskVectors, merge
from pipeline.models.weights import Encoder, Weights, to_device
from pipeline.runtime.device import device
from pipeline.statistics.sampling import sample_indices


def sample_examples(suite: SuiteFolder, split: str, task: str, count: int, seed: int) -> tuple[np.ndarray, Tensor]:
    """Draw `count` examples of a task's split, or all if there are fewer, with their labels; the draw is seeded."""
    examples, labels = suite.examples(split, task), suite.labels(split, task)
    indices = sample_indices(len(examples), count, seed, task).numpy()
    return examples[indices], torch.from_numpy(labels[indices])


def classify_examples(encoder: Encoder, weights: Mapping[str, Tensor], head: Tensor, examples: np.ndarray) -> Tensor:
    """Predict the classes [N] of examples. `weights` are on the device, the result is on the CPU."""
    target = device()
    return (encode(encoder, weights, examples, target) @ head.to(target).T).argmax(1).cpu()


def accuracy(classes: Tensor, labels: Tensor) -> float:
    """Share of correct predictions, in per cent."""
    return 100 * float((classes == labels).double().mean())


def measure_transfer(folder: Path, expert: str, count: int, seed: int) -> list[float]:
    """Measure the accuracies of one expert on validation examples of every task, with that task's head."""
    suite = SuiteFolder(folder)
    encoder, heads = suite.suite.encoder(), suite.heads()
    weights = to_device({**suite.base(), **suite.expert(expert)}, device())
    accuracies = []
    for task in suite.suite.task_names:
        examples, labels = sample_examples(suite, "validation", task, count, seed)
        accuracies.append(accuracy(classify_examples(encoder, weights, heads[task], examples), labels))
    return accuracies


def measure_disentanglement(folder: Path, index: int, split: str, count: int, scale: float, seed: int) -> list[float]:
    """Measure one task's errors with every task in turn (0 with itself) and, last, with all tasks together."""
    suite = SuiteFolder(folder)
    encoder, task = suite.suite.encoder(), suite.suite.task_names[index]
    head, (examples, _) = suite.heads()[task], sample_examples(suite, split, task, count, seed)
    indices = range(len(suite.suite.tasks))
    alone, *combined = (
        classify_examples(encoder, to_device(add_task_vectors(suite, subset, scale), device()), head, examples)
        for subset in ([index], *({index, other} for other in indices), indices)
    )
    return [disagreement(alone, classes) for classes in combined]


def disagreement(one: Tensor, other: Tensor) -> float:
    """Share of examples for which the predicted classes [N] of two models differ."""
    return float((one != other).double().mean())


def add_task_vectors(suite: SuiteFolder, subset: Iterable[int], scale: float) -> Weights:
    """Return theta_0 + scale * (the sum of the task vectors of a subset of the tasks)."""
    experts = [suite.expert(suite.suite.task_names[index]) for index in subset]
    base, groups = dict(suite.base()), suite.suite.groups
    return merge(base, TaskVectors(base, experts, groups), torch.full((len(experts), len(groups)), scale))
