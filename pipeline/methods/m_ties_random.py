"""M-TIES with its scores permuted, a control: the same shares of entries, given to random rows.

    keep_j = keep - reach * rank(M_p(j)) / (n - 1)    for a random permutation p of the n rows of each block's c_fc

M-Loss is computed as in `m_ties` (arXiv 2602.08564), so that the shares of a block are the same up to what its earlier
blocks change; only which row gets which is random. If M-TIES is no better, its ranking adds nothing. The authors' logs
have such a control too. `seeds` are this method's, since few permutations say little; a seed draws the permutations
and, as everywhere, the examples.
"""

from functools import partial
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from pipeline.calibration.problem import Footprint, Problem
from pipeline.calibration.rows import RowTrimming, merge_blocks
from pipeline.merges.solution import Solution
from pipeline.runtime.schema import DISTINCT, Schedule
from pipeline.statistics.sampling import generator

TITLE = "M-TIES (random scores)"
PAPER = "Wang et al., 2026, arXiv 2602.08564, with permuted scores"
FOOTPRINT = Footprint(models=4, block_vectors=2, tensor_vectors=3, tokens=2)


class Params(RowTrimming):
    """As in m_ties; seeds: one merge for each."""

    seeds: Annotated[list[int], DISTINCT] = Field([0, 1, 2, 3, 4], min_length=1)


def calibrate(problem: Problem, schedule: Schedule, seed: int, params: Params) -> Solution:
    """Merge as `m_ties` does, with the scores of every block permuted."""
    return merge_blocks(problem, params, partial(permute_scores, seed))


def permute_scores(seed: int, index: int, losses: Tensor) -> Tensor:
    """Permute the scores [n] of block `index`."""
    order = torch.randperm(len(losses), generator=generator(seed, "scores", index))
    return losses[order.to(losses.device)]
