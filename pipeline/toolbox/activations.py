"""Activations of an encoder, block by block and over many examples, and the Gram matrices of its matrices' inputs.

`passes` are what enters a block, one `Hidden` for each pass of examples, in order; one pass goes through a block at a
time. `precision` is that of the encoder's matrix products, float32 (as the weights) or bfloat16.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from pipeline.models.encoder import Hidden, Transformer
from pipeline.models.examples import cut_padding
from pipeline.models.weights import Weights
from pipeline.runtime.schema import autocast


def expert_weights(base: Mapping[str, Tensor], vectors: Mapping[str, Tensor], task: int, prefix: str = "") -> Weights:
    """Return the weights of one expert, theta_0 + tau_t, whose names begin with `prefix`."""
    part = {name: tensor for name, tensor in base.items() if name.startswith(prefix)}
    return {name: tensor + vectors[name][task] if name in vectors else tensor for name, tensor in part.items()}


@torch.no_grad()
def embed_examples(
    encoder: Transformer, weights: Mapping[str, Tensor], examples: Tensor, limit: int, precision: torch.dtype
) -> list[Hidden]:
    """Return what enters the first block, in passes of at most `limit` examples."""
    with autocast(examples.device, precision):
        return [encoder.embed(weights, cut_padding(batch)) for batch in examples.split(limit)]


@torch.no_grad()
def apply_block(
    encoder: Transformer, weights: Mapping[str, Tensor], index: int, passes: list[Hidden], precision: torch.dtype
) -> list[Hidden]:
    """Return what leaves a block; `weights` needs the block's own only."""
    with autocast(passes[0].tokens.device, precision):
        return [encoder.block(weights, index, hidden) for hidden in passes]


@torch.no_grad()
def gram_matrices(
    encoder: Transformer,
    weights: Mapping[str, Tensor],
    index: int,
    passes: list[Hidden],
    precision: torch.dtype,
    dtype: torch.dtype | None = None,
) -> Weights:
    """Return E[x x^T] of the inputs x of each matrix of a block, over all tokens but padding: {name: [in, in]}.

    q, k and v share one tensor. Products and sums are in `dtype`, by default that of the weights.
    """
    count = sum(hidden.count() for hidden in passes)
    sums: Weights = {}
    sharing: dict[str, str] = {}
    for hidden in passes:
        with autocast(hidden.tokens.device, precision):
            entering = encoder.inputs(weights, index, hidden)
        sharing = {name: next(first for first, other in entering.items() if other is x) for name, x in entering.items()}
        for name in {*sharing.values()}:
            rows = entering[name].to(dtype or weights[name].dtype)
            sums[name] = sums[name].addmm_(rows.T, rows) if name in sums else rows.T @ rows
    means = {name: total / count for name, total in sums.items()}
    return {name: means[first] for name, first in sharing.items()}
