"""Learning the coefficients: one loop for AdaMerging, distillation and SAMerging.

A step draws a batch of every task's calibration images, computes dL/dlambda by one batched forward and backward of the
merged model (`gradient`), makes it sharpness-aware if asked (`sharp_gradient`), and lets Adam move lambda.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pipeline.errors import BenchmarkError
from pipeline.model import Encoder, Weights
from pipeline.objectives import Objective
from pipeline.schema import Schedule
from pipeline.solution import Solution
from pipeline.vectors import contract, merge

Sharpness = Literal["sam", "asam", "none"]
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
    precision: torch.dtype = torch.float32
    """bfloat16: the encoder's matrix products are rounded; coefficients, heads and losses stay as they are."""
    images_per_pass: int = 1 << 30
    """How many images go through the encoder at once."""


class Diverged(BenchmarkError):
    """The loss or a coefficient is no longer finite; the message says at which step and what to try."""


def generator(seed: int, *key: object) -> torch.Generator:
    """A generator that depends on `seed` and `key` alone."""
    digest = hashlib.sha256(repr((seed, *key)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def draw(pool: int, samples: int, seed: int, task: str) -> Tensor:
    """Indices [min(samples, pool)] of a task's calibration images: seeded, without replacement.

    Draws of one seed are nested: the first k of a larger draw are the draw of size k.
    """
    return torch.randperm(pool, generator=generator(seed, "draw", task))[:samples]


def batches(count: int, size: int, rng: torch.Generator) -> Iterator[Tensor]:
    """Endless batches of min(size, count) of `count` indices; reshuffled whenever all have been used."""
    size = min(size, count)
    waiting = torch.empty(0, dtype=torch.long)
    while True:
        while len(waiting) < size:
            waiting = torch.cat([waiting, torch.randperm(count, generator=rng)])
        yield waiting[:size]
        waiting = waiting[size:]


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
    with torch.autocast(images.device.type, torch.bfloat16, enabled=problem.precision == torch.bfloat16):
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
) -> Solution:
    """Minimise the objective over the coefficients with Adam; the last point is the result.

    Starts at `initial_coefficient` everywhere; `weight_decay` is Adam's coupled L2 term on the coefficients; `clamp`
    keeps them in [0, 1] after every step. Raises Diverged at the first non-finite loss or coefficient.
    """
    rates = [
        batches(len(pool), schedule.batch_size, generator(seed, "batches", t)) for t, pool in enumerate(problem.images)
    ]
    sample = next(iter(problem.vectors.values()))
    point = torch.full(
        (len(sample), len(problem.vectors)), initial_coefficient, dtype=sample.dtype, device=sample.device
    )
    optimiser = torch.optim.Adam([point], lr=schedule.lr, weight_decay=weight_decay)
    losses = []
    for step in range(schedule.steps):
        chosen = tuple(next(stream).to(sample.device) for stream in rates)
        loss, point.grad = sharp_gradient(lambda at: gradient(problem, objective, at, chosen), point, rho, sharpness)  # noqa: B023
        optimiser.step()
        if clamp:
            point.clamp_(0, 1)
        losses.append(loss)
        if not bool(torch.isfinite(loss)) or not bool(torch.isfinite(point).all()):
            raise Diverged(f"calibration diverged at step {step + 1}: loss {float(loss)}; try a smaller lr or rho")
    return Solution(point, losses=torch.stack(losses))
