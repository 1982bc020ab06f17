"""WUDI-Merging: the merged vector whose interference with every task vector is least, matrix by matrix.

    min_tau sum_t |(tau - tau_t) tau_t^T|_F^2 / |tau_t|_F^2,    from tau = sum_t tau_t

arXiv 2503.08099. The released solver is Adam with lr 1e-5 and 300 steps, which moves an entry by about 3e-3 at most: it
stops long before the minimum, and lr times steps is part of the method. The minimum itself has a closed form,
`solver: closed`, which is in effect another method: with G = sum_t G_t, G_t = tau_t^T tau_t / |tau_t|_F^2, the gradient
is 2 (tau G - sum_t tau_t G_t). It needs one product per step for any T, while the loss as written needs 2 T.

As in the released code, everything except the blocks' matrices keeps the weights of theta_0. That code works on
open_clip's fused [3d, d] tensor; our default splits q, k and v, whose losses then have separate norms, so results
differ. `positional_embedding: average` keeps that embedding at theta_0 too.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from pipeline.calibration.adam import Adam
from pipeline.models.task_vectors import TaskVectors
from pipeline.models.weights import Weights, split_qkv
from pipeline.runtime.threads import map_tensors
from pipeline.toolbox.conventions import Conventions

TITLE = "WUDI-Merging"
PAPER = "Cheng et al., 2025, arXiv 2503.08099"


class Params(Conventions):
    """solver: adam, stopped early, with `lr` and `steps`, or the closed form; scale: of the merged vector."""

    solver: Literal["adam", "closed"] = "adam"
    lr: float = Field(1e-5, gt=0)
    steps: int = Field(300, ge=1)
    scale: float = Field(1.0, ge=0, le=4)


def merge(vectors: TaskVectors, params: Params) -> Weights:
    """Return the merged delta {name: tensor}, zero for tensors that are not matrices."""
    solve = (
        minimise_interference
        if params.solver == "closed"
        else lambda stacked: descend_interference(stacked, params.lr, params.steps)
    )

    view = params.view(vectors)

    def merge_tensor(name: str) -> Tensor:
        return params.scale * solve(view[name]) if params.decomposes(name) else torch.zeros_like(vectors.base(name))

    return split_qkv(map_tensors(merge_tensor, view))


def descend_interference(stacked: Tensor, lr: float, steps: int) -> Tensor:
    """Return [m, n] after `steps` steps of Adam from the sum of the task vectors [T, m, n]."""
    start, slope, gram = _quadratic(stacked)
    correction = torch.zeros_like(start)
    optimiser = Adam(correction, lr)
    for _ in range(steps):
        optimiser.step(2 * torch.addmm(slope, correction, gram))
    return start + correction


def minimise_interference(stacked: Tensor) -> Tensor:
    """Return the minimiser [m, n] nearest to the sum of the task vectors [T, m, n], which is also that of least norm.

    Solved in float64: G has the squared condition number of the task vectors.
    """
    start, slope, gram = _quadratic(stacked.double())
    return (start - slope @ torch.linalg.pinv(gram, hermitian=True)).to(stacked.dtype)


def _quadratic(stacked: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the sum of the task vectors, half the loss's gradient there, and G; elsewhere it is linear in these."""
    start = stacked.sum(0)
    slope, gram = torch.zeros_like(start), start.new_zeros(start.shape[1], start.shape[1])
    for vector in stacked:
        direction = vector / torch.linalg.matrix_norm(vector).clamp(min=torch.finfo(vector.dtype).tiny)
        task_gram = direction.mT @ direction
        slope, gram = slope + (start - vector) @ task_gram, gram + task_gram
    return start, slope, gram
