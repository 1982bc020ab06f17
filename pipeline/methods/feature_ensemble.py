"""Feature ensemble: the mean of the features of all experts, before they get unit length. No merge, a reference.

    f(x) = normalise(mean_t f_t(x)),    logits: f(x) times the head of the task

The ensemble that M-Loss is derived from and compared with (arXiv 2602.08564). The task chooses the head alone, not the
encoder. Every example goes through T encoders. `feature_ensemble_base` has theta_0 in the mean too; `logit_ensemble`
gives every expert's features unit length first.
"""

import torch

from pipeline.merges.serving.ensemble import list_experts
from pipeline.merges.solution import Extras, Solution
from pipeline.models.task_vectors import TaskVectors
from pipeline.runtime.schema import Parameters

TITLE = "Feature ensemble"
PAPER = "the ensemble of Wang et al., 2026, arXiv 2602.08564"


class Params(Parameters):
    """No parameters."""


def merge(vectors: TaskVectors, params: Params) -> Solution:
    """Return the first expert (coefficients [T, G]) with the others as extras "ensemble"."""
    coefficients = torch.zeros(vectors.tasks, len(vectors), dtype=torch.float64)
    coefficients[0] = 1
    return Solution(coefficients, extras=Extras("ensemble", list_experts(vectors, range(1, vectors.tasks), "features")))
