"""RegMean: every matrix is the least-squares fit to what the experts' matrices do to their own inputs.

    W = (sum_t W_t G_t) (sum_t G_t)^-1,    G_t = E[x x^T] where W_t stands in expert t, over all tokens of its examples

arXiv 2212.09849, with the off-diagonal entries of each G_t times `off_diagonal`. Tensors that are not matrices of a
block are averaged, positional_embedding included. q, k and v are separate matrices; as they share their input, the
fused matrix would give the same result. The system is solved by Cholesky, with a ridge in each G_t, and not by an
inverse.
"""

from pydantic import Field

from pipeline.calibration.problem import Footprint, Problem
from pipeline.merges.solution import Solution
from pipeline.models.encoder import block_name
from pipeline.runtime.schema import Parameters, Schedule
from pipeline.toolbox.activations import apply_block, embed_examples, expert_weights
from pipeline.toolbox.regression import regress_block

TITLE = "RegMean"
PAPER = "Jin et al., 2023, arXiv 2212.09849"
FOOTPRINT = Footprint(models=3, block_vectors=1, block_models=20, tokens=2)


class Params(Parameters):
    """samples: examples per task; off_diagonal: factor of G_t's off-diagonal entries, 0.95 for CLIP (FusionBench), in
    the paper, as others cite it, 0.9 and 0.1 for T5; ridge: added to the diagonal of G_t, as a share of its mean."""

    samples: int = Field(256, ge=1)
    off_diagonal: float = Field(0.95, ge=0, le=1)
    ridge: float = Field(1e-6, ge=0, le=1)


def calibrate(problem: Problem, schedule: Schedule, seed: int, params: Params) -> Solution:
    """Merge a block at a time, with one pass of every expert over its own examples."""
    encoder, settings = problem.encoder, params.model_dump(exclude={"samples"})
    delta = {name: stacked.mean(0) for name, stacked in problem.vectors.items()}
    passes = []
    for task, pool in enumerate(problem.examples):
        whole = expert_weights(problem.base, problem.vectors, task)
        sample = pool[: params.samples]
        passes.append(embed_examples(encoder, whole, sample, problem.examples_per_pass, problem.precision))
    for index in range(encoder.depth):
        experts = [
            expert_weights(problem.base, problem.vectors, task, block_name(index)) for task in range(len(passes))
        ]
        delta |= regress_block(
            encoder, problem.vectors, experts, index, passes, precision=problem.precision, **settings
        )
        for task, weights in enumerate(experts):
            passes[task] = apply_block(encoder, weights, index, passes[task], problem.precision)
    return Solution(delta=delta)
