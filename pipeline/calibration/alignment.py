"""Learn bounded coefficients by aligning the merged model with each expert on the expert's task (arXiv 2509.25712).

`pipeline.methods.expert_merging` has the formulas.
"""

import math

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import mse_loss

from pipeline.calibration.adam import Adam
from pipeline.calibration.descent import expand_learned, select_learned
from pipeline.calibration.objectives import distillation
from pipeline.calibration.problem import Problem, require_finite, stream_batches
from pipeline.merges.solution import Solution
from pipeline.models import task_vectors
from pipeline.models.encoder import Hidden, Transformer
from pipeline.models.examples import cut_padding
from pipeline.models.weights import Weights
from pipeline.runtime.schema import Parameters, Schedule, autocast
from pipeline.toolbox.activations import expert_weights


class Alignment(Parameters):
    """temperature: of the softmax; anchor: weight of the pull to the start; initial_coefficient: alpha at the start;
    clip: largest norm of a gradient."""

    temperature: float = Field(3.0, gt=0)
    anchor: float = Field(0.1, ge=0)
    initial_coefficient: float = Field(0.1, gt=0, lt=1)
    clip: float = Field(1.0, gt=0)


def align(problem: Problem, schedule: Schedule, seed: int, params: Alignment, hidden: float) -> Solution:
    """Minimise the mean of L_t over the tasks; the coefficients are [T, G], `losses` are that mean.

    hidden: weight of the hidden states; with 0 they are not computed.
    """
    moving, streams = select_learned(problem), stream_batches(problem, schedule.batch_size, seed)
    sample, shape = next(iter(moving.vectors.values())), (len(problem.tasks), len(moving.vectors))
    start = params.initial_coefficient
    point = torch.full(shape, math.log(start / (1 - start)), dtype=sample.dtype, device=sample.device)
    anchor, optimiser, losses = point.sigmoid(), Adam(point, schedule.lr), []
    for step in range(schedule.steps):
        batches = [next(stream).to(sample.device) for stream in streams]
        alpha = point.sigmoid()
        loss, slope = alignment_gradient(moving, alpha, batches, params.temperature, hidden)
        loss = loss + params.anchor * (alpha - anchor).abs().mean()
        slope = slope + params.anchor * (alpha - anchor).sign() / alpha.numel()
        optimiser.step(clip_norm(slope * alpha * (1 - alpha), params.clip))
        losses.append(loss)
        require_finite(step, loss, point)
    coefficients = expand_learned(point.sigmoid(), problem.vectors, start)
    return Solution(coefficients, losses=torch.stack(losses))


def clip_norm(slope: Tensor, limit: float) -> Tensor:
    """Return the gradient, shortened to the norm `limit` if it is longer."""
    return slope * (limit / slope.norm()).clamp(max=1)


def alignment_gradient(
    problem: Problem, coefficients: Tensor, batches: list[Tensor], temperature: float, hidden: float
) -> tuple[Tensor, Tensor]:
    """Return the mean over tasks of the first two terms of L_t, and its gradient with respect to alpha [T, G].

    `batches` are the indices of each task's examples. One task at a time goes through its expert and the merged model.
    """
    merged = task_vectors.merge(problem.base, problem.vectors, coefficients)
    leaves = {name: merged[name].requires_grad_() for name in problem.vectors}
    losses, totals = [], []
    for task, batch in enumerate(batches):
        loss = alignment_loss(problem, merged, task, batch, temperature, hidden) / len(batches)
        slopes = torch.autograd.grad(loss, list(leaves.values()))
        losses.append(loss.detach())
        totals = [total.add_(slope) for total, slope in zip(totals, slopes, strict=True)] if totals else [*slopes]
    gradient = task_vectors.contract(dict(zip(leaves, totals, strict=True)), problem.vectors)
    return torch.stack(losses).sum(), gradient


def alignment_loss(
    problem: Problem, merged: Weights, task: int, batch: Tensor, temperature: float, hidden: float
) -> Tensor:
    """Return the first two terms of L_t on a batch of task t, as a function of the merged weights."""
    head, examples = problem.heads[task], cut_padding(problem.examples[task][batch])
    with autocast(head.device, problem.precision):
        states = _states(problem.encoder, merged, examples)
        features = problem.encoder.finish(merged, states[-1]).to(head.dtype)
    divergence = distillation(temperature)(features @ head.T, problem.teachers[task][batch])
    loss = temperature**2 * divergence
    if hidden:
        expert = expert_weights(problem.base, problem.vectors, task)
        with torch.no_grad(), autocast(head.device, problem.precision):
            goals = _states(problem.encoder, expert, examples)
        pairs = zip(states, goals, strict=True)
        gaps = [mse_loss(state.rows(state.tokens), goal.rows(goal.tokens)) for state, goal in pairs]
        loss = loss + hidden * torch.stack(gaps).mean()
    return loss


def _states(encoder: Transformer, weights: Weights, examples: Tensor) -> list[Hidden]:
    """Return what leaves each block."""
    states, entering = [], encoder.embed(weights, examples)
    for index in range(encoder.depth):
        entering = encoder.block(weights, index, entering)
        states.append(entering)
    return states
