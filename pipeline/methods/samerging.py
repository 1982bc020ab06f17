"""SAMerging: multi-teacher distillation with sharpness-aware minimisation of the coefficients.

    min_lambda max_{|epsilon| <= rho} sum_t KL(expert_t || merged(lambda + epsilon))        (arXiv 2512.21288)

The model is merged again at lambda + epsilon before the second gradient. As this is the method under study, its
parameters are top-level keys of params.yaml. The released code perturbs adaptively (`sharpness: asam` here), in
proportion to each |lambda|, and therefore not at all at the start, lambda = 0; the objective above is that of plain
SAM, our default. Optimiser, temperature and start are those of the released configuration. Its 1,000 steps are 10
epochs over 100 fixed batches in a fixed order; ours draw new batches in every epoch.
"""

from pydantic import Field

from pipeline.calibration.descent import descend
from pipeline.calibration.objectives import distillation
from pipeline.calibration.problem import Problem
from pipeline.calibration.sharpness import Sharpness
from pipeline.merges.solution import Solution
from pipeline.runtime.schema import Parameters, Schedule

TITLE = "SAMerging"
PAPER = "arXiv 2512.21288, with the re-merge between the two passes"


class Params(Parameters):
    """rho and sharpness of SAM; temperature, initial_coefficient and weight_decay as in distillation."""

    rho: float = Field(0.07, ge=0)
    sharpness: Sharpness = "sam"
    temperature: float = Field(2.0, gt=0)
    initial_coefficient: float = Field(0.0, ge=-2, le=2)
    weight_decay: float = Field(5e-4, ge=0)


def calibrate(problem: Problem, schedule: Schedule, seed: int, params: Params) -> Solution:
    """Minimise the distillation loss summed over tasks, at the worst point within rho; coefficients [T, G]."""
    settings = params.model_dump(exclude={"temperature"})
    return descend(problem, distillation(params.temperature), schedule, seed, **settings)
