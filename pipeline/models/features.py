"""Features of many examples, batch by batch and without gradients."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from pipeline.models.examples import cut_padding
from pipeline.models.weights import Encoder

BATCH = 256
"""Examples per forward pass."""


def encode(encoder: Encoder, weights: Mapping[str, Tensor], examples: np.ndarray, target: torch.device) -> Tensor:
    """Return the features [N, D] of the examples of a split, or of some of them; computed and kept on `target`."""
    with torch.inference_mode():
        parts = [
            encoder(weights, torch.from_numpy(np.array(cut_padding(examples[start : start + BATCH]))).to(target))
            for start in range(0, len(examples), BATCH)
        ]
    return torch.cat(parts)
