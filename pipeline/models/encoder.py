"""CLIP's image tower as pure functions of its weights: whole, or block by block for methods that look inside.

A Vision Transformer (Dosovitskiy et al., arXiv 2010.11929; Radford et al., arXiv 2103.00020), pre-norm:

    h <- h + out_proj(attention(q, k, v of ln_1(h)))
    h <- h + c_proj(gelu(c_fc(ln_2(h))))

Written out, on the tensors of a suite as they are (q, k and v apart), because methods need what enters every matrix and
may put something else in a matrix's place. Tests hold it to open_clip's and transformers' own forward passes.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv2d, gelu, layer_norm, linear, normalize, scaled_dot_product_attention

from pipeline.models.weights import PARTS, Weights
from pipeline.runtime.errors import BenchmarkError

Multiply = Callable[[str, Tensor], Tensor]
KNOWN = {"image_size", "layers", "width", "head_width", "patch_size", "mlp_ratio"}
"""Keys of vision_cfg that are understood, the last from the shapes: another one would mean another architecture."""


class Tower:
    """The image encoder of a suite.

    `weights` are the split tensors of the image tower, frozen ones included; `images` uint8 [N, H, W, 3] on the same
    device. A missing tensor is a KeyError.
    """

    def __init__(self, config: Mapping[str, Any], mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        """The tower of a CLIP as `build_clip` takes it; `mean` and `std` per channel, of pixels in [0, 1].

        Raises BenchmarkError for a vision_cfg with keys that it does not know.
        """
        vision = config["vision_cfg"]
        if unknown := sorted(vision.keys() - KNOWN):
            raise BenchmarkError(f"vision_cfg: {', '.join(unknown)} not supported; expected {', '.join(sorted(KNOWN))}")
        self.depth: int = vision["layers"]
        """Number of transformer blocks."""
        self._heads, self._patch = vision["width"] // vision["head_width"], vision["patch_size"]
        self.activate: Callable[[Tensor], Tensor] = _quick_gelu if config.get("quick_gelu") else gelu
        """The activation between the two matrices of every block's MLP."""
        self._mean, self._std = mean, std

    def __call__(self, weights: Mapping[str, Tensor], images: Tensor) -> Tensor:
        """Features [N, D] of unit length: `finish` of all blocks of `embed`."""
        tokens = self.embed(weights, images)
        for index in range(self.depth):
            tokens = self.block(weights, index, tokens)
        return self.finish(weights, tokens)

    def embed(self, weights: Mapping[str, Tensor], images: Tensor) -> Tensor:
        """Tokens [N, L, width] that enter the first block."""
        sample = weights["conv1.weight"]
        shift, scale = (sample.new_tensor(values).view(3, 1, 1) for values in (self._mean, self._std))
        pixels = (images.permute(0, 3, 1, 2).to(sample.dtype) / 255 - shift) / scale
        patches = conv2d(pixels, sample, stride=self._patch).flatten(2).transpose(1, 2)
        first = weights["class_embedding"].to(patches.dtype).expand(len(patches), 1, -1)
        return _norm(weights, "ln_pre", torch.cat([first, patches], dim=1) + weights["positional_embedding"])

    def block(self, weights: Mapping[str, Tensor], index: int, tokens: Tensor) -> Tensor:
        """Tokens [N, L, width] after a block, from those that enter it; the block's own weights are enough."""
        return self.block_by(weights, index, tokens, lambda name, x: _product(weights, name, x))

    def block_by(self, weights: Mapping[str, Tensor], index: int, tokens: Tensor, multiply: Multiply) -> Tensor:
        """As `block`, but every product W x + b is `multiply(name, x)`, `name` that of W without ".weight"."""
        stem = block_name(index)
        entering = _norm(weights, f"{stem}ln_1", tokens)
        parts = [multiply(f"{stem}attn.{part}", entering) for part in PARTS]
        heads = [part.unflatten(-1, (self._heads, -1)).transpose(1, 2) for part in parts]
        context = scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
        between = tokens + multiply(f"{stem}attn.out_proj", context)
        hidden = self.activate(multiply(f"{stem}mlp.c_fc", _norm(weights, f"{stem}ln_2", between)))
        return between + multiply(f"{stem}mlp.c_proj", hidden)

    def inputs(self, weights: Mapping[str, Tensor], index: int, tokens: Tensor) -> Weights:
        """What enters each matrix of a block: {name of the matrix: [N, L, in]}; q, k and v share one tensor."""
        seen: Weights = {}

        def multiply(name: str, x: Tensor) -> Tensor:
            seen[f"{name}.weight"] = x
            return _product(weights, name, x)

        self.block_by(weights, index, tokens, multiply)
        return seen

    def finish(self, weights: Mapping[str, Tensor], tokens: Tensor) -> Tensor:
        """Features [N, D] of unit length from the tokens after the last block."""
        return normalize(_norm(weights, "ln_post", tokens[:, 0]) @ weights["proj"], dim=-1)


def block_name(index: int) -> str:
    """How the names of a transformer block's tensors begin."""
    return f"transformer.resblocks.{index}."


def _product(weights: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    return linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])


def _norm(weights: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    weight = weights[f"{name}.weight"]
    return layer_norm(x, weight.shape, weight, weights[f"{name}.bias"])


def _quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)
