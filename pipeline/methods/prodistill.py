"""ProDistill: block after block, a coefficient per weight and task, so that features follow each expert's own.

    theta_b = theta_0,b + sum_t c_t * tau_t,b                 (b a block, * element-wise; arXiv 2502.12706)
    min_c sum_t sum_x |f(theta_b; h_b(x)) - f(theta_t,b; h_t,b(x))|^2             (x from the examples of task t)

h_b(x) is the input of block b after the blocks merged before it, h_t,b(x) its input in expert t. Everything outside the
blocks is theta_0 + initial_coefficient * sum_t tau_t, and so are biases of k, on which no output depends.
As in the authors' code the squares are summed over batch, tokens and features (Adam's epsilon sees that), and a batch
mixes the tasks. The suite's schedule is for coefficients of whole tensors and does not apply here.
"""

from functools import partial

import torch
from pydantic import Field
from torch import Tensor

from pipeline.calibration.problem import Footprint, Problem, require_finite
from pipeline.merges.solution import Solution
from pipeline.models.encoder import Hidden, block_name, join_hidden
from pipeline.models.examples import cut_padding
from pipeline.models.task_vectors import add_delta
from pipeline.models.weights import Weights, has_gradient
from pipeline.runtime.schema import Parameters, Schedule, autocast
from pipeline.statistics.sampling import generator

TITLE = "ProDistill"
PAPER = "Xu et al., 2025, arXiv 2502.12706"
FOOTPRINT = Footprint(models=3, block_vectors=5, block_models=2, tokens=4)


class Params(Parameters):
    """initial_coefficient: c at the start, and outside the blocks; samples: examples per task, the first of the draw.

    lr: Adam's; epochs: passes over all tasks' examples for each block; batch_size: examples of all tasks together.
    """

    initial_coefficient: float = Field(0.3, ge=-2, le=2)
    samples: int = Field(64, ge=1)
    lr: float = Field(0.01, gt=0)
    epochs: int = Field(100, ge=1)
    batch_size: int = Field(128, ge=1)


def calibrate(problem: Problem, schedule: Schedule, seed: int, params: Params) -> Solution:
    """Distil one block at a time; `losses` are those of every step of every block, in order."""
    encoder, base, losses = problem.encoder, problem.base, []
    delta = {name: params.initial_coefficient * stacked.sum(0) for name, stacked in problem.vectors.items()}
    experts = [{name: stacked[task] for name, stacked in problem.vectors.items()} for task in range(len(problem.tasks))]
    pools = [pool[: params.samples] for pool in problem.examples]
    examples = cut_padding(torch.cat(pools))
    hidden = _through(problem, partial(encoder.embed, add_delta(base, delta)), examples)
    targets = [
        _through(problem, partial(encoder.embed, add_delta(base, expert)), part)
        for expert, part in zip(experts, examples.split([len(pool) for pool in pools]), strict=True)
    ]
    for index in range(encoder.depth):
        block = {name: tensor for name, tensor in base.items() if name.startswith(block_name(index))}
        targets = [
            _through(problem, partial(encoder.block, add_delta(block, expert), index), entering)
            for expert, entering in zip(experts, targets, strict=True)
        ]
        block_delta, steps = distil_block(
            problem, index, hidden, join_hidden(targets), generator(seed, "batches", index), params
        )
        hidden = _through(problem, partial(encoder.block, add_delta(block, block_delta), index), hidden)
        delta |= block_delta
        losses += steps
    return Solution(delta=delta, losses=torch.stack(losses))


def distil_block(
    problem: Problem, index: int, hidden: Hidden, targets: Hidden, rng: torch.Generator, params: Params
) -> tuple[Weights, list[Tensor]]:
    """Return the delta of a block that maps `hidden` to `targets`, of the same examples, and the loss before each step.

    The delta has the tensors with a gradient only.
    """
    block = {name: tensor for name, tensor in problem.base.items() if name.startswith(block_name(index))}
    vectors = {name: problem.vectors[name] for name in block if has_gradient(name)}
    learned = {name: torch.full_like(stacked, params.initial_coefficient) for name, stacked in vectors.items()}
    optimiser = torch.optim.Adam([values.requires_grad_() for values in learned.values()], lr=params.lr, fused=True)
    losses = []
    for _ in range(params.epochs):
        for batch in torch.randperm(len(hidden), generator=rng).to(hidden.tokens.device).split(params.batch_size):
            moved = {name: block[name] + (learned[name] * stacked).sum(0) for name, stacked in vectors.items()}
            with autocast(hidden.tokens.device, problem.precision):
                leaving = problem.encoder.block({**block, **moved}, index, hidden[batch])
                loss = leaving.rows(leaving.tokens - targets[batch].tokens).square().sum()
            losses.append(loss.detach())
            require_finite(len(losses) - 1, losses[-1])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return {name: (learned[name].detach() * stacked).sum(0) for name, stacked in vectors.items()}, losses


@torch.no_grad()
def _through(problem: Problem, layer: partial[Hidden], inputs: Tensor | Hidden) -> Hidden:
    """Apply a layer to all inputs, at most `examples_per_pass` at a time."""
    with autocast(problem.heads[0].device, problem.precision):
        return join_hidden([layer(part) for part in inputs.split(problem.examples_per_pass)])
