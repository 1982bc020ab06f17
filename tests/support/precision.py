"""How far two results of the same sum may differ: the tolerances of tests that compare floating-point numbers.

Processors add in different orders, with and without fused multiplications, so that a tolerance has to follow from the
precision and from the length of the sum, not from what one processor gives.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch


def tolerance(dtype: torch.dtype, terms: int, scale: float = 1.0) -> float:
    """The largest difference between two results of a sum of `terms` numbers, each computed in `dtype`.

    `scale`: the sum of the numbers' absolute values. Every addition rounds by at most eps / 2 of that. Errors
    of random signs grow with the root of their number (Higham and Mary 2019), so that a result is hardly ever off by
    more than sqrt(terms) eps, which is twice their deviation at most; two results differ by twice that.
    """
    return 2 * math.sqrt(terms) * torch.finfo(dtype).eps * scale


def roundings(model: Mapping[str, Any]) -> int:
    """The lengths of all sums on the way from a pixel to a feature of an image tower, added up."""
    vision, width = model["vision_cfg"], model["vision_cfg"]["width"]
    tokens = (vision["image_size"] // vision["patch_size"]) ** 2 + 1
    norm = 2 * width  # mean and variance
    attention = width + vision["head_width"] + tokens + width  # q and k, their products, the weighted mean, the output
    block = 2 * norm + attention + width + 4 * width
    return 3 * vision["patch_size"] ** 2 + vision["layers"] * block + 2 * norm + width + model["embed_dim"]
