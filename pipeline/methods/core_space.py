"""Core Space: low-rank experts merged in the small space that all of them span.

Per matrix, tau_t = A_t B_t with A_t [m, r] and B_t [r, n]. Q is an orthonormal basis of the columns of all A_t, P of
the rows of all B_t, each of T r vectors at most, and

    theta = theta_0 + scale * Q merge({Q^T tau_t P}_t) P^T                        (arXiv 2509.17786)

`cores` names the merge of the small matrices: TSV-M, as in the configuration of the released code, or their sum, which
is task arithmetic. Nothing is lost: the sum is that of the whole matrices. TSV-M commutes with orthonormal bases too,
so that it also gives what it gives on whole matrices if these keep as many directions (T r <= min(m, n) suffices): the
space then saves time and changes no accuracy. Experts of higher rank are truncated to `rank` first; r is that of the
experts of the paper. It picks the scale on validation data; ours is that of the configuration, far below the 1 of
TSV-M. Everything that is not a matrix of a block gets scale times the mean task vector.
"""

from typing import Literal

from pydantic import Field
from torch import Tensor

from pipeline.models.task_vectors import TaskVectors
from pipeline.models.weights import Weights
from pipeline.runtime.schema import Parameters
from pipeline.runtime.threads import map_tensors
from pipeline.toolbox.factors import balance_factors
from pipeline.toolbox.spectra import decorrelate, is_matrix, thin_svd

TITLE = "Core Space"
PAPER = "Panariello et al., 2025, arXiv 2509.17786"


class Params(Parameters):
    """rank: of the experts; cores: the merge of the small matrices; scale: of the whole merged vector."""

    rank: int = Field(16, ge=1)
    cores: Literal["tsv_m", "task_arithmetic"] = "tsv_m"
    scale: float = Field(0.2, ge=0, le=4)


def merge(vectors: TaskVectors, params: Params) -> Weights:
    """Return the merged delta {name: tensor}; BenchmarkError if TSV-M has fewer directions than there are tasks."""

    def merge_tensor(name: str) -> Tensor:
        stacked = vectors[name]
        if not is_matrix(name):
            return params.scale * stacked.mean(0)
        outer, cores, inner = extract_cores(*balance_factors(stacked, params.rank))
        core = decorrelate(cores) if params.cores == "tsv_m" else cores.sum(0)
        return params.scale * (outer @ core @ inner.mT)

    return map_tensors(merge_tensor, vectors)


def extract_cores(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return Q [m, a], the cores [T, a, b] and P [n, b] of factors A_t [T, m, r] and B_t [T, r, n]."""
    outer, _, _ = thin_svd(left.transpose(0, 1).flatten(1))
    inner, _, _ = thin_svd(right.flatten(0, 1).mT)
    return outer, (outer.mT @ left) @ (right @ inner), inner
