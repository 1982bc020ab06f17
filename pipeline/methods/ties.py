"""TIES: trim, elect signs, merge what agrees. theta = theta_0 + scale * tau_m.

1. Trim: per task keep the `keep` share of largest |tau_t| over the whole model (not per tensor); ties at the threshold
   are kept.
2. Elect: the sign of the sum of the trimmed task vectors; where it is zero, the majority sign over all parameters.
3. Disjoint merge: over the trimmed entries that have the elected sign, their mean (the paper's) or their sum (the
   protocol of AdaMerging and FusionBench).

Two pairs are in use without validation data: mean with scale 1 (the paper), sum with scale 0.3 (AdaMerging,
FusionBench). The default is the second: the line of results to which the paper under study compares itself.
"""

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from pipeline.model import Weights
from pipeline.schema import Parameters
from pipeline.vectors import TaskVectors

TITLE = "TIES"
PAPER = "Yadav et al., 2023, arXiv 2306.01708"


class Params(Parameters):
    """keep: share of entries kept per task; scale: of the merged vector; aggregate: the disjoint merge."""

    keep: float = Field(0.2, gt=0, le=1)
    scale: float = Field(0.3, ge=0, le=2)
    aggregate: Literal["mean", "sum"] = "sum"


def merge(vectors: TaskVectors, params: Params) -> Weights:
    """The merged delta {name: tensor}; memory is a few models, whatever T."""
    thresholds = torch.stack([_threshold(vectors.task(t), params.keep) for t in range(vectors.tasks)])
    sums = {name: _trimmed(vectors[name], thresholds).sum(0) for name in vectors}
    majority = torch.stack([total.sign().sum() for total in sums.values()]).sum().sign()
    merged = {}
    for name, total in sums.items():
        trimmed = _trimmed(vectors[name], thresholds)
        elected = torch.where(total == 0, majority, total.sign())
        agreeing = (trimmed * elected > 0).to(trimmed.dtype)
        combined = (trimmed * agreeing).sum(0)
        if params.aggregate == "mean":
            combined = combined / agreeing.sum(0).clamp(min=1)
        merged[name] = params.scale * combined
    return merged


def _threshold(vector: Weights, keep: float) -> Tensor:
    """The smallest magnitude that is kept: that of rank ceil(keep * P) from the top."""
    magnitudes = torch.cat([tensor.abs().flatten() for tensor in vector.values()])
    dropped = len(magnitudes) - math.ceil(keep * len(magnitudes))
    return magnitudes.kthvalue(dropped + 1).values


def _trimmed(stacked: Tensor, thresholds: Tensor) -> Tensor:
    limits = thresholds.view(-1, *[1] * (stacked.ndim - 1))
    return torch.where(stacked.abs() >= limits, stacked, torch.zeros_like(stacked))
