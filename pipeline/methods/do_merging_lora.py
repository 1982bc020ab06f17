"""DO-Merging of low-rank experts: pull their factors apart, then merge magnitudes and directions of columns apart.

1. Per matrix, tau_t = A_t B_t with balanced factors (`toolbox.factors`) of rank r. For X_t = A_t, and likewise for
   X_t = B_t^T, corrections d_t minimise

       sum_{i != j} |(X_i + d_i)^T (X_j + d_j)|_F^2 + penalty * sum_t |d_t|_F^2

   by `steps` steps of Adam from zero, with a rate of lr times the root mean square of all entries of the X_t.
2. The corrected product of every task is split, column by column, into magnitude |w| and direction w / |w| (0 / 0 = 0).
3. theta = theta_0 + scale * (mean magnitude) * (mean direction)                  (arXiv 2505.15875)

Steps 2 and 3 keep an expert with long task vectors from drowning the others. Directions that disagree cancel, so that
the merge is shorter than the experts: its scale is worth choosing. Everything that is not a matrix of a block gets
scale times the mean task vector.
"""

import torch
from pydantic import Field
from torch import Tensor

from pipeline.calibration.adam import Adam
from pipeline.models.task_vectors import TaskVectors
from pipeline.models.weights import Weights
from pipeline.runtime.schema import Parameters
from pipeline.runtime.threads import map_tensors
from pipeline.toolbox.factors import balance_factors
from pipeline.toolbox.norms import decouple_columns
from pipeline.toolbox.spectra import is_matrix

TITLE = "DO-Merging (low rank)"
PAPER = "Zheng et al., 2025, arXiv 2505.15875"
UNVERIFIED = (
    "no released code, known from reviews and another implementation: the norm and the weight of the penalty, the "
    "steps of Adam, the factorisation, and what tensors get that are no matrices"
)


class Params(Parameters):
    """rank: of the experts; penalty, lr, steps: of the corrections; scale: of the whole merged vector."""

    rank: int = Field(16, ge=1)
    penalty: float = Field(1.0, ge=0)
    lr: float = Field(0.01, gt=0)
    steps: int = Field(100, ge=0)
    scale: float = Field(1.0, ge=0, le=20)


def merge(vectors: TaskVectors, params: Params) -> Weights:
    """Return the merged delta {name: tensor}."""

    def merge_tensor(name: str) -> Tensor:
        stacked = vectors[name]
        if not is_matrix(name):
            return params.scale * stacked.mean(0)
        # Adam turns the rounding of a gradient near zero into a step: in float64, far below what is kept.
        left, right = balance_factors(stacked.double(), params.rank)
        left, right = (pull_apart(factors, params) for factors in (left, right.mT))
        return (params.scale * decouple_columns(left @ right.mT)).to(stacked.dtype)

    return map_tensors(merge_tensor, vectors)


def pull_apart(columns: Tensor, params: Params) -> Tensor:
    """Return the corrected columns of all tasks [T, m, r]: closer to orthogonal between tasks."""
    correction = torch.zeros_like(columns)
    optimiser = Adam(correction, params.lr * float(columns.square().mean().sqrt()))
    for _ in range(params.steps):
        optimiser.step(overlap_gradient(columns + correction) + 2 * params.penalty * correction)
    return columns + correction


def overlap_gradient(columns: Tensor) -> Tensor:
    """Return the gradient of sum_{i != j} |X_i^T X_j|_F^2 by the X_t [T, m, r]: 4 sum_{j != i} X_j X_j^T X_i."""
    together = columns.transpose(0, 1).flatten(1)
    shared = (together @ (together.mT @ columns)) - columns @ (columns.mT @ columns)
    return 4 * shared
