"""NAN with the norms of the weights: the larger an expert's norm, the smaller its coefficient (arXiv 2505.16148).

    lambda_t = scale * (1 / |theta_t|_F) / sum_j (1 / |theta_j|_F)

The norm is that of each tensor or of the whole model. Experts that are close to their base have almost the same norm:
each lambda_t / scale is 1 / T up to the relative spread of the norms, in practice the simple average. This reading is
ours, see UNVERIFIED; `nan` is the alternative, with the norms of the task vectors.
"""

from pydantic import Field
from torch import Tensor

from pipeline.models.task_vectors import TaskVectors
from pipeline.runtime.schema import Parameters
from pipeline.toolbox.norms import Scope, inverse_norms

TITLE = "NAN (weights)"
PAPER = "Si et al., 2025, arXiv 2505.16148"
UNVERIFIED = (
    "no released code and only the abstract was read: whether the norm is of the fine-tuned weights, as here, or of "
    "the task vector, per tensor or of the model, and the scale for many models"
)


class Params(Parameters):
    """scope: one norm per tensor or model; scale: of the sum of the coefficients."""

    scope: Scope = "model"
    scale: float = Field(1.0, ge=0, le=20)


def merge(vectors: TaskVectors, params: Params) -> Tensor:
    """Return coefficients [T, G] that sum to `scale` over the tasks."""
    return params.scale * inverse_norms(vectors, lambda name: vectors.base(name) + vectors[name], params.scope)
