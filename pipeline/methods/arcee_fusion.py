"""Arcee Fusion: task arithmetic on the entries whose change matters to the softmax of their row.

    importance = |tau_t| * KL(softmax(theta_t) || softmax(theta_0))       per entry; the softmax over the last axis
    theta = theta_0 + scale * sum_t [importance >= median + 1.5 (Q3 - Q1)] tau_t

As mergekit's arcee_fusion computes mask and threshold: per tensor, on raw weights, 1e-8 added to every probability, and
a vector is one row. It fuses exactly two models, theta_0 and one expert, with scale 1. The sum over several experts and
its scale, that of task arithmetic, are ours. mergekit takes the quartiles of tensors with more than a million entries
from a random million of them; here they are those of all entries, so that nothing is drawn. A quartile is the entry at
the place floor(q (n - 1)). Equal importances, as of an expert equal to theta_0, are all kept.
"""

from pydantic import Field
from torch import Tensor

from pipeline.models.task_vectors import TaskVectors
from pipeline.models.weights import Weights
from pipeline.runtime.schema import Parameters
from pipeline.toolbox.fusion import divergence_of_rows, fuse
from pipeline.toolbox.trimming import entry_of_rank

TITLE = "Arcee Fusion"
PAPER = "mergekit's arcee_fusion (Arcee AI), for several experts as task arithmetic"


class Params(Parameters):
    """scale: the coefficient of all tasks; mergekit, for one expert, has 1."""

    scale: float = Field(0.3, ge=0, le=2)


def merge(vectors: TaskVectors, params: Params) -> Weights:
    """Return the merged delta {name: tensor}."""
    return fuse(vectors, select_important, params.scale)


def select_important(base: Tensor, tau: Tensor) -> Tensor:
    """Return which entries of a task vector are kept, a boolean tensor of its shape."""
    importance = tau.abs() * divergence_of_rows(base + tau, base)
    values = importance.flatten()
    first, median, third = (entry_of_rank(values, quarter * (len(values) - 1) // 4) for quarter in (1, 2, 3))
    return importance >= median + 1.5 * (third - first)
