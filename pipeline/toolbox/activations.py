"""What enters the matrices of an image tower, block by block and over many images; Gram matrices.

`tokens` are a list with one tensor [N, L, width] for each pass of images, in order: no more than one pass goes through
a block at a time. `precision` is that of the encoder's matrix products, float32 (as the weights are) or bfloat16.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from pipeline.models.encoder import Tower
from pipeline.models.weights import Weights
from pipeline.runtime.schema import rounded


def expert(base: Mapping[str, Tensor], vectors: Mapping[str, Tensor], task: int, prefix: str = "") -> Weights:
    """The weights of one expert, theta_0 + tau_t, whose names begin with `prefix`."""
    own = {name: tensor for name, tensor in base.items() if name.startswith(prefix)}
    return {name: tensor + vectors[name][task] if name in vectors else tensor for name, tensor in own.items()}


@torch.no_grad()
def embed(
    tower: Tower, weights: Mapping[str, Tensor], images: Tensor, images_per_pass: int, precision: torch.dtype
) -> list[Tensor]:
    """Tokens that enter the first block, from images uint8 [N, H, W, 3]."""
    with rounded(images.device, precision):
        return [tower.embed(weights, batch) for batch in images.split(images_per_pass)]


@torch.no_grad()
def advance(
    tower: Tower, weights: Mapping[str, Tensor], index: int, tokens: list[Tensor], precision: torch.dtype
) -> list[Tensor]:
    """Tokens after a block, from those that enter it; the block's own weights are enough."""
    with rounded(tokens[0].device, precision):
        return [tower.block(weights, index, batch) for batch in tokens]


@torch.no_grad()
def grams(
    tower: Tower,
    weights: Mapping[str, Tensor],
    index: int,
    tokens: list[Tensor],
    precision: torch.dtype,
    dtype: torch.dtype | None = None,
) -> Weights:
    """E[x x^T] over all tokens where each matrix of a block stands: {name: [in, in]}; q, k and v share one tensor.

    Multiplied and added up in `dtype`, by default that of the weights.
    """
    count = sum(batch.shape[0] * batch.shape[1] for batch in tokens)
    sums: Weights = {}
    sharing: dict[str, str] = {}
    for batch in tokens:
        with rounded(batch.device, precision):
            entering = tower.inputs(weights, index, batch)
        sharing = {name: next(first for first, other in entering.items() if other is x) for name, x in entering.items()}
        for name in {*sharing.values()}:
            rows = entering[name].flatten(0, -2).to(dtype or weights[name].dtype)
            sums[name] = sums[name].addmm_(rows.T, rows) if name in sums else rows.T @ rows
    means = {name: total / count for name, total in sums.items()}
    return {name: means[first] for name, first in sharing.items()}
