"""OPCM: one task after the other, each orthogonal to what is merged already.

Task vectors come in an order that the seed draws: the result depends on it, so look at the spread over the seeds. Per
matrix, with A = U diag(S) V^T the sum so far and P = U^T tau_t V,

    A <- A + U P' V^T,    P' = P without its diagonal and without its top left r x r block,

where the r leading singular values hold at most the share `alpha` of their sum. Every other tensor is summed. At the
end the whole vector gets the mean norm of the task vectors.

arXiv 2501.09522, as its authors' code (FusionBench) computes it: that rescales after every task and undoes it before
the next, which by linearity is the same as once, so that tensors are independent and memory is one model. By default q,
k and v are apart, as there, and the positional embedding is summed (`positional_embedding: average`). We sum the class
embedding as every other tensor, which that code forgets; the diagonal is removed where A has a singular value other
than zero (`thin_svd`), and `alpha` of 1 removes the whole block.
"""

import torch
from pydantic import Field
from torch import Tensor

from pipeline.models.sampling import generator
from pipeline.models.task_vectors import TaskVectors
from pipeline.models.weights import Weights, split_qkv
from pipeline.toolbox.conventions import Conventions
from pipeline.toolbox.spectra import thin_svd
from pipeline.toolbox.spread import spread

TITLE = "OPCM"
PAPER = "Tang et al., 2025, arXiv 2501.09522"


class Params(Conventions):
    """alpha: share of the singular values whose block a task leaves alone; seeds: each draws an order of the tasks."""

    alpha: float = Field(0.5, ge=0, le=1)
    seeds: list[int] = Field([0, 1, 2, 3, 4], min_length=1)


def merge(vectors: TaskVectors, params: Params, seed: int) -> Weights:
    """The merged delta {name: tensor} for one order of the tasks."""
    order = torch.randperm(vectors.tasks, generator=generator(seed, "tasks")).tolist()
    return merged_in(order, vectors, params)


def merged_in(order: list[int], vectors: TaskVectors, params: Params) -> Weights:
    """The merged delta for the tasks in this order."""
    view = params.view(vectors)

    def summed(name: str) -> tuple[Tensor, Tensor]:
        stacked, decomposed = view[name], params.decomposes(name)
        total = stacked[order[0]].clone()  # a view would keep all tasks
        for task in order[1:]:
            total = total + (cleaned(stacked[task], total, params.alpha) if decomposed else stacked[task])
        return total, _norms(stacked).square()

    found = spread(summed, view)
    squares = sum(squares for _, squares in found.values())
    norm = torch.cat([_norms(total[None]) for total, _ in found.values()]).norm()
    factor = float(squares.sqrt().mean() / norm) if norm > 0 else 1.0
    return split_qkv({name: factor * total for name, (total, _) in found.items()})


def cleaned(vector: Tensor, merged: Tensor, alpha: float) -> Tensor:
    """U P' V^T: what a task vector [m, n] adds to the `merged` sum of those before; orthogonal to that sum."""
    u, s, v = thin_svd(merged)
    rank = int((s.cumsum(0) <= alpha * s.sum()).sum())
    projected = u.mT @ vector @ v
    removed = projected.diagonal().diag()
    removed[:rank, :rank] = projected[:rank, :rank]
    return vector - u @ removed @ v.mT


def _norms(stacked: Tensor) -> Tensor:
    """[T] in float64 on the CPU, where norms of tensors on any device meet."""
    return torch.linalg.vector_norm(stacked.flatten(1), dim=1, dtype=torch.float64).cpu()
