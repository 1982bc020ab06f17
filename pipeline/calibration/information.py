"""The diagonal Fisher information of an expert: squares of gradients per example and class.

F_t = E_x sum_y p_t(y|x) (d log p_t(y|x) / d theta)^2,    element by element, on expert t's own examples
"""

import torch
from torch import Tensor
from torch.func import grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import log_softmax, one_hot

from pipeline.calibration.problem import Problem
from pipeline.models.examples import cut_padding
from pipeline.models.weights import Weights
from pipeline.runtime.errors import BenchmarkError
from pipeline.toolbox.activations import expert_weights

GRADIENTS = 4
"""Gradients held at once, each as large as a model."""


def weigh_classes(probabilities: Tensor, rng: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Return classes [J, N] of N examples with probabilities [N, C], and their weights [J, N].

    With `rng` one class is drawn per example, J = 1; with None there are all C.
    """
    count, classes = probabilities.shape
    if rng is None:
        return torch.arange(classes, device=probabilities.device)[:, None].expand(-1, count), probabilities.T
    drawn = torch.multinomial(probabilities.cpu(), 1, generator=rng).T.to(probabilities.device)
    return drawn, torch.ones_like(drawn, dtype=probabilities.dtype)


def fisher_diagonal(problem: Problem, task: int, labels: Tensor, shares: Tensor) -> Weights:
    """Return mean_i sum_j shares[j, i] (d log p(labels[j, i] | x_i) / d theta)^2 of an expert.

    labels: classes [J, N] of the first N examples of the task; shares: their weights [J, N]. The result has the shapes
    of a task vector. Raises BenchmarkError if it is not finite.
    """
    whole, head = expert_weights(problem.base, problem.vectors, task), problem.heads[task]
    moving = {name: whole[name] for name in problem.vectors}

    def log_likelihood(moving: Weights, example: Tensor, target: Tensor) -> Tensor:
        with sdpa_kernel(SDPBackend.MATH):  # vmap supports no other
            features = problem.encoder({**whole, **moving}, example[None])
        return (log_softmax(features @ head.T, dim=-1) * target).sum()

    slopes = vmap(grad(log_likelihood), in_dims=(None, 0, 0))
    fisher = {name: torch.zeros_like(tensor) for name, tensor in moving.items()}
    examples = problem.examples[task][: labels.shape[1]]
    for row, share in zip(labels, shares / len(examples), strict=True):
        targets = one_hot(row, len(head)).to(head.dtype)
        for batch, target, weight in zip(*(part.split(GRADIENTS) for part in (examples, targets, share)), strict=True):
            for name, slope in slopes(moving, cut_padding(batch), target).items():
                fisher[name] += torch.tensordot(weight, slope.square(), dims=1)
    for name, tensor in fisher.items():
        if not torch.isfinite(tensor).all():
            raise BenchmarkError(
                f"{problem.tasks[task]}: the Fisher information of {name} is not finite; the expert's weights or its "
                "examples overflow"
            )
    return fisher
