"""Learning the coefficients: one loop for AdaMerging, distillation and SAMerging.

A step draws a batch of every task's calibration examples, computes dL/dlambda with one batched forward and backward
pass of the merged model (`coefficient_gradient`), optionally sharpness-aware (`sharp_gradient`), and updates lambda
with Adam. Methods with other learned parameters share `weight_gradient`, `stream_batches` and `require_finite`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from pipeline.calibration.adam import Adam
from pipeline.calibration.objectives import Objective
from pipeline.calibration.problem import Problem, require_finite, stream_batches
from pipeline.calibration.sharpness import Sharpness, sharp_gradient
from pipeline.merges.solution import Solution
from pipeline.models.examples import cut_padding
from pipeline.models.task_vectors import contract, merge
from pipeline.models.weights import Weights, has_gradient
from pipeline.runtime.schema import Schedule, autocast

Granularity = Literal["layer", "task"]


def select_learned(problem: Problem) -> Problem:
    """Return the problem without the task vectors of tensors that have no gradient: no output depends on them."""
    return replace(problem, vectors={name: tau for name, tau in problem.vectors.items() if has_gradient(name)})


def expand_learned(point: Tensor, groups: Iterable[str], value: float) -> Tensor:
    """Return the coefficients [T, G] of all groups: `point` for the groups with a gradient, else `value`."""
    columns = torch.tensor([has_gradient(name) for name in groups], device=point.device)
    coefficients = point.new_full((len(point), len(columns)), value)
    coefficients[:, columns] = point
    return coefficients


def coefficient_gradient(
    problem: Problem, objective: Objective, coefficients: Tensor, batches: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    """Return the loss summed over tasks (scalar) and its gradient with respect to the coefficients [T, G].

    `batches` are the indices of each task's examples. Merge and contraction are computed once.
    """
    merged = merge(problem.base, problem.vectors, coefficients)
    loss, slopes = weight_gradient(problem, objective, merged, batches)
    return loss, contract(slopes, problem.vectors)


def weight_gradient(
    problem: Problem, objective: Objective, merged: Weights, batches: tuple[Tensor, ...]
) -> tuple[Tensor, Weights]:
    """Return the loss summed over tasks (scalar) and its gradient with respect to the merged weights {name: tensor}.

    The gradient has the tensors that have task vectors. Tasks go through the merged encoder together, as many at a time
    as `examples_per_pass` allows: memory does not grow with the number of tasks.
    """
    leaves = {name: merged[name].detach().requires_grad_() for name in problem.vectors}
    weights = {**merged, **leaves}
    losses, totals = [], []
    for tasks in _passes([len(batch) for batch in batches], problem.examples_per_pass):
        loss = _loss(problem, objective, weights, {task: batches[task] for task in tasks})
        slopes = torch.autograd.grad(loss, list(leaves.values()))
        losses.append(loss.detach())
        totals = [total.add_(slope) for total, slope in zip(totals, slopes, strict=True)] if totals else [*slopes]
    return torch.stack(losses).sum(), dict(zip(leaves, totals, strict=True))


def _loss(problem: Problem, objective: Objective, weights: Weights, batches: dict[int, Tensor]) -> Tensor:
    """Return the objective summed over some tasks, {task: indices of its batch}, in one pass."""
    examples = cut_padding(torch.cat([problem.examples[task][batch] for task, batch in batches.items()]))
    with autocast(examples.device, problem.precision):
        features = problem.encoder(weights, examples).to(problem.heads[0].dtype)
    parts = features.split([len(batch) for batch in batches.values()])
    per_task = [
        objective(part @ problem.heads[task].T, problem.teachers[task][batch])
        for part, (task, batch) in zip(parts, batches.items(), strict=True)
    ]
    return torch.stack(per_task).sum()


def _passes(sizes: list[int], limit: int) -> Iterator[list[int]]:
    """Yield consecutive tasks whose batches, of these sizes, hold at most `limit` examples; a larger one goes alone."""
    tasks: list[int] = []
    for task, size in enumerate(sizes):
        if tasks and sum(sizes[previous] for previous in tasks) + size > limit:
            yield tasks
            tasks = []
        tasks.append(task)
    yield tasks


def _shared(
    problem: Problem, objective: Objective, batches: tuple[Tensor, ...], coefficients: Tensor
) -> tuple[Tensor, Tensor]:
    """Return `coefficient_gradient` for coefficients [T, G], or [T, 1] that all groups of a task share."""
    loss, slope = coefficient_gradient(problem, objective, coefficients.expand(-1, len(problem.vectors)), batches)
    return loss, slope.sum_to_size(coefficients.shape)


def descend(
    problem: Problem,
    objective: Objective,
    schedule: Schedule,
    seed: int,
    *,
    initial_coefficient: float,
    weight_decay: float,
    rho: float = 0.0,
    sharpness: Sharpness = "none",
    clamp: bool = False,
    granularity: Granularity = "layer",
) -> Solution:
    """Minimise the objective over the coefficients with Adam; the last point is the result.

    All coefficients start at `initial_coefficient`; `weight_decay` is Adam's coupled L2 term on them; `clamp` projects
    them onto [0, 1] after every step. `granularity` "layer" learns one coefficient per task and group, "task" one per
    task; SAM perturbs what is learned. The resulting coefficients are [T, G] either way; with "layer", those of groups
    without a gradient stay at `initial_coefficient`. Raises Diverged at the first non-finite loss or coefficient.
    """
    streams, sample = stream_batches(problem, schedule.batch_size, seed), next(iter(problem.vectors.values()))
    part = select_learned(problem) if granularity == "layer" else problem
    shape = len(sample), len(part.vectors) if granularity == "layer" else 1
    point = torch.full(shape, initial_coefficient, dtype=sample.dtype, device=sample.device)
    optimiser = Adam(point, schedule.lr, weight_decay)
    losses = []
    for step in range(schedule.steps):
        batches = tuple(next(stream).to(sample.device) for stream in streams)
        loss, slope = sharp_gradient(partial(_shared, part, objective, batches), point, rho, sharpness)
        optimiser.step(slope)
        if clamp:
            point.clamp_(0, 1)
        losses.append(loss)
        require_finite(step, loss, point)
    if granularity == "layer":
        coefficients = expand_learned(point, problem.vectors, initial_coefficient)
    else:
        coefficients = point.expand(-1, len(problem.vectors)).contiguous()
    return Solution(coefficients, losses=torch.stack(losses))
