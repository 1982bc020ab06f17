"""Expert Merging without hidden states, its ablation: bounded coefficients that follow the experts' logits alone.

    L_t = temperature^2 * KL(softmax(z_t / temperature) || softmax(z / temperature))
          + anchor * mean |alpha - alpha at the start|                                               (arXiv 2509.25712)

That is `distillation` with another temperature and start, bounded coefficients, a pull to the start and clipping. All
else is `expert_merging`.
"""

from pydantic import Field

from pipeline.calibration.problem import Problem
from pipeline.merges.solution import Solution
from pipeline.methods import expert_merging
from pipeline.runtime.schema import Parameters, Schedule

TITLE = "Expert Merging (logits)"
PAPER = "Zhang et al., 2026, arXiv 2509.25712, without hidden states"
FOOTPRINT = expert_merging.FOOTPRINT


class Params(Parameters):
    """temperature, anchor, initial_coefficient, clip: as in expert_merging."""

    temperature: float = Field(3.0, gt=0)
    anchor: float = Field(0.1, ge=0)
    initial_coefficient: float = Field(0.1, gt=0, lt=1)
    clip: float = Field(1.0, gt=0)


def calibrate(problem: Problem, schedule: Schedule, seed: int, params: Params) -> Solution:
    """Minimise the mean of L_t over the tasks; the coefficients are [T, G], `losses` are that mean."""
    settings = expert_merging.Params(hidden=0.0, **params.model_dump())
    return expert_merging.calibrate(problem, schedule, seed, settings)
