"""RMM: low-rank experts compressed together, each of which can be rebuilt. A model per task, from one small basis.

Per matrix, tau_t = A_t B_t of rank r. At every position, a row of the A_t or a column of the B_t, the tasks have T
vectors x_t of r numbers. Kept are their mean, the p leading left singular vectors U of x_t - mean, and coordinates:

    x_t ~ mean + U c_t,    c_t = U^T (x_t - mean),    theta^(t) = theta_0 + A_t B_t          (arXiv 2510.14163)

That takes p (r + T) + r numbers instead of r T per position. With p = min(r, T - 1) `directions` nothing is lost. What
is lost with fewer depends on how an expert is factorised: factors are balanced (`toolbox.factors`), in float64, and the
result is rounded once. Experts of higher rank are truncated. Everything that is not a matrix of a block gets the mean
task vector.
"""

import torch
from pydantic import Field
from torch import Tensor

from pipeline.merges.solution import Extras, Solution
from pipeline.models.task_vectors import TaskVectors
from pipeline.models.weights import Weights
from pipeline.runtime.schema import Parameters
from pipeline.runtime.threads import map_tensors
from pipeline.toolbox.factors import balance_factors
from pipeline.toolbox.spectra import is_matrix, svd

TITLE = "RMM"
PAPER = "Alipour and Amiri, 2025, arXiv 2510.14163"
UNVERIFIED = (
    "no released code; only a review's opening and the formula of the storage were known: a basis per position follows "
    "from that formula, the factorisation, the number of directions and what other tensors get are ours"
)


class Params(Parameters):
    """rank: of the experts; directions: p, of the basis at every position."""

    rank: int = Field(16, ge=1)
    directions: int = Field(2, ge=1)


def merge(vectors: TaskVectors, params: Params) -> Solution:
    """Return coefficients [T, G], 1/T but 0 for matrices, with the compressed experts as extras "factors"."""
    matrices = [name for name in vectors if is_matrix(name)]

    def compress(name: str) -> Weights:
        stacked = vectors[name]
        parts = compress_factors(*balance_factors(stacked.double(), params.rank), params.directions)
        return {part: tensor.to(stacked.dtype) for part, tensor in parts.items()}

    compressed = map_tensors(compress, matrices)
    tensors = {f"{name}/{part}": tensor for name, parts in compressed.items() for part, tensor in parts.items()}
    shares = [0.0 if name in compressed else 1 / vectors.tasks for name in vectors]
    coefficients = torch.tensor(shares, dtype=torch.float64).expand(vectors.tasks, -1).contiguous()
    return Solution(coefficients, extras=Extras("factors", tensors))


def compress_factors(left: Tensor, right: Tensor, directions: int) -> Weights:
    """Return mean [m + n, r], basis [m + n, r, p] and coordinates [m + n, p, T] from A_t [T, m, r] and B_t [T, r, n].

    p = min(directions, r, T); the positions are the rows of the A_t, then the columns of the B_t.
    """
    positions = torch.cat([left, right.mT], dim=1).permute(1, 2, 0)
    mean = positions.mean(-1)
    deviations = positions - mean[..., None]
    basis = svd(deviations)[0][..., :directions]
    return {"mean": mean, "basis": basis.contiguous(), "coordinates": basis.mT @ deviations}
