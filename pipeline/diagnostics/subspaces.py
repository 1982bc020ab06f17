"""Alignment and interference of the singular subspaces of the task vectors' matrices.

Subspace alignment ratio (arXiv 2502.04959), per task and matrix, with Q the left singular vectors of sum_t tau_t that
hold 95 % of its Frobenius norm; it does not depend on the scale of the merge:

    SAR_t = |Q Q' tau_t|_F / |tau_t|_F

Q has the fewest vectors that hold this share; the authors' code stops one vector earlier, below it.

Singular task interference (arXiv 2412.00081), with U, S, V the concatenated leading singular triplets of all tasks:

    STI = |(U'U - 1) S (V'V - 1)|_1

A task's share of it is half the sum of its rows plus half the sum of its columns. As in that paper's merge, each task
has floor(min(m, n) / T) triplets, T being the number of tasks of the whole suite.

A matrix is a weight of attention (q, k and v are three matrices) or of an MLP; values are means over matrices.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from pipeline.models.suite import SuiteFolder
from pipeline.runtime.device import device
from pipeline.toolbox.spectra import svd

ENERGY = 0.95
"""Share of the merged matrix's Frobenius norm that the subspace of SAR holds."""


def select_matrices(names: Iterable[str]) -> list[str]:
    """Select the tensors that are matrices of attention or of an MLP."""
    return [name for name in names if re.search(r"\.(attn\.(q|k|v|out_proj)|mlp\.(c_fc|c_proj))\.weight$", name)]


def subspace_alignment(stacked: Tensor) -> Tensor:
    """SAR of every task [T], from the task vectors' matrices [T, m, n]; 0 for a task vector that is zero."""
    left, values, _ = svd(stacked.sum(0))
    held = (values.square().cumsum(0) / values.square().sum()).sqrt()
    basis = left[:, : int((held < ENERGY).sum()) + 1]
    lengths = stacked.flatten(1).norm(dim=1)
    return (basis.T @ stacked).flatten(1).norm(dim=1) / lengths.clamp(min=torch.finfo(lengths.dtype).tiny)


def task_triplets(stacked: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the `rank` leading singular triplets of every matrix of [T, m, n]: [T, m, r], [T, r], [T, n, r]."""
    left, values, right = svd(stacked)
    return left[..., :rank], values[:, :rank], right[:, :rank].mT


def task_interference(left: Tensor, values: Tensor, right: Tensor) -> Tensor:
    """STI by pairs of tasks [T, T], from the result of `task_triplets`; the sum of all entries is STI."""
    tasks, rank = values.shape
    crossed = [side.permute(1, 0, 2).flatten(1) for side in (left, right)]
    one, other = (side.T @ side - torch.eye(tasks * rank, dtype=side.dtype, device=side.device) for side in crossed)
    return ((one * values.flatten()) @ other).abs().view(tasks, rank, tasks, rank).sum((1, 3))


def measure_subspaces(folder: Path, name: str, subsets: Sequence[tuple[int, ...]]) -> tuple[Tensor, Tensor]:
    """Measure SAR and the shares of STI at one matrix for subsets of the tasks.

    Both are [subsets, T], with NaN for tasks outside the subset.
    """
    suite, target = SuiteFolder(folder), device()
    stacked = suite.vectors()[name].to(target)
    tasks = len(stacked)
    parts = task_triplets(stacked, max(1, min(stacked.shape[1:]) // tasks))
    aligned, shares = (torch.full((len(subsets), tasks), torch.nan, dtype=stacked.dtype) for _ in range(2))
    for row, subset in enumerate(subsets):
        members = [*subset]
        crossed = task_interference(*(part[members] for part in parts)).cpu()
        aligned[row, members] = subspace_alignment(stacked[members]).cpu()
        shares[row, members] = (crossed.sum(0) + crossed.sum(1)) / 2
    return aligned, shares
