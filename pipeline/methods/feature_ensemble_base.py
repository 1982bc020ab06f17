"""Feature ensemble with theta_0: the mean of the features of the pre-trained model and all experts. A reference.

As `feature_ensemble`, with the pre-trained model as one more encoder. The authors' code of M-Loss (arXiv 2602.08564)
measures with it layer by layer and leaves it out of the whole-model ensemble; its table does not say which of the two
it shows.
"""

import torch

from pipeline.merges.serving.ensemble import list_experts
from pipeline.merges.solution import Extras, Solution
from pipeline.models.task_vectors import TaskVectors
from pipeline.runtime.schema import Parameters

TITLE = "Feature ensemble, with base"
PAPER = "the ensemble of Wang et al., 2026, arXiv 2602.08564"


class Params(Parameters):
    """No parameters."""


def merge(vectors: TaskVectors, params: Params) -> Solution:
    """Return theta_0 (coefficients [T, G], all zero) with the experts as extras "ensemble"."""
    coefficients = torch.zeros(vectors.tasks, len(vectors), dtype=torch.float64)
    return Solution(coefficients, extras=Extras("ensemble", list_experts(vectors, range(vectors.tasks), "features")))
