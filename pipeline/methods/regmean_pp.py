"""RegMean++: RegMean block by block, on inputs that come from the blocks merged so far.

    W = (sum_t W_t G_t) (sum_t G_t)^-1,    G_t = E[x x^T] where W_t stands in block l of expert t, after the merged
                                           embedding and the merged blocks 0 .. l-1

arXiv 2508.03121. Within block l each expert's own weights make the inputs of its matrices, as in the authors' code.
The embedding, the norms and the biases are averaged, and so is ln_post, which their code leaves pre-trained. q, k and v
are separate matrices; as they share their input, the fused matrix would give the same result.
"""

from pydantic import Field

from pipeline.calibration.problem import Footprint, Problem
from pipeline.merges.solution import Solution
from pipeline.models.encoder import block_name
from pipeline.models.task_vectors import add_delta
from pipeline.runtime.schema import Parameters, Schedule
from pipeline.toolbox.activations import apply_block, embed_examples, expert_weights
from pipeline.toolbox.regression import regress_block

TITLE = "RegMean++"
PAPER = "Nguyen et al., 2025, arXiv 2508.03121"
FOOTPRINT = Footprint(models=3, block_vectors=1, block_models=20, tokens=2)


class Params(Parameters):
    """samples: examples per task; off_diagonal: factor of G_t's off-diagonal entries (FusionBench's for CLIP); ridge:
    added to the diagonal of G_t, as a share of its mean."""

    samples: int = Field(256, ge=1)
    off_diagonal: float = Field(0.95, ge=0, le=1)
    ridge: float = Field(1e-6, ge=0, le=1)


def calibrate(problem: Problem, schedule: Schedule, seed: int, params: Params) -> Solution:
    """Merge a block at a time, while the examples of all tasks go through the blocks merged so far."""
    encoder, settings = problem.encoder, params.model_dump(exclude={"samples"})
    delta = {name: stacked.mean(0) for name, stacked in problem.vectors.items()}
    average = add_delta(problem.base, delta)
    passes = [
        embed_examples(encoder, average, pool[: params.samples], problem.examples_per_pass, problem.precision)
        for pool in problem.examples
    ]
    for index in range(encoder.depth):
        prefix = block_name(index)
        experts = [expert_weights(problem.base, problem.vectors, task, prefix) for task in range(len(passes))]
        delta |= regress_block(
            encoder, problem.vectors, experts, index, passes, precision=problem.precision, **settings
        )
        merged = add_delta({name: tensor for name, tensor in problem.base.items() if name.startswith(prefix)}, delta)
        for task, entering in enumerate(passes):
            passes[task] = apply_block(encoder, merged, index, entering, problem.precision)
    return Solution(delta=delta)
