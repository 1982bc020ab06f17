"""Every expert on its own task, the ceiling: theta^(t) = theta_t. T models, not one."""

import torch
from torch import Tensor

from pipeline.models.task_vectors import TaskVectors
from pipeline.runtime.schema import Parameters

TITLE = "Individual experts"
PAPER = "one fine-tuned model per task"


class Params(Parameters):
    """No parameters."""


def merge(vectors: TaskVectors, params: Params) -> Tensor:
    """Return coefficients [T, T, G]: the model of task t has lambda_t = 1 and zeros elsewhere."""
    return torch.eye(vectors.tasks, dtype=torch.float64)[:, :, None].repeat(1, 1, len(vectors))
