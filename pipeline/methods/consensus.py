"""Consensus task arithmetic: task arithmetic on the entries that matter to several tasks.

    tau_M = sum_t tau_t,    mask_t = |tau_t| > threshold * |tau_M - tau_t|,    C = [sum_t mask_t >= min_tasks]
    theta = theta_0 + scale * C * tau_M                                           (arXiv 2405.07813)

With min_tasks = 2, entries that no task uses ("catastrophic") or only one ("selfish") are removed. The paper picks
the threshold per task from 0.2 to 0.6 and the scale from 0.1 to 1, both on labelled validation data. We use no labels:
the threshold is FusionBench's fixed 0.6, the scale the 0.3 of task arithmetic. FusionBench's mask has
|theta_0 - tau_t|, the difference of a weight and a task vector; ours is the paper's.
"""

from pydantic import Field
from torch import Tensor

from pipeline.models.task_vectors import TaskVectors
from pipeline.models.weights import Weights
from pipeline.runtime.schema import Parameters
from pipeline.runtime.threads import map_tensors
from pipeline.toolbox.parts import apply_entrywise

TITLE = "Consensus TA"
PAPER = "Wang et al., 2024, arXiv 2405.07813"


class Params(Parameters):
    """threshold: of the masks; min_tasks: how many tasks an entry must matter to; scale: of the result."""

    threshold: float = Field(0.6, ge=0)
    min_tasks: int = Field(2, ge=0)
    scale: float = Field(0.3, ge=0, le=2)


def merge(vectors: TaskVectors, params: Params) -> Weights:
    """Return the merged delta {name: tensor}."""

    def consensus(stacked: Tensor) -> Tensor:
        total = stacked.sum(0)
        used = (stacked.abs() > params.threshold * (total - stacked).abs()).sum(0)
        return params.scale * total * (used >= params.min_tasks)

    return map_tensors(lambda name: apply_entrywise(consensus, vectors[name]), vectors)
