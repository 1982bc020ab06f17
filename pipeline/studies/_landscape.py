"""What the landscape study computes: losses at mixtures of solutions, rises around one, its Hessian; and planes.

Functions of paths and numbers, as cells need them. Coefficients are those of the groups with a gradient: no loss
depends on the others. See `pipeline.studies.landscape`.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline.calibration import memory
from pipeline.calibration.descent import gradient, learned
from pipeline.calibration.objectives import Objective, distillation
from pipeline.calibration.problem import Problem
from pipeline.calibration.sharpness import LossAndGradient
from pipeline.merges import storage
from pipeline.models.features import encode
from pipeline.models.sampling import draw
from pipeline.models.suite import SuiteFolder
from pipeline.models.task_vectors import merge
from pipeline.models.weights import Weights, has_gradient, to_device
from pipeline.runtime.device import device
from pipeline.runtime.errors import BenchmarkError
from pipeline.steps.refinement import solution
from pipeline.studies._curvature import ascend, directions, product, signs, top_eigenvector

MARGIN = 0.75
"""How far a plane reaches from its middle: this times the longer side of the box around its three points."""
Space = tuple[Callable[[Tensor], Weights], LossAndGradient]
"""A point's weights; its loss, summed over tasks, and gradient."""


class Place(NamedTuple):
    """Where the loss is measured: a draw of a split's images."""

    suite: Path
    split: str
    images: int
    seed: int
    temperature: float


class End(NamedTuple):
    """Coefficients by name: the `index`-th merge of an artefact, or without one all of task `index` and no other."""

    artefact: Path | None
    index: int


def look(place: Place) -> tuple[Problem, tuple[Tensor, ...]]:
    """The images of a place with what the experts answer on them, and their labels, all in the order of the tasks."""
    suite, target = SuiteFolder(place.suite), device()
    tasks, encoder, base = suite.suite.task_names, suite.suite.encoder(), to_device(suite.base(), target)
    heads = tuple(suite.heads()[task].to(target) for task in tasks)
    pools = {task: suite.images(place.split, task) for task in tasks}
    chosen = {task: draw(len(pool), place.images, place.seed, task).numpy() for task, pool in pools.items()}
    taught = [
        encode(encoder, {**base, **to_device(suite.expert(task), target)}, pools[task][chosen[task]], target) @ head.T
        for task, head in zip(tasks, heads, strict=True)
    ]
    return (
        learned(
            Problem(
                encoder=encoder,
                base=base,
                vectors=to_device(suite.vectors(), target),
                heads=heads,
                images=tuple(torch.from_numpy(pools[task][chosen[task]]).to(target) for task in tasks),
                teachers=tuple(logits.clone() for logits in taught),
                tasks=tasks,
                images_per_pass=memory.images_per_pass(suite.suite, target),
            )
        ),
        tuple(torch.from_numpy(suite.labels(place.split, task)[chosen[task]]).to(target) for task in tasks),
    )


def coefficients(end: End, like: Problem) -> Tensor:
    """Its coefficients [T, G]."""
    sample = next(iter(like.vectors.values()))
    if end.artefact is not None:
        return solved(end.artefact, end.index).to(sample)
    found = sample.new_zeros(len(like.tasks), len(like.vectors))
    found[end.index] = 1
    return found


def solved(artefact: Path, index: int) -> Tensor:
    """The coefficients [T, G] of the `index`-th merge of an artefact."""
    about, _ = storage.load(artefact)
    columns = torch.tensor([has_gradient(name) for name in about["groups"]])
    return solution(artefact, index).coefficients[:, columns]


def logits(problem: Problem, weights: Mapping[str, Tensor], task: int) -> Tensor:
    """The merged model's logits on the images of a task."""
    return problem.encoder(weights, problem.images[task]) @ problem.heads[task].T


def mixtures(
    place: Place, ends: Sequence[End], shares: Sequence[Sequence[float]], tasks: Sequence[int]
) -> list[list[list[float]]]:
    """[loss, correct, total] per task of every mixture: sum of share times coefficients of the ends."""
    problem, labels = look(place)
    objective, found = distillation(place.temperature), []
    corners = torch.stack([coefficients(end, problem) for end in ends])
    for each in shares:
        mixed = torch.tensordot(torch.tensor(each).to(corners), corners, dims=1)
        weights = merge(problem.base, problem.vectors, mixed)
        measured = []
        with torch.inference_mode():
            for task in tasks:
                answer = logits(problem, weights, task)
                right = int((answer.argmax(1) == labels[task]).sum())
                measured.append([float(objective(answer, problem.teachers[task])), right, len(answer)])
        found.append(measured)
    return found


def rises(place: Place, end: End, space: str, radii: Sequence[float], steps: int, count: int) -> list[list[object]]:
    """[direction, radius, loss per task] around a solution: worst, found by ascent; random, a mean of `count`.

    `space`: "coefficients", or "weights": all merged tensors as one vector. Radius 0 is the solution.
    """
    problem, _ = look(place)
    objective, centre = distillation(place.temperature), coefficients(end, problem)
    form, slope = (_in_weights if space == "weights" else _in_coefficients)(problem, objective)
    if space == "weights":
        merged = merge(problem.base, problem.vectors, centre)
        centre = torch.cat([merged[name].flatten() for name in problem.vectors])

    def losses(point: Tensor) -> list[float]:
        weights = form(point)
        with torch.inference_mode():
            return [
                float(objective(logits(problem, weights, at), taught)) for at, taught in enumerate(problem.teachers)
            ]

    found: list[list[object]] = [[direction, 0.0, losses(centre)] for direction in ("worst", "random")]
    for radius in radii:
        worst = losses(centre + ascend(slope, centre, radius, steps))
        random = [losses(centre + radius * one) for one in directions(centre, count, place.seed)]
        found += [["worst", radius, worst], ["random", radius, np.mean(random, axis=0).tolist()]]
    return found


def _in_coefficients(problem: Problem, objective: Objective) -> Space:
    whole = tuple(torch.arange(len(pool), device=pool.device) for pool in problem.images)
    return (
        lambda point: merge(problem.base, problem.vectors, point),
        lambda point: gradient(problem, objective, point, whole),
    )


def _in_weights(problem: Problem, objective: Objective) -> Space:
    shapes = {name: problem.base[name].shape for name in problem.vectors}

    def form(point: Tensor) -> Weights:
        parts = point.split([shape.numel() for shape in shapes.values()])
        return {**problem.base, **{name: part.view(shapes[name]) for name, part in zip(shapes, parts, strict=True)}}

    def slope(point: Tensor) -> tuple[Tensor, Tensor]:
        leaf, total, down = point.detach().requires_grad_(), point.new_zeros(()), torch.zeros_like(point)
        for task, taught in enumerate(problem.teachers):
            loss = objective(logits(problem, form(leaf), task), taught)
            total, down = total + loss.detach(), down + torch.autograd.grad(loss, leaf)[0]
        return total, down

    return form, slope


def spectrum(place: Place, end: End, tolerance: float, count: int) -> dict[str, list[float]]:
    """eigenvalue and trace of the Hessian with respect to the coefficients, per task; error: of the whole trace."""
    problem, _ = look(place)
    objective, centre = distillation(place.temperature), coefficients(end, problem)

    def bent(vector: Tensor) -> Tensor:
        """H_t v of every task, [T, T, G]: one task at a time, for the memory that second derivatives take."""
        tasks = range(len(problem.tasks))
        return torch.stack([product(lambda point, task=task: loss(point, task), centre, vector) for task in tasks])

    def loss(point: Tensor, task: int) -> Tensor:
        return objective(logits(problem, merge(problem.base, problem.vectors, point), task), problem.teachers[task])

    def along(vector: Tensor) -> Tensor:
        """v' H_t v of every task [T]."""
        return (bent(vector) * vector).sum((1, 2)).double()

    top = top_eigenvector(lambda vector: bent(vector).sum(0), centre, place.seed, tolerance)
    draws = torch.stack([along(vector) for vector in signs(centre, count, place.seed)])
    return {
        "eigenvalue": along(top).tolist(),
        "trace": draws.mean(0).tolist(),
        "error": [float(draws.sum(1).std() / count**0.5)],
    }


class Degenerate(BenchmarkError):
    """Two solutions that span no plane."""


def coordinates(first: Tensor, second: Tensor, names: Sequence[str] = ("first", "second")) -> Tensor:
    """Where zero, `first` and `second` lie in the plane through them [3, 2]: the first axis points to `first`.

    Distances are those between the points. Raises Degenerate if the three lie on a line.
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


def shares(corners: Tensor, places: Tensor) -> Tensor:
    """Shares of `first` and `second` [N, 2] at places [N, 2] of the plane whose `coordinates` are `corners`."""
    return torch.linalg.solve(corners[1:].T, places.T.double()).T


def axes(corners: Tensor, points: int) -> tuple[list[float], list[float]]:
    """The values of x and of y of a square grid around the points of a plane."""
    low, high = corners.min(0).values, corners.max(0).values
    middle, half = (low + high) / 2, MARGIN * float((high - low).max())
    return tuple(torch.linspace(float(at) - half, float(at) + half, points).tolist() for at in middle)
