"""AdaMerging, layer-wise: lambda minimises the entropy of the merged model's predictions.

arXiv 2310.02575, eq. 7 and 8. Starts at 0.3, Adam, no weight decay; the original code clamps lambda to [0, 1],
FusionBench's does not; `clamp` selects. The original takes 500 steps on two batches of 16 per task; here steps and
batch size are the suite's, the same for every calibrated method.
"""

from pydantic import Field

from pipeline.calibration.descent import descend
from pipeline.calibration.objectives import entropy
from pipeline.calibration.problem import Problem
from pipeline.merges.solution import Solution
from pipeline.runtime.schema import Parameters, Schedule

TITLE = "AdaMerging"
PAPER = "Yang et al., 2024, arXiv 2310.02575"


class Params(Parameters):
    """initial_coefficient: lambda at the start; weight_decay: Adam's L2 on lambda; clamp: keep lambda in [0, 1]."""

    initial_coefficient: float = Field(0.3, ge=-2, le=2)
    weight_decay: float = Field(0.0, ge=0)
    clamp: bool = False


def calibrate(problem: Problem, schedule: Schedule, seed: int, params: Params) -> Solution:
    """Minimise the entropy summed over tasks; the coefficients are [T, G]."""
    return descend(problem, entropy, schedule, seed, **params.model_dump())
