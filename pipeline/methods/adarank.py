"""AdaRank: coefficients and, per task and matrix, which singular components are merged; entropy decides.

    theta = theta_0 + sum_t lambda_t * U_t diag(S_t * mask_t) V_t^T,    U_t diag(S_t) V_t^T = tau_t  (arXiv 2503.22178)
    mask_t = 1 where m_t > 0,    with the gradient of sigmoid(m_t / 10)                              (straight-through)

for the six matrices of every block, q, k and v apart; every other tensor has a lambda and no mask. lambda and m learn
together by Adam, without weight decay or bounds, to minimise the entropy of the merged model's predictions. This is the
authors' task-arithmetic mode: theta_0 is the origin, lambda starts at 0.3 and all components are on, m = 0.1.

The authors take 10,000 steps of Adam with lr 1e-3, on batches of 16 test examples per task. Here examples are held out,
and lr, steps and batch size are the suite's, the same for every calibrated method. A step moves m by about lr: a
component goes off after 0.1 / lr steps at the earliest.
"""

from pydantic import Field

from pipeline.calibration.masks import learn_masks
from pipeline.calibration.objectives import entropy
from pipeline.calibration.problem import Footprint, Problem
from pipeline.merges.solution import Solution
from pipeline.runtime.schema import Parameters, Schedule

TITLE = "AdaRank"
PAPER = "Lee et al., 2026, arXiv 2503.22178"
FOOTPRINT = Footprint(blocks_vectors=2)


class Params(Parameters):
    """initial_coefficient: lambda at the start."""

    initial_coefficient: float = Field(0.3, ge=-2, le=2)


def calibrate(problem: Problem, schedule: Schedule, seed: int, params: Params) -> Solution:
    """Minimise the entropy summed over tasks; the result is a merged delta."""
    solution, summary = learn_masks(problem, entropy, schedule, seed, params.initial_coefficient)
    print(f"adarank: seed {seed}: {summary}")
    return solution
