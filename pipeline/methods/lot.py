"""LOT Merging: least squares over the experts' own inputs, by a pseudo-inverse and without shrinkage.

    Delta = (sum_t tau_t G_t) (sum_t G_t)^+    for every matrix of a block, G_t = E[x x^T] at its input in expert t
    Delta = sum_t e_t * tau_t / sum_t e_t      for the scale of every norm, e_t = E[x^2] of what it scales, per feature

arXiv 2505.23859. It is `regmean` on task vectors: where the examples reach all inputs of a matrix, both are the same
but for RegMean's shrinkage. Where they do not, the pseudo-inverse keeps theta_0, and RegMean averages. Singular values
of sum_t G_t up to `tolerance` of the largest count as zero. Biases and all other tensors are averaged. Expectations are
over all tokens but padding, so that every task counts alike.
"""

from functools import partial

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import layer_norm
from torch.overrides import TorchFunctionMode

from pipeline.calibration.problem import Footprint, Problem
from pipeline.merges.solution import Solution
from pipeline.models.encoder import block_name
from pipeline.models.examples import cut_padding
from pipeline.models.weights import Weights
from pipeline.runtime.schema import Parameters, Schedule, autocast
from pipeline.toolbox.activations import apply_block, embed_examples, expert_weights
from pipeline.toolbox.regression import regress_block, solve_pseudo_inverse

TITLE = "LOT Merging"
PAPER = "Sun et al., 2025, arXiv 2505.23859"
UNVERIFIED = (
    "no code could be read and the paper only through others: that the scales of norms are weighted per feature by "
    "mean squares, what is averaged, the tolerance of the pseudo-inverse, and the number of examples"
)
FOOTPRINT = Footprint(models=3, block_vectors=1, block_models=20, tokens=2)


class Params(Parameters):
    """samples: examples per task; tolerance: of the pseudo-inverse, relative to the largest singular value."""

    samples: int = Field(64, ge=1)
    tolerance: float = Field(1e-6, gt=0, lt=1)


def calibrate(problem: Problem, schedule: Schedule, seed: int, params: Params) -> Solution:
    """Merge a block at a time, with one pass of every expert over its own examples, and one before it for the norms."""
    encoder, solve = problem.encoder, partial(solve_pseudo_inverse, tolerance=params.tolerance)
    samples = [pool[: params.samples] for pool in problem.examples]
    energies = [norm_energies(problem, task, sample) for task, sample in enumerate(samples)]
    delta = {name: stacked.mean(0) for name, stacked in problem.vectors.items()}
    for name in problem.vectors.keys() & energies[0].keys():
        weights = torch.stack([energy[name] for energy in energies])
        delta[name] = (weights * problem.vectors[name]).sum(0) / weights.sum(0)
    passes = []
    for task, sample in enumerate(samples):
        whole = expert_weights(problem.base, problem.vectors, task)
        passes.append(embed_examples(encoder, whole, sample, problem.examples_per_pass, problem.precision))
    for index in range(encoder.depth):
        experts = [
            expert_weights(problem.base, problem.vectors, task, block_name(index)) for task in range(len(passes))
        ]
        delta |= regress_block(
            encoder, problem.vectors, experts, index, passes,
            off_diagonal=1.0, ridge=0.0, precision=problem.precision, solve=solve,
        )  # fmt: skip
        for task, weights in enumerate(experts):
            passes[task] = apply_block(encoder, weights, index, passes[task], problem.precision)
    return Solution(delta=delta)


@torch.no_grad()
def norm_energies(problem: Problem, task: int, examples: Tensor) -> Weights:
    """Return E[x^2] of what the scale of each norm multiplies in an expert: {name of the scale: [width]}."""
    weights = expert_weights(problem.base, problem.vectors, task)
    norms = _Norms()
    for batch in examples.split(problem.examples_per_pass):
        inputs = cut_padding(batch)
        norms.valid = inputs >= 0 if inputs.ndim == 2 else None
        with autocast(examples.device, problem.precision), norms:
            problem.encoder(weights, inputs)
    scales = {name: scale for name, scale in weights.items() if id(scale) in norms.sums}
    return {name: norms.sums[id(scale)] / norms.counts[id(scale)] for name, scale in scales.items()}


class _Norms(TorchFunctionMode):
    """Sum the squares of what each layer norm scales while an encoder runs, by the id of its scale."""

    def __init__(self) -> None:
        super().__init__()
        self.valid: Tensor | None = None
        """bool [N, L], False for padding; None if there is none."""
        self.sums: dict[int, Tensor] = {}
        self.counts: dict[int, int] = {}

    def __torch_function__(self, func, types, args=(), kwargs=None):
        """Call the function; of a layer norm, add up the squares of the result without scale and bias."""
        kwargs = kwargs or {}
        if func is layer_norm:
            key, scaled = id(kwargs["weight"]), layer_norm(*args[:2], eps=kwargs["eps"])
            rows = scaled.flatten(0, -2) if self.valid is None or scaled.ndim == 2 else scaled[self.valid]
            self.sums[key] = self.sums.get(key, 0) + rows.square().sum(0)
            self.counts[key] = self.counts.get(key, 0) + len(rows)
        return func(*args, **kwargs)
