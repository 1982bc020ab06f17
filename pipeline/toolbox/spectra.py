"""Singular value decompositions of stacks of matrices, and the orthonormal factors made of them.

A singular value that is zero up to rounding has no singular vectors of its own: a solver completes the basis
arbitrarily. Here its columns are zero, so that a result depends on the matrices alone: a task vector of zeros takes no
direction from another task, and experts equal to the base give the base.
"""

import math

import scipy
import torch
from torch import Tensor

from pipeline.models.weights import PARTS
from pipeline.runtime.errors import BenchmarkError

MATRICES = (*(f".attn.{part}.weight" for part in (*PARTS, "out_proj")), ".mlp.c_fc.weight", ".mlp.c_proj.weight")
"""Endings of the names of a block's matrices; embeddings, norms and biases do not count as matrices, even if 2-D."""


def is_matrix(name: str) -> bool:
    """Return whether the tensor of this name is one of a block's six matrices."""
    return name.endswith(MATRICES)


def svd(matrices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return U [..., m, k], S [..., k] and V^T [..., k, n] of stacked matrices.

    LAPACK's divide and conquer, torch's choice on the CPU, may not converge if many singular values are equal, as in
    the remainder of a matrix after a projection; such a matrix is decomposed by LAPACK's slower QR iteration.
    """
    try:
        return torch.linalg.svd(matrices, full_matrices=False)
    except torch.linalg.LinAlgError:
        if matrices.ndim == 2:
            factors = scipy.linalg.svd(matrices.cpu().numpy(), full_matrices=False, lapack_driver="gesvd")
            u, s, vh = (torch.from_numpy(factor).to(matrices.device) for factor in factors)
            return u, s, vh
        u, s, vh = (torch.stack(parts) for parts in zip(*map(svd, matrices), strict=True))
        return u, s, vh


def thin_svd(matrices: Tensor, size: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Return U [..., m, k], S [..., k] in descending order and V [..., n, k]: A = U diag(S) V^T, k = min(m, n).

    Singular values up to 4 sqrt(max(m, n)) eps `size` are set to zero, and so are their columns of U and V. `size`
    [...]: the magnitude of the numbers whose rounding errors A contains, by default the largest singular value. The
    factor is an order of magnitude above what LAPACK returns for exact zeros, in float32 as in float64.
    """
    if matrices.shape[-2] < matrices.shape[-1]:  # LAPACK takes three times as long for a wide matrix as for a tall one
        v, s, u = thin_svd(matrices.mT, size)
        return u, s, v
    u, s, vh = svd(matrices)
    reference = s[..., :1] if size is None else size[..., None]
    nonzero = s > 4 * math.sqrt(max(matrices.shape[-2:])) * torch.finfo(s.dtype).eps * reference
    columns = nonzero[..., None, :]
    return u * columns, s * nonzero, vh.mT * columns


def leading_triplets(matrices: Tensor, rank: int, size: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Return the leading triplets of a stack [T, m, n], task by task: U [m, T rank], S [T rank] and V [n, T rank]."""
    u, s, v = thin_svd(matrices, size)
    return _side_by_side(u[..., :rank]), s[..., :rank].flatten(), _side_by_side(v[..., :rank])


def polar_factor(matrix: Tensor) -> Tensor:
    """Return the orthonormal factor P of A = P H, H = (A^T A)^(1/2): the matrix with orthonormal columns nearest to A.

    For a rank-deficient A it is the partial isometry that is zero outside the row space of A, which is still unique.
    """
    u, _, v = thin_svd(matrix)
    return u @ v.mT


def decorrelate(stacked: Tensor) -> Tensor:
    """Merge one matrix by TSV-M (arXiv 2412.00081): [m, n] from its task vectors [T, m, n].

    Keeps the leading floor(min(m, n) / T) triplets of every task and makes their vectors orthonormal across tasks.
    Raises BenchmarkError if that number is zero.
    """
    tasks, *shape = stacked.shape
    rank = min(shape) // tasks
    if rank == 0:
        raise BenchmarkError(
            f"TSV-M keeps min(m, n) // T singular directions of every task: none for T = {tasks} on a matrix of shape "
            f"{shape}; merge at most {min(shape)} tasks"
        )
    u, s, v = leading_triplets(stacked, rank)
    return (polar_factor(u) * s) @ polar_factor(v).mT


def _side_by_side(columns: Tensor) -> Tensor:
    """Put the columns of all tasks side by side: [T, m, r] -> [m, T * r]."""
    return columns.transpose(0, 1).flatten(1)
