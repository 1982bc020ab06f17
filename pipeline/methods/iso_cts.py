"""Iso-CTS: a flat spectrum over a common subspace and directions of each task's own.

Per matrix with k = min(m, n): the common part is the leading singular triplets U_c, S_c, V_c of sum_t tau_t, about
`common` * k of them; every task adds the leading r triplets of (I - U_c U_c^T) tau_t, r such that all together are k.
With U, S, V these triplets side by side, theta = theta_0 + scale * mean(S) polar(U) polar(V)^T.

arXiv 2502.04959, counts as in its released code: r = round((k - int(common * k)) / T), here at most k // T. `common` of
1 is Iso-C. Tensors that are not matrices, conventions and the scale of 1.5 are as in Iso-C.
"""

import torch
from pydantic import Field
from torch import Tensor

from pipeline.models.task_vectors import TaskVectors
from pipeline.models.weights import Weights
from pipeline.toolbox.conventions import Conventions, merge_by_matrix
from pipeline.toolbox.spectra import leading_triplets, polar_factor, thin_svd

TITLE = "Iso-CTS"
PAPER = "Marczak et al., 2025, arXiv 2502.04959"


class Params(Conventions):
    """common: share of directions that all tasks have in common, the paper's 0.8; scale: of the whole merged vector."""

    common: float = Field(0.8, ge=0, le=1)
    scale: float = Field(1.5, ge=0, le=4)


def merge(vectors: TaskVectors, params: Params) -> Weights:
    """Return the merged delta {name: tensor}."""
    return merge_by_matrix(vectors, lambda stacked: merge_subspaces(stacked, params.common), params.scale, params)


def merge_subspaces(stacked: Tensor, common: float) -> Tensor:
    """Merge the task vectors [T, m, n] of a matrix to [m, n]; `common` is the share of common directions."""
    tasks, *shape = stacked.shape
    rank = min(round((min(shape) - int(common * min(shape))) / tasks), min(shape) // tasks)
    shared = [part[..., : min(shape) - tasks * rank] for part in thin_svd(stacked.sum(0))]
    remaining = stacked - shared[0] @ (shared[0].mT @ stacked)
    specific = leading_triplets(remaining, rank, size=torch.linalg.matrix_norm(stacked))
    u, s, v = (torch.cat(parts, dim=-1) for parts in zip(shared, specific, strict=True))
    return s.mean() * (polar_factor(u) @ polar_factor(v).mT)
