"""Coefficients from norms: the larger the norm of an expert, the smaller its coefficient (NAN, arXiv 2505.16148)."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from pipeline.models.task_vectors import TaskVectors
from pipeline.runtime.threads import map_tensors
from pipeline.toolbox.parts import split_entries

Scope = Literal["tensor", "model"]


def inverse_norms(vectors: TaskVectors, tensors: Callable[[str], Tensor], scope: Scope) -> Tensor:
    """Return (1 / |W_t|) / sum_j (1 / |W_j|): coefficients [T, G] that sum to 1 over the tasks.

    `tensors(name)` gives the tensor of all tasks [T, *shape]; scope: one norm per tensor or per model. A norm of zero
    gets no weight and does not count in the sum. Computed in float64.
    """

    def squared(name: str) -> Tensor:
        stacked = tensors(name)
        zero = stacked.new_zeros(len(stacked), dtype=torch.float64)
        return sum((part.double().square().sum(1) for part in split_entries(stacked)), zero)

    squares = torch.stack([*map_tensors(squared, vectors).values()], dim=1)
    if scope == "model":
        squares = squares.sum(1, keepdim=True).expand_as(squares)
    inverse = torch.where(squares > 0, squares.rsqrt(), 0)
    total = inverse.sum(0)
    return inverse / torch.where(total > 0, total, 1)
