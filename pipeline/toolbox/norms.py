"""What keeps a large expert from drowning the others: coefficients from norms, columns merged without them."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from pipeline.models.task_vectors import TaskVectors
from pipeline.runtime.threads import map_tensors
from pipeline.toolbox.parts import split_entries

Scope = Literal["tensor", "model"]


def inverse_norms(vectors: TaskVectors, tensors: Callable[[str], Tensor], scope: Scope) -> Tensor:
    """Return (1 / |W_t|) / sum_j (1 / |W_j|): coefficients [T, G] that sum to 1 over the tasks (arXiv 2505.16148).

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


def decouple_columns(stacked: Tensor) -> Tensor:
    """Return the mean size times the mean direction of every column of a stack [T, m, n]: [m, n] (arXiv 2505.15875)."""
    sizes = torch.linalg.vector_norm(stacked, dim=1, keepdim=True)
    return sizes.mean(0) * (stacked / torch.where(sizes > 0, sizes, 1)).mean(0)
