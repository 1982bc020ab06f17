"""TIES: trim, elect signs, merge what agrees. theta = theta_0 + scale * tau_m.

1. Trim: per task keep the `keep` share of largest |tau_t| over the whole model (not per tensor); ties at the threshold
   are kept.
2. Elect: the sign of the sum of the trimmed task vectors; where it is zero, the majority of these signs over all
   parameters. If that is zero too, because as many sums are positive as negative, nothing is merged there; the authors'
   code then merges the negative entries, as it does whenever the sign is not positive.
3. Disjoint merge: over the trimmed entries that have the elected sign, their mean (the paper's) or their sum (the
   protocol of AdaMerging and FusionBench).

The RHT of arXiv 2505.21226 keeps the `keep` share of each tensor and divides it by `keep`: TIES tensor by tensor with
the mean, but for a factor that the choice of the scale absorbs. It is no method here.

Two pairs are in use without validation data: mean with scale 1 (the paper), sum with scale 0.3 (AdaMerging,
FusionBench). The default is the second, since the paper under study compares itself with those results.
"""

from pydantic import Field

from pipeline.models.task_vectors import TaskVectors
from pipeline.models.weights import Weights
from pipeline.runtime.schema import Parameters
from pipeline.toolbox.trimming import Aggregate, merge_trimmed

TITLE = "TIES"
PAPER = "Yadav et al., 2023, arXiv 2306.01708"


class Params(Parameters):
    """keep: share of entries kept per task; scale: of the merged vector; aggregate: the disjoint merge."""

    keep: float = Field(0.2, gt=0, le=1)
    scale: float = Field(0.3, ge=0, le=2)
    aggregate: Aggregate = "sum"


def merge(vectors: TaskVectors, params: Params) -> Weights:
    """Return the merged delta {name: tensor}; memory is a few models for any T."""
    return merge_trimmed(vectors, params.keep, params.scale, params.aggregate)
