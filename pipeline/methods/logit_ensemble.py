"""Logit ensemble: the mean over all experts of their logits with the head of the task. No merge, a reference.

    logits = mean_t (f_t(x) times the head),    f_t(x) of unit length

Since a head is linear, this is the mean of the experts' features, each of unit length, times the head: in
`feature_ensemble` an expert with longer features counts more. Every example goes through T encoders. On GPT-2, whose
features get no unit length, the two are the same.
"""

import torch

from pipeline.merges.serving.ensemble import list_experts
from pipeline.merges.solution import Extras, Solution
from pipeline.models.task_vectors import TaskVectors
from pipeline.runtime.schema import Parameters

TITLE = "Logit ensemble"
PAPER = "the mean of the experts' logits"


class Params(Parameters):
    """No parameters."""


def merge(vectors: TaskVectors, params: Params) -> Solution:
    """Return the first expert (coefficients [T, G]) with the others as extras "ensemble"."""
    coefficients = torch.zeros(vectors.tasks, len(vectors), dtype=torch.float64)
    coefficients[0] = 1
    return Solution(coefficients, extras=Extras("ensemble", list_experts(vectors, range(1, vectors.tasks), "logits")))
