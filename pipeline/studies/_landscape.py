"""Computations of the landscape study: losses at mixtures of solutions, rises around one, its Hessian; and planes.

Pieces of work are functions of paths and numbers. Coefficients are those of the groups with a gradient: no loss depends
on the others. See `pipeline.studies.landscape`.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from pipeline.calibration import memory
from pipeline.calibration.descent import coefficient_gradient, select_learned
from pipeline.calibration.objectives import Objective, distillation
from pipeline.calibration.problem import Problem
from pipeline.calibration.sharpness import LossAndGradient
from pipeline.merges import storage
from pipeline.models.examples import cut_padding, encode
from pipeline.models.suite import SuiteFolder
from pipeline.models.task_vectors import merge
from pipeline.models.weights import Weights, has_gradient, to_device
from pipeline.runtime.device import device
from pipeline.runtime.errors import BenchmarkError
from pipeline.statistics.sampling import sample_indices
from pipeline.steps.refinement import load_solution
from pipeline.studies._curvature import ascend, hessian_product, sample_directions, sample_signs, top_eigenvector

MARGIN = 0.75
"""Half the side of a plane's grid, in longer sides of the box around its three points."""
Space = tuple[Callable[[Tensor], Weights], LossAndGradient]
"""Functions of a point: its weights; its loss, summed over tasks, and the gradient."""


class Place(NamedTuple):
    """The examples that the loss is measured on: a draw from a split."""

    suite: Path
    split: str
    examples: int
    seed: int
    temperature: float


class End(NamedTuple):
    """A reference to coefficients: the `index`-th merge of an artefact or, without one, task vector `index` alone."""

    artefact: Path | None
    index: int


def load_place(place: Place) -> tuple[Problem, tuple[Tensor, ...]]:
    """Return the examples of a place with the experts' logits on them, and their labels, in the order of the tasks."""
    suite, target = SuiteFolder(place.suite), device()
    tasks, encoder, base = suite.suite.task_names, suite.suite.encoder(), to_device(suite.base(), target)
    heads = tuple(suite.heads()[task].to(target) for task in tasks)
    pools = {task: suite.examples(place.split, task) for task in tasks}
    indices = {
        task: sample_indices(len(pool), place.examples, place.seed, task).numpy() for task, pool in pools.items()
    }
    teachers = [
        encode(encoder, {**base, **to_device(suite.expert(task), target)}, pools[task][indices[task]], target) @ head.T
        for task, head in zip(tasks, heads, strict=True)
    ]
    return (
        select_learned(
            Problem(
                encoder=encoder,
                base=base,
                vectors=to_device(suite.vectors(), target),
                heads=heads,
                examples=tuple(torch.from_numpy(pools[task][indices[task]]).to(target) for task in tasks),
                teachers=tuple(logits.clone() for logits in teachers),
                tasks=tasks,
                examples_per_pass=memory.examples_per_pass(encoder, suite.blank(), target),
            )
        ),
        tuple(torch.from_numpy(suite.labels(place.split, task)[indices[task]]).to(target) for task in tasks),
    )


def coefficients(end: End, problem: Problem) -> Tensor:
    """Return the coefficients [T, G] of an end, with the dtype and on the device of the problem's task vectors."""
    sample = next(iter(problem.vectors.values()))
    if end.artefact is not None:
        return read_coefficients(end.artefact, end.index).to(sample)
    one_hot = sample.new_zeros(len(problem.tasks), len(problem.vectors))
    one_hot[end.index] = 1
    return one_hot


def read_coefficients(artefact: Path, index: int) -> Tensor:
    """Return the coefficients [T, G] of the `index`-th merge of an artefact."""
    record, _ = storage.load(artefact)
    columns = torch.tensor([has_gradient(name) for name in record["groups"]])
    return cast(Tensor, load_solution(artefact, index).coefficients)[:, columns]


def logits(problem: Problem, weights: Mapping[str, Tensor], task: int) -> Tensor:
    """Return the merged model's logits on the examples of a task."""
    return problem.encoder(weights, cut_padding(problem.examples[task])) @ problem.heads[task].T


def score_mixtures(
    place: Place, ends: Sequence[End], shares: Sequence[Sequence[float]], tasks: Sequence[int]
) -> list[list[list[float]]]:
    """Return [loss, correct, total] per task of every mixture: the sum of share times coefficients of the ends."""
    problem, labels = load_place(place)
    objective, mixtures = distillation(place.temperature), []
    corners = torch.stack([coefficients(end, problem) for end in ends])
    for mixture in shares:
        point = torch.tensordot(torch.tensor(mixture).to(corners), corners, dims=1)
        weights = merge(problem.base, problem.vectors, point)
        by_task = []
        with torch.inference_mode():
            for task in tasks:
                predicted = logits(problem, weights, task)
                correct = int((predicted.argmax(1) == labels[task]).sum())
                by_task.append([float(objective(predicted, problem.teachers[task])), correct, len(predicted)])
        mixtures.append(by_task)
    return mixtures


def measure_rises(
    place: Place, end: End, space: str, radii: Sequence[float], steps: int, count: int
) -> list[list[object]]:
    """Return [direction, radius, loss per task] around a solution: worst, found by ascent; random, a mean of `count`.

    `space`: "coefficients", or "weights": all merged tensors as one vector. Radius 0 is the solution.
    """
    problem, _ = load_place(place)
    objective, centre = distillation(place.temperature), coefficients(end, problem)
    form, slope = (_in_weights if space == "weights" else _in_coefficients)(problem, objective)
    if space == "weights":
        merged = merge(problem.base, problem.vectors, centre)
        centre = torch.cat([merged[name].flatten() for name in problem.vectors])

    def losses(point: Tensor) -> list[float]:
        weights = form(point)
        with torch.inference_mode():
            return [
                float(objective(logits(problem, weights, task), teacher))
                for task, teacher in enumerate(problem.teachers)
            ]

    rises: list[list[object]] = [[direction, 0.0, losses(centre)] for direction in ("worst", "random")]
    for radius in radii:
        worst = losses(centre + ascend(slope, centre, radius, steps))
        random = [losses(centre + radius * unit) for unit in sample_directions(centre, count, place.seed)]
        rises += [["worst", radius, worst], ["random", radius, np.mean(random, axis=0).tolist()]]
    return rises


def _in_coefficients(problem: Problem, objective: Objective) -> Space:
    whole = tuple(torch.arange(len(pool), device=pool.device) for pool in problem.examples)
    return (
        lambda point: merge(problem.base, problem.vectors, point),
        lambda point: coefficient_gradient(problem, objective, point, whole),
    )


def _in_weights(problem: Problem, objective: Objective) -> Space:
    shapes = {name: problem.base[name].shape for name in problem.vectors}

    def form(point: Tensor) -> Weights:
        parts = point.split([shape.numel() for shape in shapes.values()])
        return {**problem.base, **{name: part.view(shapes[name]) for name, part in zip(shapes, parts, strict=True)}}

    def slope(point: Tensor) -> tuple[Tensor, Tensor]:
        leaf, total, down = point.detach().requires_grad_(), point.new_zeros(()), torch.zeros_like(point)
        for task, teacher in enumerate(problem.teachers):
            loss = objective(logits(problem, form(leaf), task), teacher)
            total, down = total + loss.detach(), down + torch.autograd.grad(loss, leaf)[0]
        return total, down

    return form, slope


def estimate_spectrum(place: Place, end: End, tolerance: float, count: int) -> dict[str, list[float]]:
    """Estimate the Hessian with respect to the coefficients of a solution.

    Returns `eigenvalue` (the largest) and `trace`, both per task, and `error`: the standard error of the whole trace,
    which is a mean over `count` random vectors. `tolerance`: relative accuracy of the eigenvalue.
    """
    problem, _ = load_place(place)
    objective, centre = distillation(place.temperature), coefficients(end, problem)

    def products(vector: Tensor) -> Tensor:
        """Return H_t v of every task, [T, T, G]: one task at a time, as second derivatives take much memory."""
        tasks = range(len(problem.tasks))
        return torch.stack(
            [hessian_product(lambda point, task=task: loss(point, task), centre, vector) for task in tasks]
        )

    def loss(point: Tensor, task: int) -> Tensor:
        return objective(logits(problem, merge(problem.base, problem.vectors, point), task), problem.teachers[task])

    def quadratic(vector: Tensor) -> Tensor:
        """Return v' H_t v of every task [T]."""
        return (products(vector) * vector).sum((1, 2)).double()

    top = top_eigenvector(lambda vector: products(vector).sum(0), centre, place.seed, tolerance)
    draws = torch.stack([quadratic(vector) for vector in sample_signs(centre, count, place.seed)])
    return {
        "eigenvalue": quadratic(top).tolist(),
        "trace": draws.mean(0).tolist(),
        "error": [float(draws.sum(1).std() / count**0.5)],
    }


class Degenerate(BenchmarkError):
    """Two solutions do not span a plane."""


def coordinates(first: Tensor, second: Tensor, names: Sequence[str] = ("first", "second")) -> Tensor:
    """Return the positions [3, 2] of zero, `first` and `second` in their plane: the first axis points to `first`.

    Distances between the points are preserved. Raises Degenerate if the three lie on a line; `names`: for its message.
    """
    length = first.double().norm()
    along = (first.double() * second).sum() / length
    across = (second - along * first / length).double().norm()
    if not (length > 0 and across > 1e-6 * length):
        raise Degenerate(
            f"{names[0]} and {names[1]} lie on a line with the pre-trained model, expected two directions; choose "
            f"another pair in study.landscape.pairs"
        )
    return torch.tensor([[0, 0], [length, 0], [along, across]], dtype=torch.float64)


def solve_shares(corners: Tensor, points: Tensor) -> Tensor:
    """Return the shares of `first` and `second` [N, 2] at points [N, 2] of the plane with `coordinates` `corners`."""
    return torch.linalg.solve(corners[1:].T, points.T.double()).T


def axes(corners: Tensor, points: int) -> tuple[list[float], ...]:
    """Return the values of x and of y of a square grid around the corners of a plane, `points` on each axis."""
    low, high = corners.min(0).values, corners.max(0).values
    middle, half = (low + high) / 2, MARGIN * float((high - low).max())
    return tuple(torch.linspace(float(at) - half, float(at) + half, points).tolist() for at in middle)
