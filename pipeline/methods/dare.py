"""DARE with task arithmetic: theta = theta_0 + scale * sum_t m_t * tau_t / (1 - drop).

m_t is zero with probability `drop`, independently for every entry of every merged tensor and task (arXiv 2311.03099),
so that the expectation over the masks is task arithmetic. Defaults are those with which FusionBench runs it on CLIP;
the paper drops up to 0.9 to 0.99 of the entries of large language models. mergekit rescales by matching the L1 norm of
the tensor instead of dividing by 1 - drop, which is close but not equal.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from pipeline.models.task_vectors import TaskVectors
from pipeline.models.weights import Weights
from pipeline.runtime.schema import DISTINCT, Parameters
from pipeline.runtime.threads import map_tensors
from pipeline.statistics.sampling import generator
from pipeline.toolbox.dropping import drop_entries

TITLE = "DARE"
PAPER = "Yu et al., 2024, arXiv 2311.03099, with task arithmetic"


class Params(Parameters):
    """drop: probability of dropping an entry; scale: the coefficient of all tasks; seeds: one merge for each."""

    drop: float = Field(0.5, ge=0, lt=1)
    scale: float = Field(0.3, ge=0, le=2)
    seeds: Annotated[list[int], DISTINCT] = Field([0, 1, 2], min_length=1)


def merge(vectors: TaskVectors, params: Params, seed: int) -> Weights:
    """Return the merged delta {name: tensor} for one seed."""

    def merge_tensor(name: str) -> Tensor:
        stacked = vectors[name]
        dropped = (drop_entries(tau, params.drop, generator(seed, "drop", t, name)) for t, tau in enumerate(stacked))
        return params.scale * sum(dropped, torch.zeros_like(stacked[0]))

    return map_tensors(merge_tensor, vectors)
