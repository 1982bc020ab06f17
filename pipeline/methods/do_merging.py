"""DO-Merging: sizes and directions of the columns of a matrix, merged apart, so that large experts do not dominate.

    a_t[j] = |tau_t[:, j]|_2,    D_t = tau_t / a_t (0 for a column of zeros)
    theta = theta_0 + scale / T^2 * (sum_t a_t) * (sum_t D_t)                       (arXiv 2505.15875)

A column belongs to an input. Scale 1 is the mean size times the mean direction; identical experts then give that
expert. The sum of unrelated directions is short: expect to need a larger scale, the more the tasks are. Merged columns
are not scaled back to the length of the mean size, as some implementations do. Everything that is not a matrix gets
scale times the mean task vector.

The paper merges LoRA adapters and first makes their factors orthogonal across tasks by gradient descent. That step
needs low-rank factors and is left out: these are the other two steps on fully fine-tuned matrices.
"""

from pydantic import Field

from pipeline.models.task_vectors import TaskVectors
from pipeline.models.weights import Weights
from pipeline.toolbox.conventions import Conventions, merge_by_matrix
from pipeline.toolbox.norms import decouple_columns

TITLE = "DO-Merging (no orth.)"
PAPER = "Zheng et al., 2025, arXiv 2505.15875, without its first step"
UNVERIFIED = (
    "no released code and only descriptions by others were read: the same formula on fully fine-tuned matrices, the "
    "mean of what is no matrix, and the scale 1 / T^2"
)


class Params(Conventions):
    """scale: in multiples of 1 / T^2, the mean size times the mean direction."""

    scale: float = Field(1.0, ge=0, le=40)


def merge(vectors: TaskVectors, params: Params) -> Weights:
    """Return the merged delta {name: tensor}."""
    return merge_by_matrix(vectors, decouple_columns, params.scale, params)
