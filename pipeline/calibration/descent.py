"""Learning the coefficients: one loop for AdaMerging, distillation and SAMerging.

A step draws a batch of every task's calibration images, computes dL/dlambda by one batched forward and backward of the
merged model (`gradient`), makes it sharpness-aware if asked (`sharp_gradient`), and lets Adam move lambda. Methods that
learn something else beside or instead of lambda share `streams` and `require_finite`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from pipeline.calibration.objectives import Objective
from pipeline.calibration.problem import Problem, require_finite, streams
from pipeline.calibration.sharpness import Sharpness, sharp_gradient
from pipeline.merges.solution import Solution
from pipeline.models.task_vectors import contract, merge
from pipeline.models.weights import Weights, has_gradient
from pipeline.runtime.schema import Schedule, rounded

Granularity = Literal["layer", "task"]


def learned(problem: Problem) -> Problem:
    """The problem without the task vectors of tensors that have no gradient: no output depends on their merge."""
    return replace(problem, vectors={name: one for name, one in problem.vectors.items() if has_gradient(name)})


def completed(point: Tensor, groups: Iterable[str], value: float) -> Tensor:
    """Coefficients [T, G] of all groups, in order, from those of the groups with a gradient; the others are `value`."""
    columns = torch.tensor([has_gradient(name) for name in groups], device=point.device)
    whole = point.new_full((len(point), len(columns)), value)
    whole[:, columns] = point
    return whole


def gradient(
    problem: Problem, objective: Objective, coefficients: Tensor, chosen: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    """The loss summed over tasks (scalar) and its gradient with respect to the coefficients [T, G].

    `chosen` holds the indices of each task's batch. Tasks go through the merged encoder together, as many at a time as
    `images_per_pass` allows: merge and contraction are paid once, memory does not grow with the number of tasks.
    """
    merged = merge(problem.base, problem.vectors, coefficients)
    leaves = {name: merged[name].requires_grad_() for name in problem.vectors}
    losses, slopes = [], []
    for tasks in _passes([len(batch) for batch in chosen], problem.images_per_pass):
        loss = _loss(problem, objective, merged, {task: chosen[task] for task in tasks})
        found = torch.autograd.grad(loss, list(leaves.values()))
        losses.append(loss.detach())
        slopes = [total.add_(more) for total, more in zip(slopes, found, strict=True)] if slopes else [*found]
    return torch.stack(losses).sum(), contract(dict(zip(leaves, slopes, strict=True)), problem.vectors)


def _loss(problem: Problem, objective: Objective, weights: Weights, chosen: dict[int, Tensor]) -> Tensor:
    """The objective summed over some tasks, {task: indices of its batch}, in one pass."""
    images = torch.cat([problem.images[task][batch] for task, batch in chosen.items()])
    with rounded(images.device, problem.precision):
        features = problem.encoder(weights, images).to(problem.heads[0].dtype)
    parts = features.split([len(batch) for batch in chosen.values()])
    per_task = [
        objective(part @ problem.heads[task].T, problem.teachers[task][batch])
        for part, (task, batch) in zip(parts, chosen.items(), strict=True)
    ]
    return torch.stack(per_task).sum()


def _passes(sizes: list[int], limit: int) -> Iterator[list[int]]:
    """Consecutive tasks whose batches, of these sizes, hold at most `limit` images; a larger batch goes alone."""
    together: list[int] = []
    for task, size in enumerate(sizes):
        if together and sum(sizes[one] for one in together) + size > limit:
            yield together
            together = []
        together.append(task)
    yield together


def _shared(
    problem: Problem, objective: Objective, chosen: tuple[Tensor, ...], coefficients: Tensor
) -> tuple[Tensor, Tensor]:
    """`gradient` for coefficients [T, G], or [T, 1] that all groups of a task share."""
    loss, slope = gradient(problem, objective, coefficients.expand(-1, len(problem.vectors)), chosen)
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

    Starts at `initial_coefficient` everywhere; `weight_decay` is Adam's coupled L2 term on the coefficients; `clamp`
    keeps them in [0, 1] after every step. `granularity` "layer" has one coefficient per task and group, "task" one per
    task: SAM perturbs, and Adam moves, what is learned. The coefficients are [T, G] either way; with "layer", those of
    groups without a gradient stay at `initial_coefficient`. Raises Diverged at the first non-finite loss or
    coefficient.
    """
    drawn, sample = streams(problem, schedule.batch_size, seed), next(iter(problem.vectors.values()))
    moving = learned(problem) if granularity == "layer" else problem
    shape = len(sample), len(moving.vectors) if granularity == "layer" else 1
    point = torch.full(shape, initial_coefficient, dtype=sample.dtype, device=sample.device)
    optimiser = torch.optim.Adam([point], lr=schedule.lr, weight_decay=weight_decay)
    losses = []
    for step in range(schedule.steps):
        chosen = tuple(next(stream).to(sample.device) for stream in drawn)
        loss, point.grad = sharp_gradient(partial(_shared, moving, objective, chosen), point, rho, sharpness)
        optimiser.step()
        if clamp:
            point.clamp_(0, 1)
        losses.append(loss)
        require_finite(step, loss, point)
    if granularity == "layer":
        coefficients = completed(point, problem.vectors, initial_coefficient)
    else:
        coefficients = point.expand(-1, len(problem.vectors)).contiguous()
    return Solution(coefficients, losses=torch.stack(losses))
