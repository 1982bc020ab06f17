"""Fisher merging: the mean of the experts, each parameter weighted by how much it matters to each expert.

    theta = sum_t w_t theta_t / sum_t w_t,    w_t = F_t / |F_t| + floor
    F_t = E_x sum_y p_t(y|x) (d log p_t(y|x) / d theta)^2,    element by element, on expert t's own examples

arXiv 2111.09832. F_t is the true diagonal Fisher information: squares are taken per example and per class. Public code
(MergeLM, FusionBench) squares the gradient of a sum over examples and classes, which adds cross terms. As in that code,
F_t is divided by its norm over all parameters (`normalise`). The floor is added after that, not before: it then does
not depend on the scale of the gradients, and parameters without a gradient are averaged. The precision is always that
of the weights: gradients per example cannot be taken in bfloat16.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.func import grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import log_softmax, one_hot

from pipeline.calibration.problem import Footprint, Problem
from pipeline.merges.solution import Solution
from pipeline.models.examples import cut_padding
from pipeline.models.sampling import generator
from pipeline.models.weights import Weights
from pipeline.runtime.schema import Parameters, Schedule
from pipeline.toolbox.activations import expert_weights

TITLE = "Fisher merging"
PAPER = "Matena & Raffel, 2022, arXiv 2111.09832"

GRADIENTS = 4
"""Gradients held at once, each as large as a model."""
FOOTPRINT = Footprint(models=10, examples=GRADIENTS, tensor_models=6)


class Params(Parameters):
    """samples: examples per task; classes: "all" sums over every y (a backward pass for each), "sampled" draws one y
    from p_t for each example, which is unbiased; normalise: F_t to unit norm; floor: added to every weight."""

    samples: int = Field(256, ge=1)
    classes: Literal["sampled", "all"] = "sampled"
    normalise: bool = True
    floor: float = Field(1e-6, gt=0)


def calibrate(problem: Problem, schedule: Schedule, seed: int, params: Params) -> Solution:
    """Weigh one expert after the other; memory is a few models in addition to the task vectors."""
    weighted = {name: torch.zeros_like(stacked[0]) for name, stacked in problem.vectors.items()}
    total = {name: torch.zeros_like(tensor) for name, tensor in weighted.items()}
    for task, logits in enumerate(problem.teachers):
        probabilities = logits[: params.samples].softmax(-1)
        rng = generator(seed, "fisher", task) if params.classes == "sampled" else None
        fisher = fisher_diagonal(problem, task, *weigh_classes(probabilities, rng))
        norm = torch.stack([tensor.norm() for tensor in fisher.values()]).norm() if params.normalise else 1
        for name, tensor in fisher.items():
            weight = torch.nan_to_num(tensor / norm) + params.floor
            weighted[name] += weight * problem.vectors[name][task]
            total[name] += weight
    return Solution(delta={name: weighted[name] / total[name] for name in total})


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
    of a task vector.
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
    return fisher
