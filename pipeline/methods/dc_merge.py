"""DC-Merge: in a basis that covers all tasks, keep the few largest entries of every task and merge those that agree.

Per matrix, with r = floor(min(m, n) / T) singular triplets kept of every tau_t, U = [U_1 ... U_T] and V likewise:

    P, Q = polar(U), polar(V),    M_t = P^T (U_t S_t V_t^T) Q, of which the `keep` share of largest entries is kept
    M = mean of the M_t that have the sign of sum_t M_t, entry by entry, zero outside the T diagonal blocks [r, r]
    theta = theta_0 + scale * P M Q^T                                              (arXiv 2603.06242)

As the released code for fully fine-tuned models, whose keep is 0.001: at least one entry, and ties at the threshold are
kept. An entry where the sum is zero is zero. Everything that is not a matrix gets scale times the mean task vector. The
released code decomposes every 2-D tensor of open_clip, q, k and v as one and the positional embedding included, and
picks the scale in evaluation; we keep 1. Where T does not divide min(m, n) it also completes the basis with arbitrary
directions; here there are none (`thin_svd`).
"""

import torch
from pydantic import Field
from torch import Tensor

from pipeline.models.task_vectors import TaskVectors
from pipeline.models.weights import Weights
from pipeline.runtime.errors import BenchmarkError
from pipeline.toolbox.conventions import Conventions, merge_by_matrix
from pipeline.toolbox.spectra import leading_triplets, polar_factor
from pipeline.toolbox.trimming import elect_signs, entry_of_rank, trim

TITLE = "DC-Merge"
PAPER = "CVPR 2026, arXiv 2603.06242"


class Params(Conventions):
    """keep: share of entries kept of every task in the common basis; scale: of the whole merged vector."""

    keep: float = Field(0.001, gt=0, le=1)
    scale: float = Field(1.0, ge=0, le=4)


def merge(vectors: TaskVectors, params: Params) -> Weights:
    """Return the merged delta {name: tensor}; BenchmarkError if a matrix has fewer directions than there are tasks."""
    return merge_by_matrix(vectors, lambda stacked: merge_in_cover(stacked, params.keep), params.scale, params)


def merge_in_cover(stacked: Tensor, keep: float) -> Tensor:
    """Merge the task vectors [T, m, n] of a matrix in the basis that covers their leading directions: [m, n]."""
    tasks, *shape = stacked.shape
    rank = min(shape) // tasks
    if rank == 0:
        raise BenchmarkError(
            f"DC-Merge keeps min(m, n) // T singular directions of every task: none for T = {tasks} on a matrix of "
            f"shape {shape}; merge at most {min(shape)} tasks"
        )
    u, s, v = leading_triplets(stacked, rank)
    left, right = polar_factor(u), polar_factor(v)
    kept = (slice(task * rank, (task + 1) * rank) for task in range(tasks))
    cores = torch.stack([(left.mT @ u[:, part] * s[part]) @ (v[:, part].mT @ right) for part in kept])
    sizes = cores.abs().flatten(1)
    place = sizes.shape[1] - max(1, int(keep * sizes.shape[1]))
    trimmed = trim(cores, torch.stack([entry_of_rank(row, place) for row in sizes]))
    elected = elect_signs(trimmed, 0)
    agreeing = torch.relu(trimmed * elected)
    core = elected * agreeing.sum(0) / (agreeing > 0).sum(0).clamp(min=1)
    blocks = torch.block_diag(*[core.new_ones(rank, rank)] * tasks)
    return left @ (core * blocks) @ right.mT
