"""Flatness: alternatives to SAM's second pass.

SAM merges, and runs a forward and a backward pass, twice per step. The rules below need fewer passes, or perturb
differently; each is a function of a batch's loss and gradient, so that it can be checked on a quadratic:

    plain          the gradient at lambda
    sam            at lambda + rho g / |g|, one perturbation for all tasks (arXiv 2010.01412)
    every <n>      sam at every n-th step, plain between
    carried        at lambda + the perturbation that the previous step computed: one pass
    per task       every task's gradient at its own worst point
    smoothed       at lambda + rho u, u uniform on the sphere
    averaged       plain, and the mean of the last iterates is the solution: flat without any perturbation
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, NamedTuple, cast

import torch
from pydantic import Field
from torch import Tensor

from pipeline.calibration.adam import Adam
from pipeline.calibration.descent import coefficient_gradient, expand_learned, select_learned
from pipeline.calibration.objectives import Objective, distillation
from pipeline.calibration.problem import Problem, require_finite, stream_batches
from pipeline.calibration.sharpness import LossAndGradient, perturbation, sharp_gradient
from pipeline.merges import storage
from pipeline.merges.solution import Solution
from pipeline.methods import samerging
from pipeline.models.examples import cut_padding
from pipeline.models.suite import SuiteFolder
from pipeline.models.task_vectors import merge
from pipeline.runtime.errors import BenchmarkError
from pipeline.runtime.resumable import Resumable
from pipeline.runtime.schema import DISTINCT, Parameters, Schedule, autocast
from pipeline.statistics.sampling import generator
from pipeline.steps.calibrate import Setting, draw_indices, load_problem, require_memory
from pipeline.steps.evaluate import open_split, predict_classes
from pipeline.studies._trials import TRIAL_COLUMNS, mark_answers

COLUMNS = (*TRIAL_COLUMNS, "merges", "passed", "loss", "rise")
"""In addition to the scores: models merged (`merges`) and examples sent forward and backward (`passed`) while
calibrating; the task's loss on held-out calibration examples, and its rise at the worst point."""
RADII = (0.25, 0.5, 0.75, 1.0)
"""Distances along the gradient, in rho, at which the worst point is searched."""


class Params(Parameters):
    """The grid."""

    samples: int = Field(ge=1)
    """Unlabelled examples per task."""
    held_out: int = Field(ge=1)
    """More examples of the calibration pool per task, for the loss and its rise; never calibrated on. A smaller pool is
    shared between the two in the same proportion."""
    periods: Annotated[list[Annotated[int, Field(ge=2)]], Field(min_length=1), DISTINCT]
    """Values of n in `every <n>`: SAM at every n-th step only."""
    averaged: float = Field(gt=0, le=1)
    """Share of the iterates, the last ones, whose mean is the solution of `averaged`."""


class TooFew(BenchmarkError):
    """A task has too few calibration examples to hold some out."""


class Batch(NamedTuple):
    """A step's loss as functions of the coefficients: of all tasks together, and of each."""

    whole: LossAndGradient
    tasks: Sequence[LossAndGradient]


class Moment(NamedTuple):
    """The position of a step in a run."""

    step: int
    seed: int
    epsilon: Tensor
    """The perturbation that the previous step left; zero at the first."""


class Step(NamedTuple):
    """The result of a rule."""

    loss: Tensor
    slope: Tensor
    """The gradient to descend."""
    epsilon: Tensor
    """The perturbation for the next step."""


Rule = Callable[[Batch, Tensor, Moment, float], Step]
"""(batch, coefficients, moment, rho) -> step."""


def plain(batch: Batch, point: Tensor, moment: Moment, rho: float) -> Step:
    """Return the gradient at the point itself."""
    del rho
    return Step(*batch.whole(point), moment.epsilon)


def sam(batch: Batch, point: Tensor, moment: Moment, rho: float) -> Step:
    """Return the gradient at the worst point within rho for the sum over tasks."""
    return Step(*sharp_gradient(batch.whole, point, rho, "sam"), moment.epsilon)


def sam_every(period: int, batch: Batch, point: Tensor, moment: Moment, rho: float) -> Step:
    """Apply `sam` at steps 0, period, 2 period ..., else `plain`."""
    rule = plain if moment.step % period else sam
    return rule(batch, point, moment, rho)


def carried(batch: Batch, point: Tensor, moment: Moment, rho: float) -> Step:
    """Return the gradient at the previous step's perturbation, in one pass; it yields the next perturbation.

    The first step is plain.
    """
    loss, slope = batch.whole(point + moment.epsilon)
    return Step(loss, slope, perturbation(point, slope, rho, "sam"))


def sam_per_task(batch: Batch, point: Tensor, moment: Moment, rho: float) -> Step:
    """Return the sum of every task's gradient at the worst point within rho for that task alone."""
    losses, slopes = zip(*(sharp_gradient(task, point, rho, "sam") for task in batch.tasks), strict=True)
    return Step(torch.stack(losses).sum(), torch.stack(slopes).sum(0), moment.epsilon)


def smoothed(batch: Batch, point: Tensor, moment: Moment, rho: float) -> Step:
    """Return the gradient at a random point at distance rho: on average, that of the loss smoothed over the sphere."""
    rng = generator(moment.seed, "smoothing", moment.step)
    direction = torch.randn(point.shape, generator=rng, dtype=point.dtype).to(point.device)
    return Step(*batch.whole(point + rho * direction / direction.norm()), moment.epsilon)


@dataclass(frozen=True)
class Variant:
    """A rule, and the share of its iterates whose mean is the solution; 0: the last alone."""

    rule: Rule
    averaged: float = 0.0


def list_variants(params: Params) -> dict[str, Variant]:
    """Return every variant by its name in the scores, plain descent and SAM first."""
    return {
        "plain": Variant(plain),
        "sam": Variant(sam),
        **{f"every {period}": Variant(partial(sam_every, period)) for period in params.periods},
        "carried": Variant(carried),
        "per task": Variant(sam_per_task),
        "smoothed": Variant(smoothed),
        "averaged": Variant(plain, params.averaged),
    }


class Descent(NamedTuple):
    """A run of a rule."""

    path: Tensor
    """[steps, T, G]: the coefficients after every step."""
    passes: tuple[int, ...]
    """The number of examples of every forward and backward pass; each pass merged once."""


def descend_by_rule(
    problem: Problem, objective: Objective, schedule: Schedule, seed: int, params: samerging.Params, rule: Rule
) -> Descent:
    """Descend like `pipeline.calibration.descent.descend`, but with the gradient of a rule."""
    streams = stream_batches(problem, schedule.batch_size, seed)
    sample = next(iter(problem.vectors.values()))
    shape = (len(sample), len(problem.vectors))
    point = torch.full(shape, params.initial_coefficient, dtype=sample.dtype, device=sample.device)
    optimiser = Adam(point, schedule.lr, params.weight_decay)
    epsilon, path, passes = torch.zeros_like(point), [], []
    for step in range(schedule.steps):
        indices = tuple(next(stream).to(sample.device) for stream in streams)
        batch = _batch(problem, objective, indices, passes)
        loss, slope, epsilon = rule(batch, point, Moment(step, seed, epsilon), params.rho)
        optimiser.step(slope)
        require_finite(step, loss, point)
        path.append(point.clone())
    return Descent(torch.stack(path), tuple(passes))


def _batch(problem: Problem, objective: Objective, indices: tuple[Tensor, ...], passes: list[int]) -> Batch:
    """Return the functions of a batch; each call appends its number of examples to `passes`."""

    def function(part: Problem, batches: tuple[Tensor, ...], point: Tensor) -> tuple[Tensor, Tensor]:
        passes.append(sum(map(len, batches)))
        return coefficient_gradient(part, objective, point, batches)

    tasks = [partial(function, _only(problem, task), (batch,)) for task, batch in enumerate(indices)]
    return Batch(partial(function, problem, indices), tasks)


def _only(problem: Problem, task: int) -> Problem:
    """Return the problem with one task's examples, and all task vectors."""
    parts = {name: getattr(problem, name)[task : task + 1] for name in ("heads", "examples", "teachers", "tasks")}
    return replace(problem, **parts)


def average_tail(path: Tensor, share: float) -> Tensor:
    """Return the mean of the last iterates, a share of the path; never fewer than one."""
    return path[-max(1, round(share * len(path))) :].mean(0)


def measure_rise(losses: Callable[[Tensor], Tensor], slope: Tensor, point: Tensor, rho: float) -> tuple[Tensor, Tensor]:
    """Return the losses [T] at `point`, and the rise of each [T] where their sum is greatest.

    The worst point is searched at RADII of rho along the slope.
    """
    start, direction = losses(point), perturbation(point, slope, rho, "sam")
    nearby = torch.stack([losses(point + share * direction) for share in RADII])
    return start, nearby[nearby.sum(1).argmax()] - start


def task_losses(problem: Problem, objective: Objective, point: Tensor) -> Tensor:
    """Return the objective [T] on all examples of every task, without gradients."""
    merged = merge(problem.base, problem.vectors, point)
    with torch.no_grad(), autocast(problem.examples[0].device, problem.precision):
        features = [problem.encoder(merged, cut_padding(pool)).to(problem.heads[0].dtype) for pool in problem.examples]
    pairs = zip(features, problem.heads, problem.teachers, strict=True)
    return torch.stack([objective(encoded @ head.T, teacher) for encoded, head, teacher in pairs])


def measure_variant(setting: Setting, params: Params, name: str, seed: int, split: str) -> dict[str, list]:
    """Calibrate one variant and seed; return {task: the columns from `k` to `rise`}, scored on a split.

    `setting`: of SAMerging.
    """
    suite = SuiteFolder(setting.suite)
    draws = draw_indices(suite, setting.split, params.samples + params.held_out, seed)
    problem, variant = select_learned(load_problem(setting, draws)), list_variants(params)[name]
    counts = [count_fitted(len(pool), params) for pool in problem.examples]
    fitted = _cut(problem, [slice(count) for count in counts])
    held_out = _cut(problem, [slice(count, None) for count in counts])
    objective = distillation(cast(samerging.Params, setting.params).temperature)
    descent = descend_by_rule(
        fitted, objective, setting.schedule, seed, cast(samerging.Params, setting.params), variant.rule
    )
    point = average_tail(descent.path, variant.averaged)
    coefficients = expand_learned(
        point.cpu(), suite.suite.groups, cast(samerging.Params, setting.params).initial_coefficient
    )
    marks = mark_answers(
        predict_classes(storage.serve(suite, Solution(coefficients)), open_split(suite, split), f"flatness, {name}")
    )
    whole = tuple(torch.arange(len(pool), device=point.device) for pool in held_out.examples)
    _, slope = coefficient_gradient(held_out, objective, point, whole)
    measured = measure_rise(
        partial(task_losses, held_out, objective), slope, point, cast(samerging.Params, setting.params).rho
    )
    cost = (len(descent.passes), sum(descent.passes))
    losses, rises = (values.tolist() for values in measured)
    return {
        task: [used, *marks[task], *cost, loss, rise]
        for task, used, loss, rise in zip(suite.suite.task_names, counts, losses, rises, strict=True)
    }


def count_fitted(drawn: int, params: Params) -> int:
    """Return how many of a task's `drawn` examples are calibrated on; the others are held out."""
    return min(params.samples, drawn * params.samples // (params.samples + params.held_out))


def _cut(problem: Problem, parts: Sequence[slice]) -> Problem:
    """Return the problem with some of every task's examples."""
    examples, teachers = (
        tuple(pool[part] for pool, part in zip(pools, parts, strict=True))
        for pools in (problem.examples, problem.teachers)
    )
    return replace(problem, examples=examples, teachers=teachers)


def score_variants(setting: Setting, params: Params, seeds: Sequence[int], split: str, work: Resumable) -> list[tuple]:
    """Return the rows of all variants and seeds, with the columns COLUMNS.

    `setting`: of SAMerging. Raises TooFew or `memory.NotEnoughMemory` before the first calibration starts.
    """
    suite, total = SuiteFolder(setting.suite), params.samples + params.held_out
    for task in suite.suite.task_names:
        pool = len(suite.examples(setting.split, task))
        if not 0 < count_fitted(min(pool, total), params) < pool:
            raise TooFew(
                f"study.flatness: {task} has {pool} examples in its {setting.split} split, too few to share between "
                f"samples = {params.samples} and held_out = {params.held_out}; choose another calibration_split, or "
                f"numbers closer to each other"
            )
    runs = [(name, seed) for name in list_variants(params) for seed in seeds]
    results = work.run(
        measure_variant,
        [(setting, params, *run, split) for run in runs],
        "flatness",
        require_memory(setting, total),
    )
    return [
        (name, params.samples, suite.suite.name, setting.method, task, seed, *_text(values[task]))
        for (name, seed), values in zip(runs, results, strict=True)
        for task in suite.suite.task_names
    ]


def _text(values: Sequence[int | float | str]) -> list[int | str]:
    """Return counts and marks as they are, measurements to six digits."""
    return [f"{value:.6g}" if isinstance(value, float) else value for value in values]
