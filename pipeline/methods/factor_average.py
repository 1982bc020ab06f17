"""Factor average: the low-rank factors of the experts averaged apart, which is not the average of the experts.

    tau_t = A_t B_t,    theta = theta_0 + scale * (1/T sum_t A_t) (1/T sum_t B_t)

This is how LoRA adapters are combined when only their factors are merged, and the baseline that methods for low-rank
experts are often compared with. It is listed as a warning. The product of two means mixes every A_t with every B_s, and
it depends on how each expert happens to be factorised: A_t R and R^-1 B_t are the same expert and give another merge.
Here factors are balanced (`toolbox.factors`), of the leading `rank` singular triplets. The mean of the products is
`average`. Everything that is not a matrix of a block gets scale times the mean task vector.
"""

from pydantic import Field
from torch import Tensor

from pipeline.models.task_vectors import TaskVectors
from pipeline.models.weights import Weights
from pipeline.runtime.schema import Parameters
from pipeline.runtime.threads import map_tensors
from pipeline.toolbox.factors import balance_factors
from pipeline.toolbox.spectra import is_matrix

TITLE = "Factor average"
PAPER = "Huang et al., 2023, arXiv 2307.13269, with equal weights"
UNVERIFIED = "from general knowledge of LoraHub, whose text and code were not read; its weights are searched, not equal"


class Params(Parameters):
    """rank: of the factors; scale: of the whole merged vector."""

    rank: int = Field(16, ge=1)
    scale: float = Field(1.0, ge=0, le=4)


def merge(vectors: TaskVectors, params: Params) -> Weights:
    """Return the merged delta {name: tensor}."""

    def merge_tensor(name: str) -> Tensor:
        stacked = vectors[name]
        if not is_matrix(name):
            return params.scale * stacked.mean(0)
        return params.scale * average_apart(*balance_factors(stacked, params.rank))

    return map_tensors(merge_tensor, vectors)


def average_apart(left: Tensor, right: Tensor) -> Tensor:
    """Return the product [m, n] of the mean of `left` [T, m, r] and the mean of `right` [T, r, n]."""
    return left.mean(0) @ right.mean(0)
