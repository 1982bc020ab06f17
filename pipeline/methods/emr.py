"""EMR: elect one vector for all tasks, mask and rescale it for each. A model per task, from one delta and T masks.

    s = +1 where sum_t tau_t > 0, else -1,    tau_uni = s * max over {t: tau_t s > 0} of |tau_t|
    mask_t = [tau_t * tau_uni > 0],           scale_t = sum |tau_t| / sum |mask_t * tau_uni|
    theta^(t) = theta_0 + scale_t * mask_t * tau_uni                              (arXiv 2405.17461)

The sums of scale_t run over the whole model, as in the paper; the released vision code adds up the means of the tensors
instead. Without parameters. It needs to know the task at inference, one bit per weight and task, and T scales.
"""

import torch

from pipeline.extras.masks import pack
from pipeline.model import Weights
from pipeline.schema import Parameters
from pipeline.solution import Extras, Solution
from pipeline.vectors import TaskVectors

TITLE = "EMR-Merging"
PAPER = "Huang et al., 2024, arXiv 2405.17461"


class Params(Parameters):
    """No parameters."""


def merge(vectors: TaskVectors, params: Params) -> Solution:
    """tau_uni as the delta, masks and scales as extras "masks"; memory is a few tensors, the result apart."""
    unified: Weights = {}
    extras: Weights = {}
    own, shared = torch.zeros(2, vectors.tasks, dtype=torch.float64)
    for name in vectors:
        stacked = vectors[name]
        sign = torch.where(stacked.sum(0) > 0, 1.0, -1.0).to(stacked.dtype)
        masks = stacked * sign > 0
        largest = (stacked.abs() * masks).amax(0)
        unified[name] = sign * largest
        own += stacked.abs().flatten(1).sum(1, dtype=torch.float64).cpu()
        shared += (largest * masks).flatten(1).sum(1, dtype=torch.float64).cpu()
        extras |= {f"{task}/{name}": pack(mask) for task, mask in zip(vectors.task_names, masks, strict=True)}
    scales = own / torch.where(shared > 0, shared, 1)
    extras |= {f"{task}/scale": scale.clone() for task, scale in zip(vectors.task_names, scales, strict=True)}
    return Solution(delta=unified, extras=Extras("masks", extras))
