"""Merge linear maps by least squares over their inputs.

    argmin_W sum_t |(W - W_t) G_t^(1/2)|^2  =  (sum_t W_t G_t) (sum_t G_t)^-1,    G_t = E[x x^T] at the input of W_t

Everything is written in task vectors, which is equivalent: replace W by W - W_0.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from pipeline.models.encoder import Hidden, Transformer
from pipeline.models.weights import Weights
from pipeline.runtime.errors import BenchmarkError
from pipeline.toolbox.activations import gram_matrices


def condition_gram(gram: Tensor, off_diagonal: float, ridge: float) -> Tensor:
    """Multiply the off-diagonal entries by `off_diagonal` and add `ridge` times the mean diagonal to the diagonal.

    A factor below 1 alone makes the matrix positive definite, provided that every input varies. The ridge is part of
    each G_t, so that it shrinks towards the average of the W_t and not towards zero.
    """
    diagonal = gram.diagonal()
    return off_diagonal * gram + torch.diag((1 - off_diagonal) * diagonal + ridge * diagonal.mean())


def solve_cholesky(weighted: Tensor, total: Tensor) -> Tensor:
    """Solve W total = weighted for W [out, in] by Cholesky; total [in, in] is symmetric.

    Raises BenchmarkError if `total` is not positive definite.
    """
    factor, failed = torch.linalg.cholesky_ex(total)
    if bool(failed):
        raise BenchmarkError(
            f"a sum of Gram matrices {[*total.shape]} is not positive definite: the calibration examples do not reach "
            f"all inputs; use more samples, a larger ridge or an off_diagonal below 1"
        )
    return torch.cholesky_solve(weighted.T, factor).T


def solve_pseudo_inverse(weighted: Tensor, total: Tensor, tolerance: float) -> Tensor:
    """Return W [out, in] of least norm with W total = weighted where `total` [in, in], symmetric, can be inverted.

    Its singular values up to `tolerance` times the largest count as zero.
    """
    return weighted @ torch.linalg.pinv(total, rtol=tolerance, hermitian=True)


def regress_block(
    encoder: Transformer,
    vectors: Mapping[str, Tensor],
    experts: Sequence[Weights],
    index: int,
    passes: Sequence[list[Hidden]],
    *,
    off_diagonal: float,
    ridge: float,
    precision: torch.dtype,
    solve: Callable[[Tensor, Tensor], Tensor] = solve_cholesky,
) -> Weights:
    """Return the merged task vector of each matrix of a block, {name: [out, in]}.

    experts: each expert's weights of the block; passes: per task, what enters it; solve: (sum_t tau_t G_t, sum_t G_t)
    -> W. Sums and solution are in
    float64; the Gram matrices of one expert are held at a time.
    """
    weighted: Weights = {}
    total: Weights = {}
    for task, (weights, entering) in enumerate(zip(experts, passes, strict=True)):
        for name, gram in gram_matrices(encoder, weights, index, entering, precision).items():
            moments = condition_gram(gram.double(), off_diagonal, ridge)
            product = vectors[name][task].double() @ moments
            weighted[name] = weighted[name].add_(product) if name in weighted else product
            total[name] = total[name].add_(moments) if name in total else moments
    return {name: solve(weighted[name], total[name]).to(vectors[name].dtype) for name in weighted}
