"""Learning the coefficients: one loop for AdaMerging, distillation and SAMerging.

A step draws a batch of every task's calibration images, computes dL/dlambda by one batched forward and backward of the
merged model (`gradient`), makes it sharpness-aware if asked (`sharp_gradient`), and lets Adam move lambda. Methods that
learn something else beside or instead of lambda share `streams` and `require_finite`.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from pipeline.draws import batches, generator
from pipeline.errors import BenchmarkError
from pipeline.model import Encoder, Weights, has_gradient
from pipeline.objectives import Objective
from pipeline.schema import Schedule, rounded
from pipeline.solution import Solution
from pipeline.vectors import contract, merge

Sharpness = Literal["sam", "asam", "none"]
Granularity = Literal["layer", "task"]
LossAndGradient = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Problem:
    """What a calibrated method may see: no labels, no test images, no file names."""

    encoder: Encoder
    base: Weights
    vectors: Weights
    """name -> [T, *shape]: the task vectors."""
    heads: tuple[Tensor, ...]
    """Per task [classes, D]."""
    images: tuple[Tensor, ...]
    """Per task uint8 [k_t, H, W, 3]: the calibration images of one draw."""
    teachers: tuple[Tensor, ...]
    """Per task [k_t, classes]: the expert's logits on those images."""
    tasks: tuple[str, ...]
    """The names of the tasks."""
    precision: torch.dtype = torch.float32
    """bfloat16: the encoder's matrix products are rounded; coefficients, heads and losses stay as they are."""
    images_per_pass: int = 1 << 30
    """How many images go through the encoder at once."""


@dataclass(frozen=True)
class Footprint:
    """What a method holds in memory at once, beside its calibration images; the defaults are those of `descend`."""

    vectors: int = 1
    """Sets of the task vectors."""
    models: int = 4
    """Copies of the model: theta_0, the merged one, its gradient, and the sum of gradients over passes."""
    images: int | None = None
    """Images in a pass; None: a batch of every task, as far as `images_per_pass` allows."""
    block_vectors: int = 0
    """Sets of the task vectors of one block."""
    block_models: int = 0
    """Copies of one block."""
    tokens: int = 0
    """Of every calibration image, the tokens between two blocks. Above 0: no more than a block is computed at once."""


class Diverged(BenchmarkError):
    """The loss or a coefficient is no longer finite; the message says at which step and what to try."""


def streams(problem: Problem, size: int, seed: int) -> list[Iterator[Tensor]]:
    """Per task its endless `batches`; each task draws for itself."""
    return [batches(len(pool), size, generator(seed, "batches", task)) for task, pool in enumerate(problem.images)]


def require_finite(step: int, loss: Tensor, *learned: Tensor) -> None:
    """Raise Diverged unless the loss and what was learned are finite; `step` counts from 0."""
    if not all(bool(torch.isfinite(tensor).all()) for tensor in (loss, *learned)):
        raise Diverged(f"calibration diverged at step {step + 1}: loss {float(loss)}; try a smaller lr or rho")


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


def perturbation(point: Tensor, slope: Tensor, rho: float, sharpness: Sharpness) -> Tensor:
    """The step to the (approximately) worst point within `rho`.

    sam: rho g / |g| (Foret et al., arXiv 2010.01412); asam: rho lambda^2 g / |lambda g|, element-wise
    (Kwon et al., arXiv 2102.11600), so that |epsilon / lambda| = rho. Zero where its direction is zero.
    """
    direction, length = slope, slope.norm()
    if sharpness == "asam":
        direction, length = point.square() * slope, (point * slope).norm()
    return rho * direction / length if length > 0 else torch.zeros_like(point)


def sharp_gradient(function: LossAndGradient, point: Tensor, rho: float, sharpness: Sharpness) -> tuple[Tensor, Tensor]:
    """The loss at `point` and the gradient that descends there.

    With sharpness "none" or rho = 0 the plain gradient; else the gradient at point + epsilon. `function` merges anew
    for every point it is given: without that the second pass would repeat the first, as in the released code.
    """
    loss, slope = function(point)
    if sharpness == "none" or rho == 0:
        return loss, slope
    _, sharp = function(point + perturbation(point, slope, rho, sharpness))
    return loss, sharp


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
