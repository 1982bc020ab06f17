"""Features of many images, batch by batch and without gradients."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from pipeline.models.weights import Encoder

BATCH = 256
"""Images per forward pass."""


def encode(encoder: Encoder, weights: Mapping[str, Tensor], images: np.ndarray, target: torch.device) -> Tensor:
    """Return the features [N, D], of unit length, of images uint8 [N, H, W, 3]; computed and kept on `target`."""
    with torch.inference_mode():
        parts = [
            encoder(weights, torch.from_numpy(np.array(images[start : start + BATCH])).to(target))
            for start in range(0, len(images), BATCH)
        ]
    return torch.cat(parts)
