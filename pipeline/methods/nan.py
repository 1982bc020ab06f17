"""NAN: the larger the norm of an expert's task vector, the smaller its coefficient (arXiv 2505.16148).

    lambda_t = scale * (1 / |tau_t|_F) / sum_j (1 / |tau_j|_F)

The norm is that of each tensor or of the whole model. Equal norms give the simple average for scale 1. An expert whose
norm is zero gets no weight and does not count in the sum. This reading is ours, see UNVERIFIED; `nan_weights` is the
alternative, with the norms of the fine-tuned weights.
"""

from pydantic import Field
from torch import Tensor

from pipeline.models.task_vectors import TaskVectors
from pipeline.runtime.schema import Parameters
from pipeline.toolbox.norms import Scope, inverse_norms

TITLE = "NAN"
PAPER = "Si et al., 2025, arXiv 2505.16148"
UNVERIFIED = (
    "no released code and only the abstract was read: whether the norm is of the task vector, as here, or of the "
    "weights, per tensor or of the model, and the scale for many models"
)


class Params(Parameters):
    """scope: one norm per tensor or model; scale: of the sum of the coefficients."""

    scope: Scope = "model"
    scale: float = Field(1.0, ge=0, le=20)


def merge(vectors: TaskVectors, params: Params) -> Tensor:
    """Return coefficients [T, G] that sum to `scale` over the tasks."""
    return params.scale * inverse_norms(vectors, vectors.__getitem__, params.scope)
