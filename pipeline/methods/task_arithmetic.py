"""Task arithmetic: theta = theta_0 + scale * sum_t tau_t.

The paper picks the scale on labelled validation data; we keep the fixed 0.3 of AdaMerging and FusionBench.
"""

import torch
from pydantic import Field
from torch import Tensor

from pipeline.models.task_vectors import TaskVectors
from pipeline.runtime.schema import Parameters

TITLE = "Task arithmetic"
PAPER = "Ilharco et al., 2023, arXiv 2212.04089"


class Params(Parameters):
    """scale: the one coefficient of all tasks and groups."""

    scale: float = Field(0.3, ge=0, le=2)


def merge(vectors: TaskVectors, params: Params) -> Tensor:
    """Return coefficients [T, G], all `scale`."""
    return torch.full((vectors.tasks, len(vectors)), params.scale, dtype=torch.float64)
