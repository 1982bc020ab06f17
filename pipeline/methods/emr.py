"""EMR: elect one vector for all tasks, mask and rescale it for each. A model per task, from one delta and T masks.

    s = +1 where sum_t tau_t > 0, else -1,    tau_uni = s * max over {t: tau_t s > 0} of |tau_t|
    mask_t = [tau_t * tau_uni > 0],           scale_t = sum |tau_t| / sum |mask_t * tau_uni|
    theta^(t) = theta_0 + scale_t * mask_t * tau_uni                              (arXiv 2405.17461)

The sums of scale_t run over the whole model, as in the paper; the released vision code adds up the means of the tensors
instead. Without parameters. It needs to know the task at inference, one bit per weight and task, and T scales.
"""

import torch
from torch import Tensor

from pipeline.merges.serving.masks import pack
from pipeline.merges.solution import Extras, Solution
from pipeline.models.task_vectors import TaskVectors
from pipeline.runtime.schema import Parameters
from pipeline.toolbox.parts import entrywise, parts
from pipeline.toolbox.spread import spread

TITLE = "EMR-Merging"
PAPER = "Huang et al., 2024, arXiv 2405.17461"


class Params(Parameters):
    """No parameters."""


def merge(vectors: TaskVectors, params: Params) -> Solution:
    """tau_uni as the delta, masks and scales as extras "masks"; memory is a few tensors, the result apart."""

    def one(name: str) -> tuple[Tensor, list[Tensor], Tensor, Tensor]:
        stacked, kept, own, shared = vectors[name], [], 0, 0
        unified = entrywise(_elected, stacked)
        for part, elected in zip(parts(stacked), parts(unified[None]), strict=True):
            kept.append(part * elected.sign() > 0)
            own = own + part.abs().sum(1, dtype=torch.float64)
            shared = shared + (elected.abs() * kept[-1]).sum(1, dtype=torch.float64)
        return unified, [pack(mask) for mask in torch.cat(kept, dim=1)], own, shared

    found = spread(one, vectors)
    own, shared = (sum(sums[which].cpu() for sums in found.values()) for which in (2, 3))
    scales = own / torch.where(shared > 0, shared, 1)
    extras = {f"{task}/scale": scale.clone() for task, scale in zip(vectors.task_names, scales, strict=True)}
    for name, (_, masks, _, _) in found.items():
        extras |= {f"{task}/{name}": mask for task, mask in zip(vectors.task_names, masks, strict=True)}
    return Solution(delta={name: unified for name, (unified, *_) in found.items()}, extras=Extras("masks", extras))


def _elected(stacked: Tensor) -> Tensor:
    """tau_uni of some entries: the largest of the elected sign."""
    sign = torch.where(stacked.sum(0) > 0, 1.0, -1.0).to(stacked.dtype)
    return sign * torch.relu(stacked * sign).amax(0)
