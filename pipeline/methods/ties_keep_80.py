"""TIES with M-TIES's share of entries: `keep` is 0.8 instead of 0.2, all else is `ties`.

The published comparison of M-TIES (arXiv 2602.08564) has M-TIES at 0.8 and TIES at 0.2. `ties` and this differ in
`keep` alone: trimming is over the whole model, entries are summed and the scale is 0.3, as in `ties`. M-TIES trims each
tensor and takes the mean with scale 1; `aggregate` and `scale` select that here too.
"""

from pydantic import Field

from pipeline.models.task_vectors import TaskVectors
from pipeline.models.weights import Weights
from pipeline.runtime.schema import Parameters
from pipeline.toolbox.trimming import Aggregate, merge_trimmed

TITLE = "TIES (keep 0.8)"
PAPER = "Yadav et al., 2023, arXiv 2306.01708, at the keep of M-TIES"


class Params(Parameters):
    """keep, scale, aggregate: as in ties."""

    keep: float = Field(0.8, gt=0, le=1)
    scale: float = Field(0.3, ge=0, le=2)
    aggregate: Aggregate = "sum"


def merge(vectors: TaskVectors, params: Params) -> Weights:
    """Return the merged delta {name: tensor}, as `ties` does."""
    return merge_trimmed(vectors, params.keep, params.scale, params.aggregate)
