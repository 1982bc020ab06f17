"""ACE-Merging: every expert weighted by a covariance of its inputs that is estimated from its task vector alone.

Per matrix, W_t = tau_t (out x in), C_t = W_t minus the mean of its rows, R_t = C_t^T C_t:

    gamma = var_t(l_t) / mean_t(l_t)^2,    l_t = log |W_t|_F^2,    heterogeneous = gamma > 0.3
    S_t, e_t = R_t / tr R_t, eps / tr R_t    where heterogeneous,    R_t, eps    elsewhere
    c = mean of the rows of sum_t S_t, over mean_t |W_t|_F^2 where heterogeneous
    W = [sum_t C_t (S_t + e_t I)] [sum_t (S_t + e_t I) + c in every row]^-1          (arXiv 2603.02945, CVPR 2026)

and where heterogeneous, with M = sum_t (S_t + e_t I) / T, the leading `share` of the singular triplets of
W + sum_t W_t (S_t - M) is added with their mean singular value for each. As the released code, with its one eps;
secondary sources give the paper one per backbone. Everything that is not a matrix gets scale times the mean task
vector. That code takes every 2-D tensor but text_projection, with q, k and v of open_clip as one and the positional
embedding included.

The code does things that its description does not say, and they stay here. The mean row of every task vector is lost.
gamma depends on the unit of the weights: it is large where the norms are near one, so that multiplying all weights by a
constant can switch `heterogeneous` on and off. One expert whose matrix equals theta_0's switches it on and gets an e_t
of 10^10: W almost vanishes and what is added has that size. One expert alone is not given back. For eps far above R_t
the result is the mean of the C_t.

The code leaves two cases undefined: one expert alone is not heterogeneous here, and a share of less than one triplet
adds nothing.
"""

import torch
from pydantic import Field
from torch import Tensor

from pipeline.models.task_vectors import TaskVectors
from pipeline.models.weights import Weights
from pipeline.toolbox.conventions import Conventions, merge_by_matrix
from pipeline.toolbox.spectra import thin_svd

TITLE = "ACE-Merging"
PAPER = "CVPR 2026, arXiv 2603.02945"
TINY = 1e-12
"""Added by the released code to what it takes the logarithm of or divides by."""


class Params(Conventions):
    """eps: ridge of every covariance; share: of the singular triplets made equal; scale: of the whole merged vector."""

    eps: float = Field(0.01, gt=0)
    share: float = Field(0.3, ge=0, le=1)
    scale: float = Field(1.0, ge=0, le=4)


def merge(vectors: TaskVectors, params: Params) -> Weights:
    """Return the merged delta {name: tensor}."""

    def merge_matrix(stacked: Tensor) -> Tensor:
        return merge_covariances(stacked, params.eps, params.share)

    return merge_by_matrix(vectors, merge_matrix, params.scale, params)


def is_heterogeneous(stacked: Tensor) -> bool:
    """Return whether the logarithms of the norms of the experts' matrices [T, m, n] vary by more than 0.3."""
    logarithms = (stacked.square().sum((1, 2)) + TINY).log()
    return len(stacked) > 1 and bool(logarithms.var() / (logarithms.mean().square() + TINY) > 0.3)


def merge_covariances(stacked: Tensor, eps: float, share: float) -> Tensor:
    """Merge the task vectors [T, m, n] of a matrix: [m, n]."""
    varied, identity = is_heterogeneous(stacked), torch.eye(stacked.shape[2]).to(stacked)
    numerator, lifted = torch.zeros_like(stacked[0]), torch.zeros_like(stacked[0])
    unridged, ridges = torch.zeros_like(identity), 0.0
    for tau in stacked:  # one covariance at a time: [n, n] can be larger than the matrix
        centred = tau - tau.mean(0)
        covariance = centred.mT @ centred
        size = float(covariance.trace()) + TINY if varied else 1.0
        covariance = covariance / size
        numerator = numerator + centred @ covariance + eps / size * centred
        unridged, ridges, lifted = unridged + covariance, ridges + eps / size, lifted + tau @ covariance
    total = unridged + ridges * identity
    shift = unridged.mean(0) / (stacked.square().sum((1, 2)).mean() + TINY if varied else 1.0)
    merged = torch.linalg.solve(total + shift, numerator, left=False)
    if not varied:
        return merged
    u, s, v = thin_svd(merged + lifted - stacked.sum(0) @ total / len(stacked))
    leading = int(share * len(s))
    return merged + s[:leading].mean() * u[:, :leading] @ v[:, :leading].mT if leading else merged
