"""NAN: the larger the norm of an expert, the smaller its coefficient (arXiv 2505.16148).

    lambda_t = scale * (1 / |W_t|_F) / sum_j (1 / |W_j|_F)

W_t is the task vector or the fine-tuned weights, the norm that of each tensor or of the whole model. Equal norms give
the simple average for scale 1. An expert whose norm is zero gets no weight and does not count in the sum. Our reading,
unverified: see UNVERIFIED.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from pipeline.schema import Parameters
from pipeline.toolbox.parts import parts
from pipeline.toolbox.spread import spread
from pipeline.vectors import TaskVectors

TITLE = "NAN"
PAPER = "Si et al., 2025, arXiv 2505.16148"
UNVERIFIED = (
    "no released code and only the abstract was read: whether the norm is of the task vector or of the weights, per "
    "tensor or of the model, and the scale for many models"
)


class Params(Parameters):
    """norm_of: the task vector or the fine-tuned weights; scope: one norm per tensor or model; scale: of the sum."""

    norm_of: Literal["delta", "weight"] = "delta"
    scope: Literal["tensor", "model"] = "model"
    scale: float = Field(1.0, ge=0, le=20)


def merge(vectors: TaskVectors, params: Params) -> Tensor:
    """Coefficients [T, G] that sum to `scale` over the tasks."""

    def squared(name: str) -> Tensor:
        stacked = vectors[name] if params.norm_of == "delta" else vectors.base(name) + vectors[name]
        return sum(part.double().square().sum(1) for part in parts(stacked))

    squares = torch.stack([*spread(squared, vectors).values()], dim=1)
    if params.scope == "model":
        squares = squares.sum(1, keepdim=True).expand_as(squares)
    inverse = torch.where(squares > 0, squares.rsqrt(), 0)
    total = inverse.sum(0)
    return params.scale * inverse / torch.where(total > 0, total, 1)
