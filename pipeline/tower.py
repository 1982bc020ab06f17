"""The image encoder as pure functions of its weights: whole, or block by block for methods that look inside."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, normalize, scaled_dot_product_attention

from pipeline.model import PARTS, Weights, build_clip, fuse_qkv


class Tower:
    """The image encoder of a suite, whole or block by block, as pure functions of the weights they are given.

    `weights` are the split tensors of the image tower, frozen ones included; `images` uint8 [N, H, W, 3] on the same
    device. The module behind it is a skeleton without storage: it holds no weights.
    """

    def __init__(self, config: Mapping[str, Any], mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        """The tower of a CLIP as `build_clip` takes it; `mean` and `std` per channel, of pixels in [0, 1]."""
        with torch.device("meta"):
            self._tower = build_clip(config).visual.eval()
        self._mean, self._std = mean, std
        self.depth = len(self._tower.transformer.resblocks)
        """Number of transformer blocks."""
        self.activation: Callable[[Tensor], Tensor] = self._tower.transformer.resblocks[0].mlp.gelu
        """What an MLP applies to each of its hidden units."""

    def __call__(self, weights: Mapping[str, Tensor], images: Tensor) -> Tensor:
        """Features [N, D] of unit length: `finish` of all blocks of `embed`."""
        return normalize(_call(self._tower, fuse_qkv(weights), self._pixels(weights, images)), dim=-1)

    def embed(self, weights: Mapping[str, Tensor], images: Tensor) -> Tensor:
        """Tokens [N, L, width] that enter the first block."""
        return _call(_Embed(self._tower), _under("tower.", fuse_qkv(weights)), self._pixels(weights, images))

    def block(self, weights: Mapping[str, Tensor], index: int, tokens: Tensor) -> Tensor:
        """Tokens [N, L, width] after a block, from those that enter it; the block's own weights are enough."""
        return _call(self._tower.transformer.resblocks[index], _block(weights, index), tokens)

    def block_by(
        self, weights: Mapping[str, Tensor], index: int, tokens: Tensor, multiply: Callable[[str, Tensor], Tensor]
    ) -> Tensor:
        """As `block`, but every product W x + b is `multiply(name, x)`, `name` that of W without ".weight"."""
        stem = block_name(index)
        module = _Opened(self._tower.transformer.resblocks[index])
        own = {f"block.{name}": tensor for name, tensor in _block(weights, index).items()}
        return torch.func.functional_call(module, own, (tokens, lambda name, x: multiply(stem + name, x)), strict=True)

    def inputs(self, weights: Mapping[str, Tensor], index: int, tokens: Tensor) -> Weights:
        """What enters each matrix of a block: {name of the matrix: [N, L, in]}; q, k and v share one tensor."""
        seen: Weights = {}

        def multiply(name: str, x: Tensor) -> Tensor:
            seen[f"{name}.weight"] = x
            return linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

        self.block_by(weights, index, tokens, multiply)
        return seen

    def finish(self, weights: Mapping[str, Tensor], tokens: Tensor) -> Tensor:
        """Features [N, D] of unit length from the tokens after the last block."""
        return normalize(_call(_Finish(self._tower), _under("tower.", fuse_qkv(weights)), tokens), dim=-1)

    def _pixels(self, weights: Mapping[str, Tensor], images: Tensor) -> Tensor:
        sample = next(iter(weights.values()))
        shift, scale = (sample.new_tensor(values).view(3, 1, 1) for values in (self._mean, self._std))
        return (images.permute(0, 3, 1, 2).to(sample.dtype) / 255 - shift) / scale


class _Embed(torch.nn.Module):
    def __init__(self, tower: torch.nn.Module) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, pixels: Tensor) -> Tensor:
        return self.tower._embeds(pixels)


class _Finish(torch.nn.Module):
    def __init__(self, tower: torch.nn.Module) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, tokens: Tensor) -> Tensor:
        pooled, _ = self.tower._pool(tokens)
        return pooled @ self.tower.proj


class _Opened(torch.nn.Module):
    def __init__(self, block: torch.nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, tokens: Tensor, multiply: Callable[[str, Tensor], Tensor]) -> Tensor:
        entering = self.block.ln_1(tokens)
        parts = [multiply(f"attn.{part}", entering) for part in PARTS]
        heads = [part.unflatten(-1, (self.block.attn.num_heads, -1)).transpose(1, 2) for part in parts]
        context = scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
        between = tokens + multiply("attn.out_proj", context)
        hidden = self.block.mlp.gelu(multiply("mlp.c_fc", self.block.ln_2(between)))
        return between + multiply("mlp.c_proj", hidden)


def block_name(index: int) -> str:
    """How the names of a transformer block's tensors begin."""
    return f"transformer.resblocks.{index}."


def within(tensors: Mapping[str, Tensor], prefix: str) -> Weights:
    """The tensors whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _block(weights: Mapping[str, Tensor], index: int) -> Weights:
    """A block's tensors as open_clip names them within the block."""
    own = {name: tensor for name, tensor in weights.items() if name.startswith(block_name(index))}
    return within(fuse_qkv(own), block_name(index))


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> Weights:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def _call(module: torch.nn.Module, weights: Mapping[str, Tensor], argument: Tensor) -> Any:
    return torch.func.functional_call(module, dict(weights), (argument,), strict=True)
