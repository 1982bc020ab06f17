"""EMR: elect one vector for all tasks, mask and rescale it for each. A model per task, from one delta and T masks.

    s = +1 where sum_t tau_t > 0, else -1,    tau_uni = s * max over {t: tau_t s > 0} of |tau_t|
    mask_t = [tau_t * tau_uni > 0],           scale_t = sum |tau_t| / sum |mask_t * tau_uni|
    theta^(t) = theta_0 + scale_t * mask_t * tau_uni                              (arXiv 2405.17461)

The sums of scale_t run over the whole model, as in the paper; the released vision code adds up the means of the tensors
instead. There are no parameters. Inference needs the task, one bit per weight and task, and T scales.
"""

import torch
from torch import Tensor

from pipeline.merges.serving.masks import pack_mask
from pipeline.merges.solution import Extras, Solution
from pipeline.models.task_vectors import TaskVectors
from pipeline.runtime.schema import Parameters
from pipeline.runtime.threads import map_tensors
from pipeline.toolbox.parts import apply_entrywise, split_entries

TITLE = "EMR-Merging"
PAPER = "Huang et al., 2024, arXiv 2405.17461"


class Params(Parameters):
    """No parameters."""


def merge(vectors: TaskVectors, params: Params) -> Solution:
    """Return tau_uni as the delta, masks and scales as extras "masks"; memory is a few tensors besides the result."""

    def unify(name: str) -> tuple[Tensor, list[Tensor], Tensor, Tensor]:
        """Return tau_uni, the packed masks, sum |tau_t| [T] and sum |mask_t * tau_uni| [T] of a tensor."""
        stacked, masks = vectors[name], []
        unified = apply_entrywise(_elect_entries, stacked)
        norms, shared = stacked.new_zeros(2, len(stacked), dtype=torch.float64)
        for part, elected in zip(split_entries(stacked), split_entries(unified[None]), strict=True):
            masks.append(part * elected.sign() > 0)
            norms = norms + part.abs().sum(1, dtype=torch.float64)
            shared = shared + (elected.abs() * masks[-1]).sum(1, dtype=torch.float64)
        return unified, [pack_mask(mask) for mask in torch.cat(masks, dim=1)], norms, shared

    tensors = map_tensors(unify, vectors)
    zero = torch.zeros(vectors.tasks, dtype=torch.float64)
    norms = sum((sums.cpu() for *_, sums, _ in tensors.values()), zero)
    shared = sum((sums.cpu() for *_, sums in tensors.values()), zero)
    scales = norms / torch.where(shared > 0, shared, 1)
    extras = {f"{task}/scale": scale.clone() for task, scale in zip(vectors.task_names, scales, strict=True)}
    for name, (_, masks, _, _) in tensors.items():
        extras |= {f"{task}/{name}": mask for task, mask in zip(vectors.task_names, masks, strict=True)}
    return Solution(delta={name: unified for name, (unified, *_) in tensors.items()}, extras=Extras("masks", extras))


def _elect_entries(stacked: Tensor) -> Tensor:
    """Return tau_uni of some entries: the largest with the elected sign."""
    sign = torch.where(stacked.sum(0) > 0, 1.0, -1.0).to(stacked.dtype)
    return sign * torch.relu(stacked * sign).amax(0)
