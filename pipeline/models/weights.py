"""The weights of an encoder: names and layout of its tensors.

A suite keeps q, k and v as separate tensors (`attn.q.weight`, ...), as the paper does: one tensor is one group, with a
coefficient per task. open_clip fuses the three; `split_qkv` and `fuse_qkv` convert between the two layouts.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

Weights = dict[str, Tensor]
"""name -> tensor"""
Encoder = Callable[[Mapping[str, Tensor], Tensor], Tensor]
"""(weights, examples) -> features [N, D]"""

FROZEN = ("proj",)
"""Tensors of CLIP's image tower that stay pre-trained: the visual projection, as in the paper's code."""

PARTS = ("q", "k", "v")


def has_gradient(name: str) -> bool:
    """Return whether the encoder's output depends on this tensor: true of all but the bias of k.

    That bias adds the same number to all attention scores of a query, which a softmax ignores. Its gradient is rounding
    error, which Adam would scale up to the size of any other.
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
    """Invert `split_qkv`."""
    fused: Weights = {}
    for name, tensor in weights.items():
        stem, separator, kind = name.partition(".attn.q.")
        if separator:
            rows = [weights[f"{stem}.attn.{part}.{kind}"] for part in PARTS]
            fused[f"{stem}.attn.in_proj_{kind}"] = torch.cat(rows)
        elif ".attn.k." not in name and ".attn.v." not in name:
            fused[name] = tensor
    return fused


def build_clip(config: Mapping[str, Any]) -> torch.nn.Module:
    """Build open_clip's CLIP of `config` (embed_dim, vision_cfg, text_cfg, quick_gelu) with random weights."""
    import open_clip  # seconds to import, so only where a model is built

    return open_clip.CLIP(**config)


def to_device(tensors: Mapping[str, Tensor], target: torch.device) -> Weights:
    """Return the tensors on `target`, copied unless they are there already."""
    return {name: tensor.to(target) for name, tensor in tensors.items()}
