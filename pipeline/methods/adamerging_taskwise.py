"""AdaMerging, task-wise: one lambda per task, which minimises the entropy of the merged model's predictions.

    theta = theta_0 + sum_t lambda_t tau_t                                                            (arXiv 2310.02575)

Starts at 0.3, Adam, no weight decay. The authors' code clamps lambda to [0, 1] inside the forward pass, where a
coefficient outside the interval no longer gets a gradient; `clamp` projects after every step instead.
"""

from pydantic import Field

from pipeline.calibration.descent import descend
from pipeline.calibration.objectives import entropy
from pipeline.calibration.problem import Problem
from pipeline.merges.solution import Solution
from pipeline.runtime.schema import Parameters, Schedule

TITLE = "AdaMerging (task-wise)"
PAPER = "Yang et al., 2024, arXiv 2310.02575"


class Params(Parameters):
    """initial_coefficient: lambda at the start; weight_decay: Adam's L2 on lambda; clamp: keep lambda in [0, 1]."""

    initial_coefficient: float = Field(0.3, ge=-2, le=2)
    weight_decay: float = Field(0.0, ge=0)
    clamp: bool = False


def calibrate(problem: Problem, schedule: Schedule, seed: int, params: Params) -> Solution:
    """Minimise the entropy summed over tasks; the coefficients [T, G] are constant along G."""
    return descend(problem, entropy, schedule, seed, granularity="task", **params.model_dump())
