"""Multi-teacher distillation: lambda minimises sum_t KL(expert_t || merged), without sharpness-aware minimisation.

This is what the released SAMerging code effectively computes: it never merges again between the two passes of SAM, so
the second gradient equals the first.
"""

from pydantic import Field

from pipeline.calibration.descent import descend
from pipeline.calibration.objectives import distillation
from pipeline.calibration.problem import Problem
from pipeline.merges.solution import Solution
from pipeline.runtime.schema import Parameters, Schedule

TITLE = "Distillation"
PAPER = "arXiv 2512.21288 without SAM, as its released code computes"


class Params(Parameters):
    """temperature: of the softmax; initial_coefficient: lambda at the start; weight_decay: Adam's L2 on lambda."""

    temperature: float = Field(2.0, gt=0)
    initial_coefficient: float = Field(0.0, ge=-2, le=2)
    weight_decay: float = Field(5e-4, ge=0)


def calibrate(problem: Problem, schedule: Schedule, seed: int, params: Params) -> Solution:
    """Minimise the distillation loss summed over tasks; the coefficients are [T, G]."""
    settings = params.model_dump(exclude={"temperature"})
    return descend(problem, distillation(params.temperature), schedule, seed, **settings)
