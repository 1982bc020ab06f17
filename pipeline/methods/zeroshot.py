"""The pre-trained model on every task, the floor: theta = theta_0."""

import torch
from torch import Tensor

from pipeline.models.task_vectors import TaskVectors
from pipeline.runtime.schema import Parameters

TITLE = "Zero-shot"
PAPER = "Radford et al., 2021, arXiv 2103.00020"


class Params(Parameters):
    """No parameters."""


def merge(vectors: TaskVectors, params: Params) -> Tensor:
    """Return coefficients [T, G], all zero."""
    return torch.zeros(vectors.tasks, len(vectors), dtype=torch.float64)
