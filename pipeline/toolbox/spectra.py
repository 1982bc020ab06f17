"""Singular value decompositions of stacks of matrices, and the orthonormal factors made of them.

A singular value that is zero up to rounding has no singular vectors of its own: a solver fills in whatever completes
the basis. Here its columns are zero, so that a result depends on the matrices alone: a task vector of zeros takes no
direction from another task, and experts equal to the base give the base.
"""

import math

import torch
from scipy import linalg
from torch import Tensor

from pipeline.models.weights import PARTS
from pipeline.runtime.errors import BenchmarkError

MATRICES = (*(f".attn.{part}.weight" for part in (*PARTS, "out_proj")), ".mlp.c_fc.weight", ".mlp.c_proj.weight")
"""How the names of a block's matrices end; embeddings, norms and biases are no matrices, 2-D or not."""


def is_matrix(name: str) -> bool:
    """Whether the tensor of this name is one of a block's six matrices."""
    return name.endswith(MATRICES)


def svd(matrices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """U [..., m, k], S [..., k] and V^T [..., k, n] of stacked matrices.

    LAPACK's divide and conquer, torch's choice on the CPU, may not converge where many singular values are equal, as in
    what is left of a matrix after a projection; such a matrix is left to its QR iteration, which takes longer.
    """
    try:
        return torch.linalg.svd(matrices, full_matrices=False)
    except torch.linalg.LinAlgError:
        if matrices.ndim == 2:
            found = linalg.svd(matrices.cpu().numpy(), full_matrices=False, lapack_driver="gesvd")
            u, s, vh = (torch.from_numpy(part).to(matrices.device) for part in found)
            return u, s, vh
        u, s, vh = (torch.stack(parts) for parts in zip(*map(svd, matrices), strict=True))
        return u, s, vh


def thin_svd(matrices: Tensor, size: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """U [..., m, k], S [..., k] in descending order and V [..., n, k] with A = U diag(S) V^T, k = min(m, n).

    Singular values up to 4 sqrt(max(m, n)) eps `size` are zero, and so are their columns of U and V. `size` [...]:
    that of the numbers whose rounding A carries, by default the largest singular value. The factor leaves an order of
    magnitude above what LAPACK returns for exact zeros, in float32 as in float64.
    """
    if matrices.shape[-2] < matrices.shape[-1]:  # LAPACK takes three times as long for a wide matrix as for a tall one
        v, s, u = thin_svd(matrices.mT, size)
        return u, s, v
    u, s, vh = svd(matrices)
    reference = s[..., :1] if size is None else size[..., None]
    kept = s > 4 * math.sqrt(max(matrices.shape[-2:])) * torch.finfo(s.dtype).eps * reference
    columns = kept[..., None, :]
    return u * columns, s * kept, vh.mT * columns


def leading(matrices: Tensor, rank: int, size: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """U [m, T * rank], S [T * rank] and V [n, T * rank]: the leading triplets of a stack [T, m, n], task by task."""
    u, s, v = thin_svd(matrices, size)
    return _beside(u[..., :rank]), s[..., :rank].flatten(), _beside(v[..., :rank])


def polar(matrix: Tensor) -> Tensor:
    """The orthonormal factor P of A = P H, H = (A^T A)^(1/2): the matrix with orthonormal columns nearest to A.

    Of a rank-deficient A it is the partial isometry that is zero outside the row space of A, and so still unique.
    """
    u, _, v = thin_svd(matrix)
    return u @ v.mT


def decorrelated(stacked: Tensor) -> Tensor:
    """TSV-M of one matrix (arXiv 2412.00081): [m, n] from its task vectors [T, m, n].

    The leading floor(min(m, n) / T) triplets of every task, their vectors made orthonormal across tasks.
    BenchmarkError if that is none.
    """
    tasks, *shape = stacked.shape
    rank = min(shape) // tasks
    if rank == 0:
        raise BenchmarkError(
            f"TSV-M keeps min(m, n) // T singular directions of every task: none for T = {tasks} on a matrix of shape "
            f"{shape}; merge at most {min(shape)} tasks"
        )
    u, s, v = leading(stacked, rank)
    return (polar(u) * s) @ polar(v).mT


def _beside(columns: Tensor) -> Tensor:
    """[T, m, r] -> [m, T * r]."""
    return columns.transpose(0, 1).flatten(1)
