"""Activations of an image tower, block by block and over many images, and the Gram matrices of its matrices' inputs.

`tokens` is a list with one tensor [N, L, width] for each pass of images, in order; one pass goes through a block at a
time. `precision` is that of the encoder's matrix products, float32 (as the weights) or bfloat16.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from pipeline.models.encoder import Tower
from pipeline.models.weights import Weights
from pipeline.runtime.schema import autocast


def expert_weights(base: Mapping[str, Tensor], vectors: Mapping[str, Tensor], task: int, prefix: str = "") -> Weights:
    """Return the weights of one expert, theta_0 + tau_t, whose names begin with `prefix`."""
    part = {name: tensor for name, tensor in base.items() if name.startswith(prefix)}
    return {name: tensor + vectors[name][task] if name in vectors else tensor for name, tensor in part.items()}


@torch.no_grad()
def embed_images(
    tower: Tower, weights: Mapping[str, Tensor], images: Tensor, images_per_pass: int, precision: torch.dtype
) -> list[Tensor]:
    """Return the tokens that enter the first block, from images uint8 [N, H, W, 3]."""
    with autocast(images.device, precision):
        return [tower.embed(weights, batch) for batch in images.split(images_per_pass)]


@torch.no_grad()
def apply_block(
    tower: Tower, weights: Mapping[str, Tensor], index: int, tokens: list[Tensor], precision: torch.dtype
) -> list[Tensor]:
    """Return the tokens after a block, from those that enter it; `weights` needs the block's own only."""
    with autocast(tokens[0].device, precision):
        return [tower.block(weights, index, batch) for batch in tokens]


@torch.no_grad()
def gram_matrices(
    tower: Tower,
    weights: Mapping[str, Tensor],
    index: int,
    tokens: list[Tensor],
    precision: torch.dtype,
    dtype: torch.dtype | None = None,
) -> Weights:
    """Return E[x x^T] of the inputs x of each matrix of a block, over all tokens: {name: [in, in]}.

    q, k and v share one tensor. Products and sums are in `dtype`, by default that of the weights.
    """
    count = sum(batch.shape[0] * batch.shape[1] for batch in tokens)
    sums: Weights = {}
    sharing: dict[str, str] = {}
    for batch in tokens:
        with autocast(batch.device, precision):
            entering = tower.inputs(weights, index, batch)
        sharing = {name: next(first for first, other in entering.items() if other is x) for name, x in entering.items()}
        for name in {*sharing.values()}:
            rows = entering[name].flatten(0, -2).to(dtype or weights[name].dtype)
            sums[name] = sums[name].addmm_(rows.T, rows) if name in sums else rows.T @ rows
    means = {name: total / count for name, total in sums.items()}
    return {name: means[first] for name, first in sharing.items()}
