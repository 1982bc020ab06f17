"""M-TIES with TIES's share of entries: `keep` is 0.2 instead of 0.8, all else is `m_ties` (arXiv 2602.08564).

The published comparison has M-TIES at 0.8 and TIES at 0.2. `m_ties` and this differ in `keep` alone, as do
`ties_keep_80` and `ties`; what the scores themselves add is in the contrast of `m_ties` with `m_ties_random`.
"""

from pydantic import Field

from pipeline.calibration.problem import Footprint, Problem
from pipeline.calibration.rows import RowTrimming, merge_blocks
from pipeline.merges.solution import Solution
from pipeline.runtime.schema import Schedule

TITLE = "M-TIES (keep 0.2)"
PAPER = "Wang et al., 2026, arXiv 2602.08564, at the keep of TIES"
FOOTPRINT = Footprint(models=4, block_vectors=2, tensor_vectors=3, tokens=2)


class Params(RowTrimming):
    """As in m_ties, with another `keep`."""

    keep: float = Field(0.2, gt=0, le=1)


def calibrate(problem: Problem, schedule: Schedule, seed: int, params: Params) -> Solution:
    """Merge as `m_ties` does."""
    return merge_blocks(problem, params, lambda _, losses: losses)
