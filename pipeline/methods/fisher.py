"""Fisher merging: the mean of the experts, each parameter weighted by how much it matters to each expert.

    theta = sum_t w_t theta_t / sum_t w_t,    w_t = F_t / |F_t| + floor
    F_t = E_x sum_y p_t(y|x) (d log p_t(y|x) / d theta)^2,    element by element, on expert t's own images

arXiv 2111.09832. F_t is the true diagonal Fisher information: squares are taken per image and per class. Public code
(MergeLM, FusionBench) squares the gradient of a sum over images and classes, with their cross terms. As in that code
F_t is divided by its norm over all parameters (`normalise`); the floor is added after that, not before, so that it does
not depend on the scale of the gradients and parameters without any gradient are averaged. Always in the precision of
the weights: gradients per image cannot be taken in bfloat16.
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
from pipeline.models.sampling import generator
from pipeline.models.weights import Weights
from pipeline.runtime.schema import Parameters, Schedule
from pipeline.toolbox.activations import expert

TITLE = "Fisher merging"
PAPER = "Matena & Raffel, 2022, arXiv 2111.09832"

GRADIENTS = 4
"""Gradients held at once, each as large as a model."""
FOOTPRINT = Footprint(models=11, images=GRADIENTS)


class Params(Parameters):
    """samples: images per task; classes: the sum over y, of "all" (a backward pass for each), or one y "sampled" from
    p_t for each image, which is right on average; normalise: F_t to unit norm; floor: added to every weight."""

    samples: int = Field(256, ge=1)
    classes: Literal["sampled", "all"] = "sampled"
    normalise: bool = True
    floor: float = Field(1e-6, gt=0)


def calibrate(problem: Problem, schedule: Schedule, seed: int, params: Params) -> Solution:
    """One expert after the other; memory is a few models beside the task vectors."""
    weighted = {name: torch.zeros_like(stacked[0]) for name, stacked in problem.vectors.items()}
    total = {name: torch.zeros_like(tensor) for name, tensor in weighted.items()}
    for task, logits in enumerate(problem.teachers):
        chances = logits[: params.samples].softmax(-1)
        rng = generator(seed, "fisher", task) if params.classes == "sampled" else None
        fisher = diagonal(problem, task, *classes_of(chances, rng))
        norm = torch.stack([tensor.norm() for tensor in fisher.values()]).norm() if params.normalise else 1
        for name, tensor in fisher.items():
            weight = torch.nan_to_num(tensor / norm) + params.floor
            weighted[name] += weight * problem.vectors[name][task]
            total[name] += weight
    return Solution(delta={name: weighted[name] / total[name] for name in total})


def classes_of(chances: Tensor, rng: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """(classes [J, N], their weights [J, N]) of N images with probabilities [N, C]: one drawn by `rng`, or all C."""
    if rng is None:
        return torch.arange(chances.shape[1], device=chances.device)[:, None].expand(-1, len(chances)), chances.T
    drawn = torch.multinomial(chances.cpu(), 1, generator=rng).T.to(chances.device)
    return drawn, torch.ones_like(drawn, dtype=chances.dtype)


def diagonal(problem: Problem, task: int, labels: Tensor, shares: Tensor) -> Weights:
    """mean_i sum_j shares[j, i] (d log p(labels[j, i] | x_i) / d theta)^2 of an expert, in the task vectors' shapes.

    labels: classes [J, N] of the first N images of the task; shares: their weights [J, N].
    """
    whole, head = expert(problem.base, problem.vectors, task), problem.heads[task]
    moving = {name: whole[name] for name in problem.vectors}

    def log_likelihood(moving: Weights, image: Tensor, target: Tensor) -> Tensor:
        with sdpa_kernel(SDPBackend.MATH):  # the one that vmap knows
            features = problem.encoder({**whole, **moving}, image[None])
        return (log_softmax(features @ head.T, dim=-1) * target).sum()

    slopes = vmap(grad(log_likelihood), in_dims=(None, 0, 0))
    found = {name: torch.zeros_like(tensor) for name, tensor in moving.items()}
    images = problem.images[task][: labels.shape[1]]
    for row, share in zip(labels, shares / len(images), strict=True):
        targets = one_hot(row, len(head)).to(head.dtype)
        for batch, target, weight in zip(*(part.split(GRADIENTS) for part in (images, targets, share)), strict=True):
            for name, slope in slopes(moving, batch, target).items():
                found[name] += torch.tensordot(weight, slope.square(), dims=1)
    return found
