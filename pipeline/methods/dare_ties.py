"""DARE with TIES: entries dropped at random and rescaled (arXiv 2311.03099), the rest merged by TIES (2306.01708).

    tau'_t = m_t * tau_t / (1 - drop),    theta = theta_0 + scale * TIES(tau'_1, ..., tau'_T)

Trimming keeps the `keep` share of all entries, including dropped ones, as in FusionBench. The masks of a seed are
those of `dare`. Defaults are those with which FusionBench runs it on CLIP; the scale is 0.5,
while that of its TIES is 0.3.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from pipeline.models.task_vectors import TaskVectors
from pipeline.models.weights import Weights
from pipeline.runtime.schema import DISTINCT, Parameters
from pipeline.statistics.sampling import generator
from pipeline.toolbox.dropping import drop_entries
from pipeline.toolbox.trimming import Aggregate, merge_agreeing, trim_thresholds

TITLE = "DARE-TIES"
PAPER = "Yu et al., 2024, arXiv 2311.03099, with TIES"


class Params(Parameters):
    """drop: probability of dropping an entry; keep, scale, aggregate: as in ties; seeds: one merge for each."""

    drop: float = Field(0.5, ge=0, lt=1)
    keep: float = Field(0.2, gt=0, le=1)
    scale: float = Field(0.5, ge=0, le=2)
    aggregate: Aggregate = "sum"
    seeds: Annotated[list[int], DISTINCT] = Field([0, 1, 2], min_length=1)


def merge(vectors: TaskVectors, params: Params, seed: int) -> Weights:
    """Return the merged delta {name: tensor} for one seed; memory is a few models for any T."""

    def read(name: str) -> Tensor:
        stacked = enumerate(vectors[name])
        return torch.stack(
            [drop_entries(tau, params.drop, generator(seed, "drop", task, name)) for task, tau in stacked]
        )

    thresholds = trim_thresholds(read, vectors, params.keep)
    merged = merge_agreeing(read, vectors, thresholds, params.aggregate)
    return {name: params.scale * tensor for name, tensor in merged.items()}
