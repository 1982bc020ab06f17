"""Expert Merging without hidden states, its ablation: bounded coefficients that follow the experts' logits alone.

    L_t = temperature^2 * KL(softmax(z_t / temperature) || softmax(z / temperature))
          + anchor * mean |alpha - alpha at the start|                                               (arXiv 2509.25712)

That is `distillation` with another temperature and start, bounded coefficients, a pull to the start and clipping. All
else is `expert_merging`.
"""

from pipeline.calibration.alignment import Alignment, align
from pipeline.calibration.problem import Footprint, Problem
from pipeline.merges.solution import Solution
from pipeline.runtime.schema import Schedule

TITLE = "Expert Merging (logits)"
PAPER = "Zhang et al., 2026, arXiv 2509.25712, without hidden states"
FOOTPRINT = Footprint(models=5)


class Params(Alignment):
    """temperature, anchor, initial_coefficient, clip: as in expert_merging."""


def calibrate(problem: Problem, schedule: Schedule, seed: int, params: Params) -> Solution:
    """Minimise the mean of L_t over the tasks; the coefficients are [T, G], `losses` are that mean."""
    return align(problem, schedule, seed, params, hidden=0.0)
