"""OPCM: one task after the other, each orthogonal to what is merged already.

The seed draws the order of the task vectors. The result depends on it, so consider the spread over seeds. Per matrix,
with A = U diag(S) V^T the sum so far and P = U^T tau_t V,

    A <- A + U P' V^T,    P' = P without its diagonal and without its top left r x r block,

where the r leading singular values hold at most the share `alpha` of their sum. Every other tensor is summed. At the
end the whole vector gets the mean norm of the task vectors.

arXiv 2501.09522, as its authors' code (FusionBench) computes it. That code rescales after every task and undoes it
before the next; by linearity this equals rescaling once, so that tensors are independent and memory is one model. By
default q, k and v are split, as there, and the positional embedding is summed (`positional_embedding: average`). We sum
the class embedding like every other tensor; that code omits it. The diagonal is removed where A has a singular value
other than zero (`thin_svd`), and `alpha` of 1 removes the whole block.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from pipeline.models.task_vectors import TaskVectors
from pipeline.models.weights import Weights, split_qkv
from pipeline.runtime.schema import DISTINCT
from pipeline.runtime.threads import map_tensors
from pipeline.statistics.sampling import generator
from pipeline.toolbox.conventions import Conventions
from pipeline.toolbox.spectra import thin_svd

TITLE = "OPCM"
PAPER = "Tang et al., 2025, arXiv 2501.09522"


class Params(Conventions):
    """alpha: share of the singular values whose block a task does not change; seeds: each draws an order of tasks."""

    alpha: float = Field(0.5, ge=0, le=1)
    seeds: Annotated[list[int], DISTINCT] = Field([0, 1, 2, 3, 4], min_length=1)


def merge(vectors: TaskVectors, params: Params, seed: int) -> Weights:
    """Return the merged delta {name: tensor} for the order of the tasks that the seed draws."""
    order = torch.randperm(vectors.tasks, generator=generator(seed, "tasks")).tolist()
    return merge_in_order(order, vectors, params)


def merge_in_order(order: list[int], vectors: TaskVectors, params: Params) -> Weights:
    """Return the merged delta {name: tensor} for the tasks in this order."""
    view = params.view(vectors)

    def sum_tasks(name: str) -> tuple[Tensor, Tensor]:
        stacked, decomposed = view[name], params.decomposes(name)
        total = stacked[order[0]].clone()  # a view would keep all tasks in memory
        for task in order[1:]:
            total = total + (orthogonalise(stacked[task], total, params.alpha) if decomposed else stacked[task])
        return total, _norms(stacked).square()

    tensors = map_tensors(sum_tasks, view)
    squares = sum((squares for _, squares in tensors.values()), torch.zeros(len(order), dtype=torch.float64))
    norm = torch.cat([_norms(total[None]) for total, _ in tensors.values()]).norm()
    factor = float(squares.sqrt().mean() / norm) if norm > 0 else 1.0
    return split_qkv({name: factor * total for name, (total, _) in tensors.items()})


def orthogonalise(vector: Tensor, merged: Tensor, alpha: float) -> Tensor:
    """Return U P' V^T, the part of a task vector [m, n] that is added to the `merged` sum; orthogonal to that sum."""
    u, s, v = thin_svd(merged)
    rank = int((s.cumsum(0) <= alpha * s.sum()).sum())
    projected = u.mT @ vector @ v
    removed = projected.diagonal().diag()
    removed[:rank, :rank] = projected[:rank, :rank]
    return vector - u @ removed @ v.mT


def _norms(stacked: Tensor) -> Tensor:
    """Return the norm of every task [T], in float64 on the CPU, where norms from any device are combined."""
    return torch.linalg.vector_norm(stacked.flatten(1), dim=1, dtype=torch.float64).cpu()
