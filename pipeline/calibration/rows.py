"""Merge task vectors by TIES with the mean, row by row, with less kept of rows with a high score (arXiv 2602.08564).

`pipeline.methods.m_ties` has the formulas.
"""

from collections.abc import Callable

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import linear

from pipeline.calibration.problem import Problem
from pipeline.merges.solution import Solution
from pipeline.models.encoder import Hidden, block_name
from pipeline.models.task_vectors import add_delta
from pipeline.runtime.schema import Parameters, autocast
from pipeline.toolbox.activations import apply_block, embed_examples
from pipeline.toolbox.mloss import node_mloss


class RowTrimming(Parameters):
    """keep: share of entries kept per tensor and task; reach: how much lower it is in the row with the highest M-Loss;
    scale: of the merged vector; samples: examples per task."""

    keep: float = Field(0.8, gt=0, le=1)
    reach: float = Field(0.1, ge=0, le=1)
    scale: float = Field(1.0, ge=0, le=2)
    samples: int = Field(16, ge=1)


@torch.no_grad()
def merge_blocks(problem: Problem, params: RowTrimming, score: Callable[[int, Tensor], Tensor]) -> Solution:
    """Merge a block at a time; `score` maps the index of a block and its M_j [n] to what its rows are ranked by [n]."""
    encoder, uniform = problem.encoder, torch.tensor([params.keep], dtype=torch.float64)
    delta = {name: params.scale * merge_rows(stacked, uniform) for name, stacked in problem.vectors.items()}
    merged = add_delta(problem.base, delta)
    examples = torch.cat([pool[: params.samples] for pool in problem.examples])
    passes = embed_examples(encoder, merged, examples, problem.examples_per_pass, problem.precision)
    for index in range(encoder.depth):
        name = f"{block_name(index)}mlp.c_fc.weight"
        ranks = _ranks(score(index, _losses(problem, merged, index, passes)))
        keep = (params.keep - params.reach * ranks).clamp(min=0)
        delta[name] = params.scale * merge_rows(problem.vectors[name], keep)
        merged[name] = problem.base[name] + delta[name]
        passes = apply_block(encoder, merged, index, passes, problem.precision)
    return Solution(delta=delta)


def merge_rows(stacked: Tensor, keep: Tensor) -> Tensor:
    """Merge task vectors [T, *shape] by TIES with the mean; each of len(keep) rows keeps its own share of entries."""
    rows = stacked.reshape(len(stacked), len(keep), -1)
    count = (keep.to(rows.device) * rows.shape[-1]).long()
    descending = rows.abs().sort(dim=-1, descending=True).values
    limits = descending.gather(-1, (count - 1).clamp(min=0).expand(len(rows), -1)[..., None])
    trimmed = torch.where((rows.abs() >= limits) & (count > 0)[:, None], rows, torch.zeros_like(rows))
    agreeing = (trimmed * trimmed.sum(0).sign() > 0).to(rows.dtype)
    return ((trimmed * agreeing).sum(0) / agreeing.sum(0).clamp(min=1)).view(stacked.shape[1:])


def _losses(problem: Problem, merged: dict[str, Tensor], index: int, passes: list[Hidden]) -> Tensor:
    """Return M_j [n] of a block's first MLP matrix, over all tokens but padding."""
    name = f"{block_name(index)}mlp.c_fc"
    weight, bias = (problem.base[f"{name}.{kind}"] for kind in ("weight", "bias"))
    changes = [*zip(problem.vectors[f"{name}.weight"], problem.vectors[f"{name}.bias"], strict=True)]
    total, count = torch.zeros_like(bias), sum(hidden.count() for hidden in passes)
    for hidden in passes:
        with autocast(bias.device, problem.precision):
            entering = problem.encoder.inputs(merged, index, hidden)[f"{name}.weight"].to(weight.dtype)
        outputs = (linear(entering, weight + change, bias + shift) for change, shift in changes)
        total += node_mloss(outputs, problem.encoder.activate) * len(entering) / count
    return total


def _ranks(losses: Tensor) -> Tensor:
    """Return the share of the other losses that are smaller than each, in [0, 1]; float64."""
    smaller = torch.searchsorted(losses.sort().values, losses)
    return smaller.double() / max(1, len(losses) - 1)
