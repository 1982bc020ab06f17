"""Singular subspaces of the task vectors' matrices: do tasks share what merging keeps, do they collide?

Subspace alignment ratio (arXiv 2502.04959), per task and matrix, with Q the left singular vectors of sum_t tau_t that
hold 95 % of its Frobenius norm; the scale of the merge does not matter:

    SAR_t = |Q Q' tau_t|_F / |tau_t|_F

Q has the fewest vectors that hold this share; the authors' code stops one vector earlier, below it.

Singular task interference (arXiv 2412.00081), with U, S, V the leading singular triplets of all tasks side by side:

    STI = |(U'U - 1) S (V'V - 1)|_1

A task's share of it is half of what stands in its rows and half of what stands in its columns. As in that paper's
merge each task has floor(min(m, n) / T) triplets, T being the tasks of the whole suite.

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


def matrices(names: Iterable[str]) -> list[str]:
    """The tensors that are matrices."""
    return [name for name in names if re.search(r"\.(attn\.(q|k|v|out_proj)|mlp\.(c_fc|c_proj))\.weight$", name)]


def alignment(stacked: Tensor) -> Tensor:
    """SAR of every task [T], from the task vectors' matrices [T, m, n]; 0 for a task vector that is zero."""
    left, values, _ = svd(stacked.sum(0))
    held = (values.square().cumsum(0) / values.square().sum()).sqrt()
    basis = left[:, : int((held < ENERGY).sum()) + 1]
    lengths = stacked.flatten(1).norm(dim=1)
    return (basis.T @ stacked).flatten(1).norm(dim=1) / lengths.clamp(min=torch.finfo(lengths.dtype).tiny)


def triplets(stacked: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """The `rank` leading singular triplets of every matrix of [T, m, n]: [T, m, r], [T, r], [T, n, r]."""
    left, values, right = svd(stacked)
    return left[..., :rank], values[:, :rank], right[:, :rank].mT


def interference(left: Tensor, values: Tensor, right: Tensor) -> Tensor:
    """STI split by pairs of tasks [T, T], from what `triplets` gives; its sum is STI."""
    tasks, rank = values.shape
    crossed = [side.permute(1, 0, 2).flatten(1) for side in (left, right)]
    one, other = (side.T @ side - torch.eye(tasks * rank, dtype=side.dtype, device=side.device) for side in crossed)
    return ((one * values.flatten()) @ other).abs().view(tasks, rank, tasks, rank).sum((1, 3))


def measure(folder: Path, name: str, subsets: Sequence[tuple[int, ...]]) -> tuple[Tensor, Tensor]:
    """SAR and STI's shares of one matrix, for every subset of the tasks: each [subsets, T], NaN for tasks outside."""
    suite, target = SuiteFolder(folder), device()
    stacked = suite.vectors()[name].to(target)
    tasks = len(stacked)
    parts = triplets(stacked, max(1, min(stacked.shape[1:]) // tasks))
    aligned, shares = (torch.full((len(subsets), tasks), torch.nan, dtype=stacked.dtype) for _ in range(2))
    for row, subset in enumerate(subsets):
        chosen = [*subset]
        crossed = interference(*(part[chosen] for part in parts)).cpu()
        aligned[row, chosen] = alignment(stacked[chosen]).cpu()
        shares[row, chosen] = (crossed.sum(0) + crossed.sum(1)) / 2
    return aligned, shares
