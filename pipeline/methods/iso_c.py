"""Iso-C: task arithmetic with a flat spectrum.

Per matrix, sum_t tau_t = U diag(S) V^T; theta = theta_0 + scale * mean(S) U V^T.

arXiv 2502.04959. Everything that is not a matrix gets scale times the mean task vector, as in the released code. By
default the matrices are those of the blocks, with q, k and v split: the released code decomposes open_clip's fused
[3d, d] tensor, and the positional embedding too. A direction with singular value zero, in which no task moves, stays
zero and gets no arbitrary vector; the mean still includes it.

The paper picks the scale per suite on labelled validation data. We keep 1.5, the fixed value of FusionBench's published
table of eight tasks; the default of its code is 1.
"""

from pydantic import Field
from torch import Tensor

from pipeline.models.task_vectors import TaskVectors
from pipeline.models.weights import Weights
from pipeline.toolbox.conventions import Conventions, merge_by_matrix
from pipeline.toolbox.spectra import thin_svd

TITLE = "Iso-C"
PAPER = "Marczak et al., 2025, arXiv 2502.04959"


class Params(Conventions):
    """scale: of the whole merged vector."""

    scale: float = Field(1.5, ge=0, le=4)


def merge(vectors: TaskVectors, params: Params) -> Weights:
    """Return the merged delta {name: tensor}."""
    return merge_by_matrix(vectors, flatten_spectrum, params.scale, params)


def flatten_spectrum(stacked: Tensor) -> Tensor:
    """Merge the task vectors [T, m, n] of a matrix: their sum [m, n] with equal singular values."""
    u, s, v = thin_svd(stacked.sum(0))
    return s.mean() * (u @ v.mT)
