"""What models say of images: experts on each other's tasks, and weight disentanglement.

Weight disentanglement error (arXiv 2305.12827) of tasks i and j, on images x of task i, f the predicted class:

    share of x with f(x; theta_0 + a tau_i) != f(x; theta_0 + a (tau_i + tau_j))

No labels are needed. Ours is the part on the images of task i alone; the paper's for a pair is the sum of both parts.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.models.features import encode
from pipeline.models.sampling import draw
from pipeline.models.suite import SuiteFolder
from pipeline.models.task_vectors import TaskVectors, merge
from pipeline.models.weights import Encoder, Weights, to_device
from pipeline.runtime.device import device


def chosen(suite: SuiteFolder, split: str, task: str, count: int, seed: int) -> tuple[np.ndarray, Tensor]:
    """`count` images of a task's split, or all it has, and their labels: a seeded draw."""
    images, labels = suite.images(split, task), suite.labels(split, task)
    indices = draw(len(images), count, seed, task).numpy()
    return images[indices], torch.from_numpy(labels[indices])


def predictions(encoder: Encoder, weights: Mapping[str, Tensor], head: Tensor, images: np.ndarray) -> Tensor:
    """The predicted classes [N] of a model whose weights are on the device, on the CPU."""
    target = device()
    return (encode(encoder, weights, images, target) @ head.to(target).T).argmax(1).cpu()


def accuracy(found: Tensor, labels: Tensor) -> float:
    """The share of correct answers, in per cent."""
    return 100 * float((found == labels).double().mean())


def transfer(folder: Path, expert: str, count: int, seed: int) -> list[float]:
    """Accuracies of one expert on validation images of every task, with that task's head."""
    suite = SuiteFolder(folder)
    encoder, heads = suite.suite.encoder(), suite.heads()
    weights = to_device({**suite.base(), **suite.expert(expert)}, device())
    found = []
    for task in suite.suite.task_names:
        images, labels = chosen(suite, "validation", task, count, seed)
        found.append(accuracy(predictions(encoder, weights, heads[task], images), labels))
    return found


def disentanglement(folder: Path, index: int, split: str, count: int, scale: float, seed: int) -> list[float]:
    """The errors of one task with every task in turn (0 with itself), and, last, with all of them together."""
    suite = SuiteFolder(folder)
    encoder, task = suite.suite.encoder(), suite.suite.task_names[index]
    head, (images, _) = suite.heads()[task], chosen(suite, split, task, count, seed)
    every = range(len(suite.suite.tasks))
    alone, *beside = (
        predictions(encoder, to_device(arithmetic(suite, together, scale), device()), head, images)
        for together in ([index], *({index, other} for other in every), every)
    )
    return [disagreement(alone, found) for found in beside]


def disagreement(one: Tensor, other: Tensor) -> float:
    """The share of images [N] to which two models give different classes."""
    return float((one != other).double().mean())


def arithmetic(suite: SuiteFolder, together: Iterable[int], scale: float) -> Weights:
    """theta_0 + scale * the sum of the task vectors of some tasks."""
    experts = [suite.expert(suite.suite.task_names[index]) for index in together]
    base, groups = dict(suite.base()), suite.suite.groups
    return merge(base, TaskVectors(base, experts, groups), torch.full((len(experts), len(groups)), scale))
