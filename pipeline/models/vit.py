"""CLIP's image tower: a Vision Transformer (Dosovitskiy et al., arXiv 2010.11929; Radford et al., arXiv 2103.00020).

h <- h + out_proj(attention(q, k, v of ln_1(h)))
h <- h + c_proj(gelu(c_fc(ln_2(h))))
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv2d, gelu

from pipeline.models.encoder import (
    Hidden,
    Multiply,
    Shapes,
    Transformer,
    attend,
    block_name,
    block_shapes,
    norm,
    require_sizes,
)
from pipeline.models.examples import find_image_fault
from pipeline.models.weights import PARTS

SIZES = ("image_size", "layers", "width", "head_width", "patch_size")
KNOWN = {*SIZES, "mlp_ratio"}
"""The supported keys of vision_cfg; any other means another architecture."""


class VisionTransformer(Transformer):
    """The image tower of open_clip's CLIP; features are of unit length."""

    kind = "images"
    kept = 21

    @staticmethod
    def check(model: Mapping[str, Any]) -> None:
        """Check those arguments of `open_clip.CLIP` that fix the shape of the image tower."""
        require_sizes(model, ("embed_dim",))
        content = model.get("vision_cfg")
        vision = content if isinstance(content, dict) else {}
        require_sizes(vision, SIZES, "vision_cfg: ")
        if unknown := sorted(vision.keys() - KNOWN):
            raise ValueError(f"vision_cfg: {', '.join(unknown)} not supported; expected {', '.join(sorted(KNOWN))}")
        if vision["width"] % vision["head_width"]:
            raise ValueError(f"vision_cfg: width {vision['width']} is no multiple of head_width {vision['head_width']}")
        if type(ratio := vision.get("mlp_ratio", 4.0)) not in (int, float) or not 0 < ratio < 1000:
            raise ValueError(f"vision_cfg: mlp_ratio is {ratio!r}, expected a number above 0")

    def __init__(self, model: Mapping[str, Any], mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        """Read the architecture from a `model` that has passed `check`; mean and std: of pixels from 0 to 1."""
        vision = model["vision_cfg"]
        self.depth, self.width = vision["layers"], vision["width"]
        self.activate: Callable[[Tensor], Tensor] = _quick_gelu if model.get("quick_gelu") else gelu
        self._heads, self._patch = vision["width"] // vision["head_width"], vision["patch_size"]
        self._side = vision["image_size"]
        self._tokens = (vision["image_size"] // vision["patch_size"]) ** 2 + 1
        self._inner, self.features = int(self.width * vision.get("mlp_ratio", 4)), model["embed_dim"]
        self._mean, self._std = mean, std

    def shapes(self) -> Shapes:
        """Return the shapes of the visual projection, which stays pre-trained in the paper's code, and of all else."""
        vector = (self.width,)
        return {
            "class_embedding": vector,
            "positional_embedding": (self._tokens, self.width),
            "proj": (self.width, self.features),
            "conv1.weight": (self.width, 3, self._patch, self._patch),
            "ln_pre.weight": vector,
            "ln_pre.bias": vector,
            **block_shapes(self.depth, self.width, self._inner),
            "ln_post.weight": vector,
            "ln_post.bias": vector,
        }

    def count_tokens(self, examples: np.ndarray | Tensor) -> int:
        """Return the number of patches and the class token."""
        del examples
        return self._tokens

    def find_fault(self, examples: np.ndarray) -> str | None:
        """Return what is wrong with images, or None."""
        return find_image_fault(examples, self._side)

    def embed(self, weights: Mapping[str, Tensor], examples: Tensor) -> Hidden:
        """Return the class token and the patches."""
        filters = weights["conv1.weight"]
        shift, scale = (filters.new_tensor(values).view(3, 1, 1) for values in (self._mean, self._std))
        pixels = (examples.permute(0, 3, 1, 2).to(filters.dtype) / 255 - shift) / scale
        patches = conv2d(pixels, filters, stride=self._patch).flatten(2).transpose(1, 2)
        first = weights["class_embedding"].to(patches.dtype).expand(len(patches), 1, -1)
        return Hidden(norm(weights, "ln_pre", torch.cat([first, patches], dim=1) + weights["positional_embedding"]))

    def block_by(self, weights: Mapping[str, Tensor], index: int, hidden: Hidden, multiply: Multiply) -> Hidden:
        """Attention and MLP, each on the norm of what it is added to."""
        stem, tokens = block_name(index), hidden.tokens
        entering = norm(weights, f"{stem}ln_1", tokens)
        context = attend([multiply(f"{stem}attn.{part}", entering) for part in PARTS], self._heads)
        between = tokens + multiply(f"{stem}attn.out_proj", context)
        inner = self.activate(multiply(f"{stem}mlp.c_fc", norm(weights, f"{stem}ln_2", between)))
        return Hidden(between + multiply(f"{stem}mlp.c_proj", inner))

    def pool(self, weights: Mapping[str, Tensor], hidden: Hidden) -> Tensor:
        """Return the projected class token."""
        return norm(weights, "ln_post", hidden.tokens[:, 0]) @ weights["proj"]


def _quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)
