"""Importance of what changed, by how much the softmax of a row of weights changes: what two methods fuse by."""

from collections.abc import Callable

import torch
from torch import Tensor

from pipeline.models.task_vectors import TaskVectors
from pipeline.models.weights import Weights
from pipeline.runtime.threads import map_tensors


def divergence_of_rows(first: Tensor, second: Tensor) -> Tensor:
    """Return KL(first || second) of the softmax over the last axis, probabilities + 1e-8: float64 [..., 1]."""
    p, q = (rows.double().softmax(-1) + 1e-8 for rows in (first, second))
    return (p * (p / q).log()).sum(-1, keepdim=True)


def fuse(vectors: TaskVectors, select: Callable[[Tensor, Tensor], Tensor], scale: float) -> Weights:
    """Return scale * sum_t of the entries of tau_t that `select(theta_0, tau_t)` keeps: {name: tensor}.

    `select` gets one tensor of one task at a time and returns True for the entries to keep.
    """

    def fuse_tensor(name: str) -> Tensor:
        base, stacked = vectors.base(name), vectors[name]
        return scale * torch.stack([tau * select(base, tau) for tau in stacked]).sum(0)

    return map_tensors(fuse_tensor, vectors)
