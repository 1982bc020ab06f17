"""AdaRank with distillation: coefficients and masks minimise sum_t KL(expert_t || merged) instead of the entropy.

    theta = theta_0 + sum_t lambda_t * U_t diag(S_t * mask_t) V_t^T,    U_t diag(S_t) V_t^T = tau_t  (arXiv 2503.22178)

The divergence is that of SAMerging (arXiv 2512.21288), without sharpness-aware minimisation. All else is `adarank`.
"""

from pydantic import Field

from pipeline.calibration.masks import learn_masks
from pipeline.calibration.objectives import distillation
from pipeline.calibration.problem import Footprint, Problem
from pipeline.merges.solution import Solution
from pipeline.runtime.schema import Parameters, Schedule

TITLE = "AdaRank (distillation)"
PAPER = "arXiv 2503.22178 with the objective of arXiv 2512.21288"
FOOTPRINT = Footprint(blocks_vectors=2)


class Params(Parameters):
    """temperature: of the softmax; initial_coefficient: lambda at the start."""

    temperature: float = Field(2.0, gt=0)
    initial_coefficient: float = Field(0.3, ge=-2, le=2)


def calibrate(problem: Problem, schedule: Schedule, seed: int, params: Params) -> Solution:
    """Minimise the distillation loss summed over tasks; the result is a merged delta."""
    objective = distillation(params.temperature)
    solution, summary = learn_masks(problem, objective, schedule, seed, params.initial_coefficient)
    print(f"adarank_kl: seed {seed}: {summary}")
    return solution
