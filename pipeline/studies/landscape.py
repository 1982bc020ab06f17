"""The loss landscape of the coefficients: planes, segments, and how sharp each method's solution is.

The loss is the distillation objective summed over tasks, KL(expert || merged), on examples that no method was fitted to
(the validation split). It judges every method, including those that minimised another objective. A plane is spanned by
two solutions and lambda = 0, the pre-trained model, with Euclidean distances of lambda on both axes, or by two task
vectors. Sharpness is measured around each solution, in lambda [T, G] and in the merged weights: see
`pipeline.studies._curvature`. Biases of k, on which no loss depends, are left out of both and of distances. Every
measure is a sum over tasks and is kept per task, so that differences between methods have intervals over seeds and
tasks.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, get_args

import torch
from pydantic import Field

from pipeline.models.suite import SuiteFolder
from pipeline.runtime.errors import BenchmarkError
from pipeline.runtime.resumable import Resumable
from pipeline.runtime.schema import DISTINCT, Parameters
from pipeline.steps.refinement import plan_runs
from pipeline.studies._landscape import (
    End,
    Place,
    axes,
    coordinates,
    estimate_spectrum,
    measure_rises,
    read_coefficients,
    score_mixtures,
    solve_shares,
)

HELD_OUT = "validation"
"""The split whose examples are neither fitted to nor scored by default."""
Method = Literal["task_arithmetic", "adamerging", "distillation", "samerging"]
COEFFICIENT_METHODS: tuple[str, ...] = get_args(Method)
"""Methods whose merge is given by coefficients."""
REACH = (-0.5, 1.5)
"""The range of segments, and of the axes of planes of task vectors: beyond both ends, at 0 and 1."""
SPACES = ("coefficients", "weights")
Radii = Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1), DISTINCT]

PLANES = ("kind", "plane", "seed", "x", "y", "task", "loss", "correct", "total")
POINTS = ("plane", "point", "x", "y")
SEGMENTS = ("first", "second", "seed", "share", "task", "loss", "correct", "total")
SOLUTIONS = ("method", "seed", "split", "task", "loss", "correct", "total")
RISES = ("method", "seed", "space", "direction", "radius", "task", "loss")
"""`direction`: worst (found by ascent) or random (mean over directions); `loss`: at the radius, 0 being the solution
itself."""
CURVATURE = ("method", "seed", "measure", "task", "value")
"""`measure`: eigenvalue, trace (both sum to the whole over tasks), or error: the trace's standard error, `task`
empty."""


MethodRuns = Mapping[str, Sequence[tuple[End, int]]]
"""{method: its solutions, each with its seed}."""
Rows = Sequence[tuple[object, ...]]


class Params(Parameters):
    """What is measured, and how finely."""

    images: int = Field(ge=1)
    """Held-out examples per task."""
    pairs: Annotated[list[Annotated[list[Method], Field(min_length=2, max_length=2)]], Field(min_length=1), DISTINCT]
    """Pairs of methods: a plane with the pre-trained model (first seed), a segment (every seed)."""
    tasks: Annotated[list[Annotated[list[int], Field(min_length=2, max_length=2)]], Field(min_length=1), DISTINCT]
    """Pairs of tasks, by position from 0, whose task vectors span a plane."""
    points: int = Field(ge=2)
    """Points on a side of a plane, and on a segment from -1/2 to 3/2."""
    sharpness_images: int = Field(ge=1)
    """Held-out examples per task that sharpness is measured on."""
    coefficients: Radii
    """Radii in coefficients."""
    weights: Radii
    """Radii in weights."""
    ascent_steps: int = Field(ge=1)
    directions: int = Field(ge=1)
    """Random directions per radius."""
    tolerance: float = Field(gt=0, lt=1)
    """Relative accuracy of the eigenvalue."""
    signs: int = Field(ge=2)
    """Random vectors that estimate the trace."""


def map_landscape(
    folder: Path, artefacts: Mapping[str, Path], seeds: Sequence[int], split: str, temperature: float, params: Params,
    work: Resumable,
) -> dict[str, tuple[tuple[str, ...], Rows]]:  # fmt: skip
    """Return {name of the table: (its columns, its rows)}.

    `artefacts`: {method: its merges}; `split`: where calibration examples came from. Raises BenchmarkError if
    `params.tasks` has a pair that is no pair of the suite's tasks.
    """
    tasks = SuiteFolder(folder).suite.task_names
    wrong = [pair for pair in params.tasks if len({*pair}) < 2 or not all(0 <= index < len(tasks) for index in pair)]
    if wrong:
        raise BenchmarkError(
            f"study.landscape.tasks: {wrong[0]} is no pair of tasks of {folder.name}; expected two different numbers "
            f"from 0 to {len(tasks) - 1}"
        )
    runs = {
        method: [(End(path, run), seed) for run, seed in plan_runs(path, seeds)] for method, path in artefacts.items()
    }
    place = Place(folder, HELD_OUT, params.images, seeds[0], temperature)
    planes, points = _planes(place, runs, tasks, params, work)
    return {
        "planes": (PLANES, planes),
        "points": (POINTS, points),
        "segments": (SEGMENTS, _segments(place, runs, tasks, params, work)),
        "solutions": (SOLUTIONS, _solutions(place, runs, split, tasks, work)),
        "rises": (RISES, _rises(place, runs, tasks, params, work)),
        "curvature": (CURVATURE, _curvature(place, runs, tasks, params, work)),
    }


class GridRow(NamedTuple):
    """A row of a plane's grid."""

    kind: str
    plane: str
    xs: Sequence[float]
    y: float
    ends: tuple[End, ...]
    """The two solutions or task vectors that span the plane."""
    mixed: tuple[tuple[float, float], ...]
    """Shares of the two ends at every x."""
    tasks: tuple[int, ...]


def _planes(place: Place, runs: MethodRuns, tasks: Sequence[str], params: Params, work: Resumable) -> tuple[Rows, Rows]:
    planes = [_of_solutions(pair, runs, len(tasks), params.points) for pair in params.pairs]
    planes += [_of_tasks(pair, tasks, params.points) for pair in params.tasks]
    grid = [row for rows, _ in planes for row in rows]
    pieces = [(place, row.ends, row.mixed, row.tasks) for row in grid]
    losses = [
        (row.kind, row.plane, place.seed, _text(x), _text(row.y), tasks[task], *_measured(measured))
        for row, mixtures in zip(grid, work.run(score_mixtures, pieces, "landscape: planes"), strict=True)
        for x, by_task in zip(row.xs, mixtures, strict=True)
        for task, measured in zip(row.tasks, by_task, strict=True)
    ]
    return losses, [point for _, points in planes for point in points]


def _of_solutions(pair: Sequence[str], runs: MethodRuns, tasks: int, points: int) -> tuple[list[GridRow], Rows]:
    """Return the grid through the pre-trained model and the first runs of two methods, and the points that span it."""
    ends, name = tuple(runs[method][0][0] for method in pair), "-".join(pair)
    # pyrefly: ignore[bad-argument-count, bad-argument-type]  # a pair has two ends, and both have artefacts
    corners = coordinates(*(read_coefficients(end.artefact, end.index) for end in ends), pair)
    xs, ys = axes(corners, points)
    shares = [(y, solve_shares(corners, torch.tensor([(x, y) for x in xs])).tolist()) for y in ys]
    whole = tuple(range(tasks))
    rows = [GridRow("solutions", name, xs, y, ends, tuple(map(tuple, mixed)), whole) for y, mixed in shares]
    return rows, [(name, point, *map(_text, xy)) for point, xy in zip(("", *pair), corners.tolist(), strict=True)]


def _of_tasks(pair: Sequence[int], tasks: Sequence[str], points: int) -> tuple[list[GridRow], Rows]:
    """Return the grid of theta_0 + a tau_i + b tau_j, a and b on both axes, and the points that span it."""
    names, line = [tasks[index] for index in pair], torch.linspace(*REACH, points).tolist()
    name, ends = "-".join(names), tuple(End(None, index) for index in pair)
    rows = [GridRow("tasks", name, line, y, ends, tuple((x, y) for x in line), tuple(pair)) for y in line]
    return rows, [(name, point, *xy) for point, xy in zip(("", *names), ((0, 0), (1, 0), (0, 1)), strict=True)]


def _segments(place: Place, runs: MethodRuns, tasks: Sequence[str], params: Params, work: Resumable) -> Rows:
    line, whole = torch.linspace(*REACH, params.points).tolist(), tuple(range(len(tasks)))
    todo = [
        (pair, seed, (first, second))
        for pair in params.pairs
        for (first, seed), (second, _) in zip(*(runs[method] for method in pair), strict=True)
    ]
    mixed = tuple((1 - share, share) for share in line)
    pieces = [(place._replace(seed=seed), ends, mixed, whole) for _, seed, ends in todo]
    return [
        (*pair, seed, _text(share), task, *_measured(measured))
        for (pair, seed, _), mixtures in zip(todo, work.run(score_mixtures, pieces, "landscape: segments"), strict=True)
        for share, by_task in zip(line, mixtures, strict=True)
        for task, measured in zip(tasks, by_task, strict=True)
    ]


def _solutions(place: Place, runs: MethodRuns, split: str, tasks: Sequence[str], work: Resumable) -> Rows:
    whole = tuple(range(len(tasks)))
    splits = dict.fromkeys((split, HELD_OUT))
    todo = [(method, end, seed, part) for method, end, seed in _flat(runs) for part in splits]
    pieces = [(place._replace(split=part, seed=seed), (end,), ((1.0,),), whole) for _, end, seed, part in todo]
    return [
        (method, seed, part, task, *_measured(measured))
        for (method, _, seed, part), (by_task,) in zip(
            todo, work.run(score_mixtures, pieces, "landscape: solutions"), strict=True
        )
        for task, measured in zip(tasks, by_task, strict=True)
    ]


def _flat(runs: MethodRuns) -> Iterator[tuple[str, End, int]]:
    return ((method, end, seed) for method, solutions in runs.items() for end, seed in solutions)


def _rises(place: Place, runs: MethodRuns, tasks: Sequence[str], params: Params, work: Resumable) -> Rows:
    few = place._replace(examples=params.sharpness_images)
    todo = [(run, space) for run, space in product(_flat(runs), SPACES)]
    pieces = [
        (few._replace(seed=seed), end, space, tuple(getattr(params, space)), params.ascent_steps, params.directions)
        for (_, end, seed), space in todo
    ]
    return [
        (method, seed, space, direction, _text(radius), task, _text(loss))
        for ((method, _, seed), space), rises in zip(
            todo, work.run(measure_rises, pieces, "landscape: rises"), strict=True
        )
        for direction, radius, losses in rises
        for task, loss in zip(tasks, losses, strict=True)
    ]


def _curvature(place: Place, runs: MethodRuns, tasks: Sequence[str], params: Params, work: Resumable) -> Rows:
    few, todo = place._replace(examples=params.sharpness_images), [*_flat(runs)]
    pieces = [(few._replace(seed=seed), end, params.tolerance, params.signs) for _, end, seed in todo]
    return [
        (method, seed, measure, task, _text(value))
        for (method, _, seed), spectrum in zip(
            todo, work.run(estimate_spectrum, pieces, "landscape: curvature"), strict=True
        )
        for measure, values in spectrum.items()
        for task, value in zip(("",) if measure == "error" else tasks, values, strict=True)
    ]


def _measured(measured: Sequence[float]) -> tuple[object, ...]:
    return (_text(measured[0]), int(measured[1]), int(measured[2]))


def _text(value: float) -> str:
    return f"{value:.6g}"
