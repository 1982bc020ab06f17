"""Per task a mask of the shared delta and a scale: theta_0 + scale_t * mask_t * delta. One bit a weight and task.

`tensors`: "<task>/<group>" uint8, the mask's bits packed by `pack`, and "<task>/scale", a scalar.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from pipeline.merges.serving import Served
from pipeline.models.weights import Weights


def pack(mask: Tensor) -> Tensor:
    """A boolean tensor as bits, uint8 [ceil(numel / 8)]."""
    return torch.from_numpy(np.packbits(mask.flatten().cpu().numpy()))


def unpack(bits: Tensor, shape: torch.Size) -> Tensor:
    """The inverse of `pack`."""
    return torch.from_numpy(np.unpackbits(bits.numpy(), count=shape.numel()).astype(bool)).view(shape)


def serve(served: Served, base: Weights, tensors: Mapping[str, Tensor]) -> Iterator[Served]:
    """One model per task, made when it is asked for."""
    for task in served.tasks:
        scale, weights = tensors[f"{task}/scale"].double(), dict(served.weights)
        for name in served.weights:
            if f"{task}/{name}" in tensors:
                delta = served.weights[name].double() - base[name].double()
                kept = unpack(tensors[f"{task}/{name}"], delta.shape)
                weights[name] = (base[name].double() + scale * kept * delta).to(base[name].dtype)
        yield replace(served, weights=weights, tasks=(task,))
