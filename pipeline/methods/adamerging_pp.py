"""AdaMerging++, layer-wise: AdaMerging on the entries of the task vectors that TIES selects.

    theta_g = theta_0,g + sum_t lambda[t, g] * S(tau_t)_g                                             (arXiv 2310.02575)

S keeps a task's `keep` share of largest entries over the whole model and, of those, the ones with the elected sign; for
equal lambda that is TIES with the disjoint sum. lambda minimises the entropy of the merged model's predictions. The
result is not linear in tau. Starts at 0.3, Adam, no weight decay. The authors' code clamps lambda to [0, 1] inside the
forward pass; `clamp` projects after every step instead.
"""

from dataclasses import replace

from pydantic import Field

from pipeline.calibration.descent import descend
from pipeline.calibration.objectives import entropy
from pipeline.calibration.problem import Footprint, Problem
from pipeline.merges.solution import Solution
from pipeline.models.task_vectors import merge_delta
from pipeline.runtime.schema import Parameters, Schedule
from pipeline.toolbox.trimming import select_entries

TITLE = "AdaMerging++"
PAPER = "Yang et al., 2024, arXiv 2310.02575"

FOOTPRINT = Footprint(vectors=2)


class Params(Parameters):
    """keep: share of entries kept per task, over the whole model; initial_coefficient: lambda at the start.

    weight_decay: Adam's L2 on lambda; clamp: keep lambda in [0, 1].
    """

    keep: float = Field(0.2, gt=0, le=1)
    initial_coefficient: float = Field(0.3, ge=-2, le=2)
    weight_decay: float = Field(0.0, ge=0)
    clamp: bool = False


def calibrate(problem: Problem, schedule: Schedule, seed: int, params: Params) -> Solution:
    """Minimise the entropy summed over tasks; the result is a merged delta."""
    problem = replace(problem, vectors=select_entries(problem.vectors, params.keep))
    settings = params.model_dump(exclude={"keep"})
    solution = descend(problem, entropy, schedule, seed, **settings)
    assert solution.coefficients is not None  # always so for `descend`
    return Solution(delta=merge_delta(problem.vectors, solution.coefficients), losses=solution.losses)
