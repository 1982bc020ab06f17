"""Merging linear maps by least squares over their inputs.

    argmin_W sum_t |(W - W_t) G_t^(1/2)|^2  =  (sum_t W_t G_t) (sum_t G_t)^-1,    G_t = E[x x^T] at the input of W_t

Everything is in task vectors, which is the same: replace W by W - W_0.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pipeline.models.encoder import Tower
from pipeline.models.weights import Weights
from pipeline.runtime.errors import BenchmarkError
from pipeline.toolbox.activations import grams


def condition(gram: Tensor, off_diagonal: float, ridge: float) -> Tensor:
    """`gram` with its off-diagonal entries times `off_diagonal`, plus `ridge` times its mean diagonal on the diagonal.

    A factor below 1 alone makes it positive definite, if only every input moves. The ridge is a part of each G_t, so
    that it draws towards the average of the W_t and not towards zero.
    """
    diagonal = gram.diagonal()
    return off_diagonal * gram + torch.diag((1 - off_diagonal) * diagonal + ridge * diagonal.mean())


def solve(weighted: Tensor, total: Tensor) -> Tensor:
    """W [out, in] with W total = weighted, by Cholesky; total [in, in] symmetric.

    Raises BenchmarkError if `total` is not positive definite.
    """
    factor, failed = torch.linalg.cholesky_ex(total)
    if bool(failed):
        raise BenchmarkError(
            f"a sum of Gram matrices {[*total.shape]} is not positive definite: the calibration images do not reach "
            f"all inputs; use more samples, a larger ridge or an off_diagonal below 1"
        )
    return torch.cholesky_solve(weighted.T, factor).T


def regress_block(
    tower: Tower,
    vectors: Mapping[str, Tensor],
    experts: Sequence[Weights],
    index: int,
    tokens: Sequence[list[Tensor]],
    *,
    off_diagonal: float,
    ridge: float,
    precision: torch.dtype,
) -> Weights:
    """The merged task vector of each matrix of a block, {name: [out, in]}.

    experts: each expert's weights of the block; tokens: per task, those that enter it. Sums and solve are in float64;
    one expert's Gram matrices are held at a time.
    """
    weighted: Weights = {}
    total: Weights = {}
    for task, (weights, entering) in enumerate(zip(experts, tokens, strict=True)):
        for name, gram in grams(tower, weights, index, entering, precision).items():
            moments = condition(gram.double(), off_diagonal, ridge)
            product = vectors[name][task].double() @ moments
            weighted[name] = weighted[name].add_(product) if name in weighted else product
            total[name] = total[name].add_(moments) if name in total else moments
    return {name: solve(weighted[name], total[name]).to(vectors[name].dtype) for name in weighted}
