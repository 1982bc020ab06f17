"""Flatness: what can stand in for SAM's second pass.

SAM merges, and goes forward and backward, twice per step. The rules below descend with fewer passes, or with another
neighbourhood; every one is a function of a batch's loss and gradient, so that it can be checked on a quadratic:

    plain          the gradient at lambda
    sam            at lambda + rho g / |g|, one perturbation for all tasks (arXiv 2010.01412)
    every <n>      sam at every n-th step, plain between
    carried        at lambda + the perturbation that the step before found: one pass
    per task       every task's gradient at its own worst point
    smoothed       at lambda + rho u, u uniform on the sphere
    averaged       plain, and the mean of the last iterates is the answer: flat without any perturbation
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from pipeline.calibration.descent import completed, gradient, learned
from pipeline.calibration.objectives import Objective, distillation
from pipeline.calibration.problem import Problem, require_finite, streams
from pipeline.calibration.sharpness import LossAndGradient, perturbation, sharp_gradient
from pipeline.merges import storage
from pipeline.merges.solution import Solution
from pipeline.methods import samerging
from pipeline.models.sampling import generator
from pipeline.models.suite import SuiteFolder
from pipeline.models.task_vectors import merge
from pipeline.runtime.errors import BenchmarkError
from pipeline.runtime.resumable import Resumable
from pipeline.runtime.schema import Parameters, Schedule, rounded
from pipeline.steps.calibrate import Setting, indices, need, problem
from pipeline.steps.evaluate import on, replies
from pipeline.studies._trials import SCORES, marks

COLUMNS = (*SCORES, "merges", "passed", "loss", "rise")
"""Beside the scores: models merged and images sent forward and backward while calibrating; the task's loss on held-out
calibration images, and how much it rises at the worst point."""
RADII = (0.25, 0.5, 0.75, 1.0)
"""Where along the gradient the worst point is looked for, in rho."""


class Params(Parameters):
    """The grid."""

    samples: int = Field(ge=1)
    """Unlabelled images per task."""
    held_out: int = Field(ge=1)
    """More images of the calibration pool per task, for the loss and its rise; never calibrated on. A smaller pool is
    shared between the two in the same proportion."""
    periods: Annotated[list[Annotated[int, Field(ge=2)]], Field(min_length=1)]
    """SAM at every n-th step only."""
    averaged: float = Field(gt=0, le=1)
    """Share of the iterates, the last ones, whose mean is the answer of `averaged`."""


class TooFew(BenchmarkError):
    """A task has not enough calibration images to hold some out."""


class Batch(NamedTuple):
    """A step's loss as functions of the coefficients: of all tasks together, and of each."""

    whole: LossAndGradient
    tasks: Sequence[LossAndGradient]


class Moment(NamedTuple):
    """Where in a run a step is."""

    step: int
    seed: int
    epsilon: Tensor
    """What the step before left; zero at the first."""


class Step(NamedTuple):
    """What a rule answers."""

    loss: Tensor
    slope: Tensor
    """The gradient to descend."""
    epsilon: Tensor
    """For the next step."""


Rule = Callable[[Batch, Tensor, Moment, float], Step]
"""(batch, coefficients, moment, rho) -> step."""


def plain(batch: Batch, point: Tensor, moment: Moment, rho: float) -> Step:
    """The gradient where we are."""
    del rho
    return Step(*batch.whole(point), moment.epsilon)


def sam(batch: Batch, point: Tensor, moment: Moment, rho: float) -> Step:
    """The gradient at the worst point within rho for the sum over tasks."""
    return Step(*sharp_gradient(batch.whole, point, rho, "sam"), moment.epsilon)


def every(period: int, batch: Batch, point: Tensor, moment: Moment, rho: float) -> Step:
    """`sam` at steps 0, period, 2 period ..., else `plain`."""
    rule = plain if moment.step % period else sam
    return rule(batch, point, moment, rho)


def carried(batch: Batch, point: Tensor, moment: Moment, rho: float) -> Step:
    """One pass, at the perturbation of the step before; its gradient makes that of the next. The first is plain."""
    loss, slope = batch.whole(point + moment.epsilon)
    return Step(loss, slope, perturbation(point, slope, rho, "sam"))


def per_task(batch: Batch, point: Tensor, moment: Moment, rho: float) -> Step:
    """The sum of every task's gradient at the worst point within rho for that task alone."""
    losses, slopes = zip(*(sharp_gradient(task, point, rho, "sam") for task in batch.tasks), strict=True)
    return Step(torch.stack(losses).sum(), torch.stack(slopes).sum(0), moment.epsilon)


def smoothed(batch: Batch, point: Tensor, moment: Moment, rho: float) -> Step:
    """The gradient at a random point at distance rho: that of the loss smoothed over the sphere, on average."""
    rng = generator(moment.seed, "smoothing", moment.step)
    direction = torch.randn(point.shape, generator=rng, dtype=point.dtype).to(point.device)
    return Step(*batch.whole(point + rho * direction / direction.norm()), moment.epsilon)


@dataclass(frozen=True)
class Variant:
    """A rule, and the share of its iterates whose mean is the answer; 0: the last alone."""

    rule: Rule
    averaged: float = 0.0


def variants(params: Params) -> dict[str, Variant]:
    """Every variant by its name in the scores, plain descent and SAM first."""
    return {
        "plain": Variant(plain),
        "sam": Variant(sam),
        **{f"every {period}": Variant(partial(every, period)) for period in params.periods},
        "carried": Variant(carried),
        "per task": Variant(per_task),
        "smoothed": Variant(smoothed),
        "averaged": Variant(plain, params.averaged),
    }


class Descent(NamedTuple):
    """A run of a rule."""

    path: Tensor
    """[steps, T, G]: the coefficients after every step."""
    passes: tuple[int, ...]
    """The images of every forward and backward pass; each pass merged once."""


def descend(
    problem: Problem, objective: Objective, schedule: Schedule, seed: int, params: samerging.Params, rule: Rule
) -> Descent:
    """`calibrate.descend` with a rule for the gradient in place of plain descent or SAM."""
    drawn = streams(problem, schedule.batch_size, seed)
    sample = next(iter(problem.vectors.values()))
    shape = (len(sample), len(problem.vectors))
    point = torch.full(shape, params.initial_coefficient, dtype=sample.dtype, device=sample.device)
    optimiser = torch.optim.Adam([point], lr=schedule.lr, weight_decay=params.weight_decay)
    epsilon, path, passes = torch.zeros_like(point), [], []
    for step in range(schedule.steps):
        chosen = tuple(next(stream).to(sample.device) for stream in drawn)
        batch = _batch(problem, objective, chosen, passes)
        loss, point.grad, epsilon = rule(batch, point, Moment(step, seed, epsilon), params.rho)
        optimiser.step()
        require_finite(step, loss, point)
        path.append(point.clone())
    return Descent(torch.stack(path), tuple(passes))


def _batch(problem: Problem, objective: Objective, chosen: tuple[Tensor, ...], passes: list[int]) -> Batch:
    """The functions of a batch; each call notes its number of images in `passes`."""

    def function(part: Problem, batches: tuple[Tensor, ...], point: Tensor) -> tuple[Tensor, Tensor]:
        passes.append(sum(map(len, batches)))
        return gradient(part, objective, point, batches)

    tasks = [partial(function, _only(problem, task), (batch,)) for task, batch in enumerate(chosen)]
    return Batch(partial(function, problem, chosen), tasks)


def _only(problem: Problem, task: int) -> Problem:
    """The problem with one task's images, and all task vectors."""
    parts = {name: getattr(problem, name)[task : task + 1] for name in ("heads", "images", "teachers", "tasks")}
    return replace(problem, **parts)


def tail(path: Tensor, share: float) -> Tensor:
    """The mean of the last iterates, a share of the path; never fewer than one."""
    return path[-max(1, round(share * len(path))) :].mean(0)


def rise(losses: Callable[[Tensor], Tensor], slope: Tensor, point: Tensor, rho: float) -> tuple[Tensor, Tensor]:
    """(losses [T] at `point`, how much each rises [T] where their sum is greatest: at RADII of rho along the slope)."""
    here, direction = losses(point), perturbation(point, slope, rho, "sam")
    found = torch.stack([losses(point + share * direction) for share in RADII])
    return here, found[found.sum(1).argmax()] - here


def task_losses(problem: Problem, objective: Objective, point: Tensor) -> Tensor:
    """The objective [T] on all images of every task, without gradients."""
    merged = merge(problem.base, problem.vectors, point)
    with torch.no_grad(), rounded(problem.images[0].device, problem.precision):
        features = [problem.encoder(merged, images).to(problem.heads[0].dtype) for images in problem.images]
    pairs = zip(features, problem.heads, problem.teachers, strict=True)
    return torch.stack([objective(found @ head.T, teacher) for found, head, teacher in pairs])


def measure(setting: Setting, params: Params, name: str, seed: int, split: str) -> dict[str, list]:
    """{task: the columns from `samples` to `rise`} of one variant and seed; scored on a split."""
    suite = SuiteFolder(setting.suite)
    drawn = indices(suite, setting.split, params.samples + params.held_out, seed)
    everything, variant = learned(problem(setting, drawn)), variants(params)[name]
    counts = [fitted(len(pool), params) for pool in everything.images]
    seen = _cut(everything, [slice(count) for count in counts])
    held = _cut(everything, [slice(count, None) for count in counts])
    objective = distillation(setting.params.temperature)
    descent = descend(seen, objective, setting.schedule, seed, setting.params, variant.rule)
    point = tail(descent.path, variant.averaged)
    whole = completed(point.cpu(), suite.suite.groups, setting.params.initial_coefficient)
    found = marks(replies(storage.serve(suite, Solution(whole)), on(suite, split), f"flatness, {name}"))
    everyone = tuple(torch.arange(len(pool), device=point.device) for pool in held.images)
    _, slope = gradient(held, objective, point, everyone)
    measured = rise(partial(task_losses, held, objective), slope, point, setting.params.rho)
    cost = (len(descent.passes), sum(descent.passes))
    losses, rises = (values.tolist() for values in measured)
    return {
        task: [used, *found[task], *cost, loss, worse]
        for task, used, loss, worse in zip(suite.suite.task_names, counts, losses, rises, strict=True)
    }


def fitted(drawn: int, params: Params) -> int:
    """How many of a task's `drawn` images are calibrated on; the others are held out."""
    return min(params.samples, drawn * params.samples // (params.samples + params.held_out))


def _cut(problem: Problem, parts: Sequence[slice]) -> Problem:
    """The problem with some of every task's images."""
    images, teachers = (
        tuple(pool[part] for pool, part in zip(pools, parts, strict=True))
        for pools in (problem.images, problem.teachers)
    )
    return replace(problem, images=images, teachers=teachers)


def rows(setting: Setting, params: Params, seeds: Sequence[int], split: str, work: Resumable) -> list[tuple]:
    """Rows of all variants and seeds, see COLUMNS; TooFew or `memory.NoRoom` before the first one starts."""
    suite, wanted = SuiteFolder(setting.suite), params.samples + params.held_out
    for task in suite.suite.task_names:
        pool = len(suite.images(setting.split, task))
        if not 0 < fitted(min(pool, wanted), params) < pool:
            raise TooFew(
                f"study.flatness: {task} has {pool} images in its {setting.split} split, too few to share between "
                f"samples = {params.samples} and held_out = {params.held_out}; choose another calibration_split, or "
                f"numbers closer to each other"
            )
    todo = [(name, seed) for name in variants(params) for seed in seeds]
    found = work.run(measure, [(setting, params, *one, split) for one in todo], "flatness", need(setting, wanted))
    return [
        (name, params.samples, suite.suite.name, setting.method, task, seed, *_text(measured[task]))
        for (name, seed), measured in zip(todo, found, strict=True)
        for task in suite.suite.task_names
    ]


def _text(values: Sequence[int | float | str]) -> list[int | str]:
    """Counts and answers as they are, measurements to six digits."""
    return [f"{value:.6g}" if isinstance(value, float) else value for value in values]
