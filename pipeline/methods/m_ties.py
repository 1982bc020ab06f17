"""M-TIES: TIES that keeps less of those units whose merge departs from the ensemble.

    keep_j = keep - reach * rank(M_j) / (n - 1)    for row j of n of an MLP's first matrix (c_fc)

arXiv 2602.08564. M_j is the node-level M-Loss of unit j; rank 0 is the smallest. Rows of c_fc keep their share of
largest |tau_t|; every other tensor keeps `keep` of its entries. Shares are rounded down to whole entries, as in the
authors' code. Each entry is then the mean over the tasks that have the sign of the sum, or zero where the sum is zero.
q, k and v are trimmed separately; the authors' code trims them as one.

The input x in M_j comes from the blocks merged so far and the merged attention of the block itself, as in the paper's
text; the authors' code takes it from the pre-trained model, without CLIP's normalisation of pixels and from more images
than the text's 128 in total (16 for each of 8 tasks). M_j uses the model's activation, as the paper defines it; the
authors' code uses the tanh approximation of GELU for every model. Equal M_j have equal ranks; entries tied at a
threshold are all kept.
"""

from collections.abc import Callable

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import linear

from pipeline.calibration.problem import Footprint, Problem
from pipeline.merges.solution import Solution
from pipeline.models.encoder import Hidden, block_name
from pipeline.models.task_vectors import add_delta
from pipeline.runtime.schema import Parameters, Schedule, autocast
from pipeline.toolbox.activations import apply_block, embed_examples
from pipeline.toolbox.mloss import node_mloss

TITLE = "M-TIES"
PAPER = "Wang et al., 2026, arXiv 2602.08564"
FOOTPRINT = Footprint(models=4, block_vectors=2, tensor_vectors=3, tokens=2)


class Params(Parameters):
    """keep: share of entries kept per tensor and task; reach: how much lower it is in the row with the highest M-Loss;
    scale: of the merged vector; samples: examples per task."""

    keep: float = Field(0.8, gt=0, le=1)
    reach: float = Field(0.1, ge=0, le=1)
    scale: float = Field(1.0, ge=0, le=2)
    samples: int = Field(16, ge=1)


def calibrate(problem: Problem, schedule: Schedule, seed: int, params: Params) -> Solution:
    """Merge a block at a time, while the examples of all tasks go through the blocks merged so far."""
    return merge_blocks(problem, params, lambda _, losses: losses)


@torch.no_grad()
def merge_blocks(problem: Problem, params: Params, score: Callable[[int, Tensor], Tensor]) -> Solution:
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
