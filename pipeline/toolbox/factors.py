"""Low-rank factors of task vectors: tau_t = A_t B_t, A_t [m, r], B_t [r, n].

Factors of a product are not unique: A R and R^-1 B have the same one for every invertible R, their gauge. What is done
to the factors of several tasks depends on it. Here it is fixed by the singular value decomposition, so that the factors
depend on the task vectors alone.
"""

import torch
from torch import Tensor

from pipeline.toolbox.spectra import thin_svd


def balance_factors(stacked: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return A = U sqrt(S) [T, m, r] and B = sqrt(S) V^T [T, r, n] of the leading triplets of a stack [T, m, n].

    r is `rank`, or the highest rank of a task if that is lower, but 1 at least. The largest entry in magnitude of every
    column of U is positive. Where a singular value is zero, so are its column of A and its row of B.
    """
    u, s, v = thin_svd(stacked)
    kept = max(1, min(rank, int((s > 0).any(0).sum())))
    u, s, v = (part[..., :kept] for part in (u, s, v))
    largest = u.gather(-2, u.abs().argmax(-2, keepdim=True))
    left, right = (part * s.sqrt()[..., None, :] for part in (u * torch.where(largest < 0, -1, 1), v))
    return left, (right * torch.where(largest < 0, -1, 1)).mT
