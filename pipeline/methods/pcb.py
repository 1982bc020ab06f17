"""PCB: parameters compete within a task and between tasks; the weight of an entry is its balanced score.

    a_t = |tau_t| cut at its quantiles `clip` and 1 - clip,    n_t = (a_t - min a_t) / (max a_t - min a_t)
    score_t = exp(T n_t^2) * tanh(tau_t * sum_j sign(tau_j) n_j)
    w_t = score_t below its top `keep` share cut off, then scaled to [0, 1]
    theta = theta_0 + scale * sum_t w_t sign(tau_t) a_t / sum_t w_t

All quantiles and extremes are per task and over the whole model; of P magnitudes in ascending order, counted from 0,
the cuts are those of rank floor(clip P) and floor((1 - clip) P - 1). The released code runs this on CLIP
(vision_source_code/pcb.py); the paper (arXiv 2410.02396) writes softmaxes where the code has exp and tanh. The
repository's other listing, pcb-merging.py, cuts at 1e-4 instead of 0.01 and has sum_j tau_j in tanh. Its optional
search for one scale per task uses validation labels and is left out; 1.2 is the scale without it.
"""

from functools import partial

import torch
from pydantic import Field
from torch import Tensor

from pipeline.models.task_vectors import TaskVectors
from pipeline.models.weights import Weights
from pipeline.runtime.schema import Parameters
from pipeline.runtime.threads import map_tensors
from pipeline.toolbox.parts import apply_entrywise
from pipeline.toolbox.trimming import align_tasks, entry_of_rank, flatten, lowest_of_top

TITLE = "PCB-Merging"
PAPER = "Du et al., 2024, arXiv 2410.02396, as its released code computes"


class Params(Parameters):
    """keep: share of entries per task with a weight; clip: share cut at both ends of |tau|; scale: of the result."""

    keep: float = Field(0.05, gt=0, le=1)
    clip: float = Field(0.01, gt=0, lt=0.5)
    scale: float = Field(1.2, ge=0, le=2)


def merge(vectors: TaskVectors, params: Params) -> Weights:
    """Return the merged delta {name: tensor}; memory is a few models for any T."""
    tasks = range(vectors.tasks)
    sizes = torch.stack([_extent(vectors.task(t), params.clip) for t in tasks])
    pulls = map_tensors(lambda name: apply_entrywise(partial(_pull, sizes=sizes), vectors[name]), vectors)
    limits = torch.stack([_limits(vectors.task(t), pulls, sizes[t], vectors.tasks, params.keep) for t in tasks])

    def merge_entries(stacked: Tensor, pull: Tensor) -> Tensor:
        weight = _unit(_score(stacked, pull, sizes, vectors.tasks), limits)
        total = (weight * stacked.sign() * stacked.abs().clamp(*_sides(sizes, stacked))).sum(0)
        return params.scale * total / weight.sum(0).clamp(min=1e-12)

    return map_tensors(lambda name: apply_entrywise(merge_entries, vectors[name], pulls[name]), vectors)


def _extent(vector: Weights, clip: float) -> Tensor:
    """Return the magnitudes [2] at which a task's vector is cut."""
    magnitudes = flatten(vector).abs()
    ranks = int(len(magnitudes) * clip), int(len(magnitudes) * (1 - clip) - 1)
    return torch.stack([entry_of_rank(magnitudes, rank) for rank in ranks])


def _limits(vector: Weights, pulls: Weights, size: Tensor, tasks: int, keep: float) -> Tensor:
    """Return the lowest score with a weight and the highest score [2], over one task's whole vector."""

    def score(entries: Tensor, pull: Tensor) -> Tensor:
        return _score(entries, pull, size[None], tasks)[0]

    scores = flatten(map_tensors(lambda name: apply_entrywise(score, vector[name][None], pulls[name]), vector))
    return torch.stack([lowest_of_top(scores, keep), scores.max()])


def _score(stacked: Tensor, pull: Tensor, sizes: Tensor, tasks: int) -> Tensor:
    return torch.exp(tasks * _unit(stacked.abs(), sizes).square()) * torch.tanh(stacked * pull)


def _pull(stacked: Tensor, sizes: Tensor) -> Tensor:
    """Return the sum of all tasks' signed normalised magnitudes, per entry."""
    return (stacked.sign() * _unit(stacked.abs(), sizes)).sum(0)


def _unit(stacked: Tensor, limits: Tensor) -> Tensor:
    """Cut `stacked` [T, *shape] at its task's limits [T, 2] and scale it to [0, 1]; 0 where the limits are equal."""
    low, high = _sides(limits, stacked)
    return (stacked.clamp(low, high) - low) / torch.where(high > low, high - low, 1)


def _sides(limits: Tensor, stacked: Tensor) -> list[Tensor]:
    return [align_tasks(side, stacked) for side in limits.T]
