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

from pipeline.calibration.problem import Footprint, Problem
from pipeline.calibration.rows import RowTrimming, merge_blocks
from pipeline.merges.solution import Solution
from pipeline.runtime.schema import Schedule

TITLE = "M-TIES"
PAPER = "Wang et al., 2026, arXiv 2602.08564"
FOOTPRINT = Footprint(models=4, block_vectors=2, tensor_vectors=3, tokens=2)


class Params(RowTrimming):
    """keep: share of entries kept per tensor and task; reach: how much lower it is in the row with the highest M-Loss;
    scale: of the merged vector; samples: examples per task."""


def calibrate(problem: Problem, schedule: Schedule, seed: int, params: Params) -> Solution:
    """Merge a block at a time, while the examples of all tasks go through the blocks merged so far."""
    return merge_blocks(problem, params, lambda _, losses: losses)
