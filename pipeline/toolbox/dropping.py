"""Drop random entries of a task vector and rescale the rest (arXiv 2311.03099)."""

import torch
from torch import Tensor


def drop_entries(tensor: Tensor, share: float, rng: torch.Generator) -> Tensor:
    """Set each entry to zero with probability `share` in [0, 1) and divide the others by 1 - share.

    The expectation is the tensor itself. The draws do not depend on the precision or the device of the tensor.
    """
    kept = torch.rand(tensor.shape, generator=rng) >= share
    return tensor * kept.to(tensor.device) / (1 - share)
