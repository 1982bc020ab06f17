"""Dropping entries of a task vector at random and rescaling the rest (arXiv 2311.03099)."""

import torch
from torch import Tensor


def drop(tensor: Tensor, share: float, rng: torch.Generator) -> Tensor:
    """The tensor with each entry zero with probability `share` in [0, 1), the others divided by 1 - share.

    Its expectation is the tensor. The draws do not depend on the precision or the device of the tensor.
    """
    kept = torch.rand(tensor.shape, generator=rng) >= share
    return tensor * kept.to(tensor.device) / (1 - share)
