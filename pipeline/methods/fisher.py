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

from pipeline.calibration.information import GRADIENTS, fisher_diagonal, weigh_classes
from pipeline.calibration.problem import Footprint, Problem
from pipeline.merges.solution import Solution
from pipeline.runtime.schema import Parameters, Schedule
from pipeline.statistics.sampling import generator

TITLE = "Fisher merging"
PAPER = "Matena & Raffel, 2022, arXiv 2111.09832"

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
        norm = norm or 1  # no information: every weight is the floor
        for name, tensor in fisher.items():
            weight = tensor / norm + params.floor
            weighted[name] += weight * problem.vectors[name][task]
            total[name] += weight
    return Solution(delta={name: weighted[name] / total[name] for name in total})
