"""ProDistill: block after block, a coefficient per weight and task, so that features follow each expert's own.

    theta_b = theta_0,b + sum_t c_t * tau_t,b                 (b a block, * element-wise; arXiv 2502.12706)
    min_c sum_t sum_x |f(theta_b; h_b(x)) - f(theta_t,b; h_t,b(x))|^2             (x from the images of task t)

h_b(x) is what reaches block b through the blocks merged before it, h_t,b(x) what reaches it in expert t. Everything
outside the blocks is theta_0 + initial_coefficient * sum_t tau_t, and so are biases of k, on which no output depends.
As in the authors' code the squares are summed over batch, tokens and features (Adam's epsilon sees that), and a batch
mixes the tasks. The suite's schedule is for coefficients of whole tensors and does not apply here.
"""

from functools import partial

import torch
from pydantic import Field
from torch import Tensor

from pipeline.calibration.problem import Footprint, Problem, require_finite
from pipeline.merges.solution import Solution
from pipeline.models.encoder import block_name
from pipeline.models.sampling import generator
from pipeline.models.task_vectors import add
from pipeline.models.weights import Weights, has_gradient
from pipeline.runtime.schema import Parameters, Schedule, rounded

TITLE = "ProDistill"
PAPER = "Xu et al., 2025, arXiv 2502.12706"
FOOTPRINT = Footprint(models=3, block_vectors=5, block_models=2, tokens=4)


class Params(Parameters):
    """initial_coefficient: c at the start, and outside the blocks; samples: images per task, the first of the draw.

    lr: Adam's; epochs: passes over all tasks' images for each block; batch_size: images of all tasks together.
    """

    initial_coefficient: float = Field(0.3, ge=-2, le=2)
    samples: int = Field(64, ge=1)
    lr: float = Field(0.01, gt=0)
    epochs: int = Field(100, ge=1)
    batch_size: int = Field(128, ge=1)


def calibrate(problem: Problem, schedule: Schedule, seed: int, params: Params) -> Solution:
    """Distil one block at a time; `losses` are those of all blocks' steps in turn."""
    tower, base, losses = problem.encoder, problem.base, []
    delta = {name: params.initial_coefficient * stacked.sum(0) for name, stacked in problem.vectors.items()}
    experts = [{name: stacked[task] for name, stacked in problem.vectors.items()} for task in range(len(problem.tasks))]
    pools = [pool[: params.samples] for pool in problem.images]
    tokens = _through(problem, partial(tower.embed, add(base, delta)), torch.cat(pools))
    taught = [
        _through(problem, partial(tower.embed, add(base, expert)), pool)
        for expert, pool in zip(experts, pools, strict=True)
    ]
    for index in range(tower.depth):
        own = {name: tensor for name, tensor in base.items() if name.startswith(block_name(index))}
        taught = [
            _through(problem, partial(tower.block, add(own, expert), index), entering)
            for expert, entering in zip(experts, taught, strict=True)
        ]
        found, steps = distil(problem, index, tokens, torch.cat(taught), generator(seed, "batches", index), params)
        tokens = _through(problem, partial(tower.block, add(own, found), index), tokens)
        delta |= found
        losses += steps
    return Solution(delta=delta, losses=torch.stack(losses))


def distil(
    problem: Problem, index: int, tokens: Tensor, taught: Tensor, rng: torch.Generator, params: Params
) -> tuple[Weights, list[Tensor]]:
    """The delta of a block that maps tokens [N, L, width] to those `taught`, and the loss before each step.

    Of tensors with a gradient alone.
    """
    own = {name: tensor for name, tensor in problem.base.items() if name.startswith(block_name(index))}
    vectors = {name: problem.vectors[name] for name in own if has_gradient(name)}
    learned = {name: torch.full_like(stacked, params.initial_coefficient) for name, stacked in vectors.items()}
    optimiser = torch.optim.Adam([values.requires_grad_() for values in learned.values()], lr=params.lr, fused=True)
    losses = []
    for _ in range(params.epochs):
        for batch in torch.randperm(len(tokens), generator=rng).to(tokens.device).split(params.batch_size):
            moved = {name: own[name] + (learned[name] * stacked).sum(0) for name, stacked in vectors.items()}
            with rounded(tokens.device, problem.precision):
                loss = (problem.encoder.block({**own, **moved}, index, tokens[batch]) - taught[batch]).square().sum()
            losses.append(loss.detach())
            require_finite(len(losses) - 1, losses[-1])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return {name: (learned[name].detach() * stacked).sum(0) for name, stacked in vectors.items()}, losses


@torch.no_grad()
def _through(problem: Problem, layer: partial[Tensor], inputs: Tensor) -> Tensor:
    """`layer` of all inputs, as many at a time as the problem allows."""
    with rounded(inputs.device, problem.precision):
        return torch.cat([layer(part) for part in inputs.split(problem.images_per_pass)])
