"""CLIP's image tower as pure functions of its weights, whole or block by block.

A Vision Transformer (Dosovitskiy et al., arXiv 2010.11929; Radford et al., arXiv 2103.00020), pre-norm:

    h <- h + out_proj(attention(q, k, v of ln_1(h)))
    h <- h + c_proj(gelu(c_fc(ln_2(h))))

Written out on the tensors of a suite (q, k and v apart), because some methods need the input of every matrix, or put
something else in the place of a matrix. Tests compare it with open_clip's and transformers' own forward passes.
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
"""The supported keys of vision_cfg (mlp_ratio is read off the shapes); any other means another architecture."""


class Tower:
    """The image encoder of a suite, as functions of its weights.

    In all methods `weights` are the tensors of the image tower with q, k and v apart, frozen ones included; `images`
    are uint8 [N, H, W, 3] on the same device. A missing tensor is a KeyError.
    """

    def __init__(self, config: Mapping[str, Any], mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        """Read the architecture from the `config` of `build_clip`; `mean` and `std` per channel, of pixels in [0, 1].

        Raises BenchmarkError for a vision_cfg with unsupported keys.
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
        """Return features [N, D] of unit length: `embed`, every block in order, `finish`."""
        tokens = self.embed(weights, images)
        for index in range(self.depth):
            tokens = self.block(weights, index, tokens)
        return self.finish(weights, tokens)

    def embed(self, weights: Mapping[str, Tensor], images: Tensor) -> Tensor:
        """Return the tokens [N, L, width] that enter the first block."""
        filters = weights["conv1.weight"]
        shift, scale = (filters.new_tensor(values).view(3, 1, 1) for values in (self._mean, self._std))
        pixels = (images.permute(0, 3, 1, 2).to(filters.dtype) / 255 - shift) / scale
        patches = conv2d(pixels, filters, stride=self._patch).flatten(2).transpose(1, 2)
        first = weights["class_embedding"].to(patches.dtype).expand(len(patches), 1, -1)
        return _norm(weights, "ln_pre", torch.cat([first, patches], dim=1) + weights["positional_embedding"])

    def block(self, weights: Mapping[str, Tensor], index: int, tokens: Tensor) -> Tensor:
        """Return the tokens [N, L, width] that leave a block; of `weights`, only the block's own are read."""
        return self.block_by(weights, index, tokens, lambda name, x: _product(weights, name, x))

    def block_by(self, weights: Mapping[str, Tensor], index: int, tokens: Tensor, multiply: Multiply) -> Tensor:
        """Return what `block` does, with `multiply(name, x)` for every W x + b; `name` is W's without ".weight"."""
        stem = block_name(index)
        entering = _norm(weights, f"{stem}ln_1", tokens)
        parts = [multiply(f"{stem}attn.{part}", entering) for part in PARTS]
        query, key, value = (part.unflatten(-1, (self._heads, -1)).transpose(1, 2) for part in parts)
        context = scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        between = tokens + multiply(f"{stem}attn.out_proj", context)
        hidden = self.activate(multiply(f"{stem}mlp.c_fc", _norm(weights, f"{stem}ln_2", between)))
        return between + multiply(f"{stem}mlp.c_proj", hidden)

    def inputs(self, weights: Mapping[str, Tensor], index: int, tokens: Tensor) -> Weights:
        """Return the input of each matrix of a block: {name of the matrix: [N, L, in]}; q, k and v share a tensor."""
        entering: Weights = {}

        def multiply(name: str, x: Tensor) -> Tensor:
            entering[f"{name}.weight"] = x
            return _product(weights, name, x)

        self.block_by(weights, index, tokens, multiply)
        return entering

    def finish(self, weights: Mapping[str, Tensor], tokens: Tensor) -> Tensor:
        """Return features [N, D] of unit length from the tokens after the last block."""
        return normalize(_norm(weights, "ln_post", tokens[:, 0]) @ weights["proj"], dim=-1)


def block_name(index: int) -> str:
    """Return the prefix of the names of a transformer block's tensors."""
    return f"transformer.resblocks.{index}."


def _product(weights: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    return linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])


def _norm(weights: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    weight = weights[f"{name}.weight"]
    return layer_norm(x, weight.shape, weight, weights[f"{name}.bias"])


def _quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)
