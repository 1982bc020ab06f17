"""Simple average of the experts: theta = (1/T) sum_t theta_t, that is lambda = 1/T."""

import torch
from torch import Tensor

from pipeline.models.task_vectors import TaskVectors
from pipeline.runtime.schema import Parameters

TITLE = "Simple average"
PAPER = "Wortsman et al., 2022, arXiv 2203.05482"


class Params(Parameters):
    """No parameters."""


def merge(vectors: TaskVectors, params: Params) -> Tensor:
    """Return coefficients [T, G], all 1/T."""
    return torch.full((vectors.tasks, len(vectors)), 1 / vectors.tasks, dtype=torch.float64)
