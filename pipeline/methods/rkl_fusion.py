"""RKL-sparse fusion: task arithmetic on the entries of largest importance by reverse KL (after arXiv 2602.11717).

    importance = |tau_t| * KL(softmax(theta_0) || softmax(theta_t))       per entry; the softmax over the last axis
    theta = theta_0 + scale * sum_t [importance >= its `drop` quantile] tau_t

The paper merges two language models: a quantile of an importance by reverse KL gives a sparse mask of what to add to
the base. The rest is our reading, see UNVERIFIED: the form of `arcee_fusion` with the divergence the other way round.
At usual sizes of weights the two directions rank entries alike, because both divergences are half the variance of
tau_t over a row up to third order. Quantiles are per tensor and task.
"""

from pydantic import Field
from torch import Tensor

from pipeline.models.task_vectors import TaskVectors
from pipeline.models.weights import Weights
from pipeline.runtime.schema import Parameters
from pipeline.toolbox.fusion import divergence_of_rows, fuse
from pipeline.toolbox.trimming import entry_of_rank

TITLE = "RKL-sparse fusion"
PAPER = "after Lin et al., 2026, arXiv 2602.11717"
UNVERIFIED = (
    "no released code and only the abstract was read: the reverse KL of rows of weights, the softmax over their last "
    "axis, the share of entries that is dropped, more than two models, and their scale"
)


class Params(Parameters):
    """drop: share of the entries of a tensor, the least important, that is dropped; scale: of all tasks."""

    drop: float = Field(0.8, ge=0, lt=1)
    scale: float = Field(0.3, ge=0, le=2)


def merge(vectors: TaskVectors, params: Params) -> Weights:
    """Return the merged delta {name: tensor}."""

    def select(base: Tensor, tau: Tensor) -> Tensor:
        importance = tau.abs() * divergence_of_rows(base, base + tau)
        return importance >= entry_of_rank(importance.flatten(), int(params.drop * importance.numel()))

    return fuse(vectors, select, params.scale)
