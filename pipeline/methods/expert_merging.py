"""Expert Merging: bounded coefficients that follow the experts' logits and hidden states on few examples.

    theta = theta_0 + sum_t alpha_t tau_t per tensor, alpha = sigmoid(a) in (0, 1)                   (arXiv 2509.25712)
    L_t = temperature^2 * KL(softmax(z_t / temperature) || softmax(z / temperature))
          + hidden * mean over blocks of |h_t - h|^2 + anchor * mean |alpha - alpha at the start|

on the examples of task t, with logits z and what leaves each block, h, of the merged model, z_t and h_t of expert t.
The mean of squares is over all tokens but padding and over features. Adam descends on the mean of L_t over the tasks in
a; that gradient is cut to the norm `clip`, as in the authors' code. Adam undoes a factor that all steps share, so
clipping only weakens steps that stand out.

The authors merge generative models: their KL is per token, they choose layers for h, and take Adam with lr 1e-4, one
example at a time with 8 accumulated, for 3 epochs over 5 to 10 examples per task. Here logits are those of a head, h is
of every block, and lr, steps and batch size are the suite's. The experts' hidden states are computed when they are
needed and not kept.
"""

from pydantic import Field

from pipeline.calibration.alignment import Alignment, align
from pipeline.calibration.problem import Footprint, Problem
from pipeline.merges.solution import Solution
from pipeline.runtime.schema import Schedule

TITLE = "Expert Merging"
PAPER = "Zhang et al., 2026, arXiv 2509.25712"
FOOTPRINT = Footprint(models=5)


class Params(Alignment):
    """temperature: of the softmax; hidden, anchor: weights of the terms; initial_coefficient: alpha at the start; clip:
    largest norm of a gradient."""

    hidden: float = Field(0.1, ge=0)


def calibrate(problem: Problem, schedule: Schedule, seed: int, params: Params) -> Solution:
    """Minimise the mean of L_t over the tasks; the coefficients are [T, G], `losses` are that mean."""
    return align(problem, schedule, seed, params, params.hidden)
