"""P&M without its training: one expert after the other, each by the step that a quadratic model of the losses asks for.

    theta <- theta + alpha * Delta,    Delta = theta_t - theta                                       (arXiv 2505.22389)
    alpha = argmin_a sum_i (theta + a Delta - theta_i)^T F_i (theta + a Delta - theta_i)
          = -sum_i (theta - theta_i)^T F_i Delta / sum_i Delta^T F_i Delta,    in [0, 1], over the experts i up to t

F_i is the diagonal Fisher information of expert i, as `fisher` computes it and not normalised. The seed draws the order
of the tasks, on which the result depends: consider the spread over seeds. The first alpha is 1. If all experts have the
same F, alpha is 1/t and the result is the simple average. The result is a convex
combination of the task vectors with coefficients that all tensors share.

In the paper an expert is trained from the model merged so far, with random perturbations along Delta. Here all experts
were trained from theta_0.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from pipeline.calibration.information import GRADIENTS, fisher_diagonal, weigh_classes
from pipeline.calibration.problem import Footprint, Problem
from pipeline.merges.solution import Solution
from pipeline.models.weights import Weights
from pipeline.runtime.schema import Parameters, Schedule
from pipeline.statistics.sampling import generator

TITLE = "P&M (merge only)"
PAPER = "Qiu et al., 2025, arXiv 2505.22389, without its training"
UNVERIFIED = (
    "no code could be read and the paper only through others: the formula of alpha and its bounds, and the labels of "
    "the Fisher information, here drawn from the expert's predictions; the experts start at theta_0, unlike the paper's"
)
FOOTPRINT = Footprint(models=12, examples=GRADIENTS, tensor_models=6)


class Params(Parameters):
    """samples: examples per task; classes: of the Fisher information, as in fisher."""

    samples: int = Field(256, ge=1)
    classes: Literal["sampled", "all"] = "sampled"


def calibrate(problem: Problem, schedule: Schedule, seed: int, params: Params) -> Solution:
    """Merge in the order that the seed draws; the coefficients [T, G] sum to 1 over the tasks."""
    order = torch.randperm(len(problem.teachers), generator=generator(seed, "tasks")).tolist()
    merged, total, pulled = (
        {name: torch.zeros_like(tau[0]) for name, tau in problem.vectors.items()} for _ in range(3)
    )
    coefficients = torch.zeros(len(order), len(problem.vectors), dtype=problem.heads[0].dtype)
    for task in order:
        probabilities = problem.teachers[task][: params.samples].softmax(-1)
        rng = generator(seed, "fisher", task) if params.classes == "sampled" else None
        information = fisher_diagonal(problem, task, *weigh_classes(probabilities, rng))
        for name, diagonal in information.items():
            total[name] += diagonal
            pulled[name] += diagonal * problem.vectors[name][task]
        delta = {name: stacked[task] - merged[name] for name, stacked in problem.vectors.items()}
        alpha = step_length(merged, delta, total, pulled)
        coefficients *= 1 - alpha
        coefficients[task] += alpha
        merged = {name: tensor + alpha * delta[name] for name, tensor in merged.items()}
    return Solution(coefficients.to(problem.heads[0].device))


def step_length(merged: Weights, delta: Weights, total: Weights, pulled: Weights) -> float:
    """Return alpha in [0, 1]; 0 where no expert has information along `delta`.

    merged: theta - theta_0; total: sum_i F_i; pulled: sum_i F_i tau_i.
    """
    slope = sum(_dot(pulled[name] - total[name] * merged[name], step) for name, step in delta.items())
    curvature = sum(_dot(total[name] * step, step) for name, step in delta.items())
    return min(max(slope / curvature, 0.0), 1.0) if curvature > 0 else 0.0


def _dot(first: Tensor, second: Tensor) -> float:
    return float((first * second).sum(dtype=torch.float64))
