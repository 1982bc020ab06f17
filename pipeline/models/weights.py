"""The weights of an image encoder.

The weights of a suite keep q, k and v as tensors of their own (`attn.q.weight`, ...), as the paper's coefficients do:
one tensor is one coefficient group. open_clip fuses the three; `split_qkv` and `fuse_qkv` go back and forth.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

Weights = dict[str, Tensor]
Encoder = Callable[[Mapping[str, Tensor], Tensor], Tensor]

FROZEN = ("proj",)
"""Tensors of the image tower that stay pre-trained: the visual projection (as in the paper's code)."""

PARTS = ("q", "k", "v")


def has_gradient(name: str) -> bool:
    """Whether the encoder's output depends on this tensor: all but the bias of k.

    That bias adds the same number to all scores of a query, and a softmax ignores it. Its gradient is rounding, which
    Adam would bring to the size of any other.
    """
    return not name.endswith(".attn.k.bias")


def split_qkv(weights: Mapping[str, Tensor]) -> Weights:
    """Rename `*.attn.in_proj_{weight,bias}` [3d, ...] into `*.attn.{q,k,v}.{weight,bias}` [d, ...]; copy the rest."""
    split: Weights = {}
    for name, tensor in weights.items():
        if ".attn.in_proj_" in name:
            stem, kind = name.split("in_proj_")
            for part, rows in zip(PARTS, tensor.chunk(3), strict=True):
                split[f"{stem}{part}.{kind}"] = rows.clone()
        else:
            split[name] = tensor
    return split


def fuse_qkv(weights: Mapping[str, Tensor]) -> Weights:
    """The inverse of `split_qkv`."""
    fused: Weights = {}
    for name, tensor in weights.items():
        stem, found, kind = name.partition(".attn.q.")
        if found:
            rows = [weights[f"{stem}.attn.{part}.{kind}"] for part in PARTS]
            fused[f"{stem}.attn.in_proj_{kind}"] = torch.cat(rows)
        elif ".attn.k." not in name and ".attn.v." not in name:
            fused[name] = tensor
    return fused


def build_clip(config: Mapping[str, Any]) -> torch.nn.Module:
    """An open_clip CLIP of `config` (embed_dim, vision_cfg, text_cfg, quick_gelu) with freshly drawn weights."""
    import open_clip  # seconds to import, so only where a model is built

    return open_clip.CLIP(**config)


def to_device(tensors: Mapping[str, Tensor], target: torch.device) -> Weights:
    """Copies of the tensors on `target`."""
    return {name: tensor.to(target) for name, tensor in tensors.items()}
