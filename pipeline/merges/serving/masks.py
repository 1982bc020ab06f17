"""Per task a mask of the shared delta and a scale: theta_0 + scale_t * mask_t * delta. One bit per weight and task.

`tensors`: "<task>/<group>" uint8, the mask's bits packed by `pack_mask`, and "<task>/scale", a scalar.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from pipeline.merges.serving import Served
from pipeline.models.weights import Weights


def pack_mask(mask: Tensor) -> Tensor:
    """Pack a boolean tensor into bits, uint8 [ceil(numel / 8)]."""
    return torch.from_numpy(np.packbits(mask.flatten().cpu().numpy()))


def unpack_mask(bits: Tensor, shape: torch.Size) -> Tensor:
    """Invert `pack_mask`."""
    return torch.from_numpy(np.unpackbits(bits.numpy(), count=shape.numel()).astype(bool)).view(shape)


def serve(served: Served, base: Weights, tensors: Mapping[str, Tensor]) -> Iterator[Served]:
    """Yield one model per task."""
    for task in served.tasks:
        scale, weights = tensors[f"{task}/scale"].double(), dict(served.weights)
        for name in served.weights:
            if f"{task}/{name}" in tensors:
                delta = served.weights[name].double() - base[name].double()
                mask = unpack_mask(tensors[f"{task}/{name}"], delta.shape)
                weights[name] = (base[name].double() + scale * mask * delta).to(base[name].dtype)
        yield replace(served, weights=weights, tasks=(task,))
