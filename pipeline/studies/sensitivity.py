"""Sensitivity: one knob of a method at a time, everything else as in params.yaml.

    range  max - min of the accuracy over the grid        share  of the grid within a point of its best

Knobs that a suite's schedule or a paper has tuned already vary by factors (learning rate, steps, scale of a data-free
merge), so that a grid means the same on every suite. The value of params.yaml is always on the grid.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import Field

from pipeline.merges import storage
from pipeline.models.suite import SuiteFolder
from pipeline.runtime.resumable import Resumable
from pipeline.runtime.schema import Parameters
from pipeline.steps.calibrate import Setting
from pipeline.steps.evaluate import on, replies
from pipeline.steps.refinement import solution
from pipeline.steps.rescale import scaled
from pipeline.studies._trials import MARKED, Trial, marks, scores

KNOBS = {
    "samerging": ("rho", "temperature", "initial_coefficient", "lr", "steps"),
    "distillation": ("initial_coefficient", "lr", "steps"),
    "adamerging": ("initial_coefficient", "lr", "steps"),
}
"""What is varied of each calibrated method."""
SCALE = "scale"
"""The knob of data-free merges: a factor of the whole merged delta."""
COLUMNS = ("knob", "value", "published", *MARKED)
"""value: of the knob, or its factor for a scale; published: 1 where it is that of params.yaml."""
Factors = Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1)]


class Params(Parameters):
    """The grids; a knob's own value is added to each."""

    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    """Of every calibration."""
    rho: Annotated[list[Annotated[float, Field(ge=0)]], Field(min_length=1)]
    temperature: Factors
    initial_coefficient: Annotated[list[Annotated[float, Field(ge=-2, le=2)]], Field(min_length=1)]
    lr: Factors
    """Factors of the schedule's learning rate."""
    steps: Factors
    """Factors of the schedule's number of steps, rounded, at least one step."""
    scale: Factors
    """Factors of a data-free merge's delta."""


class Variant(NamedTuple):
    """A method with one knob turned."""

    knob: str
    value: float
    published: bool
    setting: Setting


def variants(setting: Setting, knob: str, grid: Sequence[float]) -> list[Variant]:
    """The setting with every value of the grid (factors for lr and steps) and its own, ascending, each once."""
    if knob in ("lr", "steps"):
        own = getattr(setting.schedule, knob)
        values = {own, *(factor * own if knob == "lr" else max(1, round(factor * own)) for factor in grid)}
    else:
        own = getattr(setting.params, knob)
        values = {own, *grid}
    return [Variant(knob, value, value == own, _turned(setting, knob, value)) for value in sorted(values)]


def _turned(setting: Setting, knob: str, value: float) -> Setting:
    part = "schedule" if knob in ("lr", "steps") else "params"
    old = getattr(setting, part)
    return replace(setting, **{part: type(old)(**{**old.model_dump(), knob: value})})


def calibrated(
    settings: Iterable[Setting], samples: int, split: str, params: Params, work: Resumable
) -> Iterator[tuple[object, ...]]:
    """Rows of every calibrated method, knob, value and seed: see COLUMNS. Settings that are equal run once.

    Raises Diverged where a value of the grid is too large to calibrate with.
    """
    turned = [
        (variant, seed)
        for setting in settings
        for knob in KNOBS[setting.method]
        for variant in variants(setting, knob, getattr(params, knob))
        for seed in params.seeds
    ]
    trials = [Trial(str(index), variant.setting, samples, seed) for index, (variant, seed) in enumerate(turned)]
    for index, _, *row in scores(trials, split, "sensitivity: knobs", work):
        variant, _ = turned[int(index)]
        yield (variant.knob, _text(variant.value), int(variant.published), *row)


def rescaled(folder: Path, artefact: Path, index: int, factor: float, split: str) -> dict[str, list]:
    """{task: [correct, total, right]} of a merge with its delta multiplied by `factor`."""
    suite = SuiteFolder(folder)
    models = storage.serve(suite, scaled(solution(artefact, index), factor))
    marked = marks(replies(models, on(suite, split), f"{factor:g} x {artefact}"))
    return {task: [*found] for task, found in marked.items()}


def data_free(
    folder: Path, artefacts: Sequence[Path], split: str, params: Params, work: Resumable
) -> Iterator[tuple[object, ...]]:
    """Rows of every data-free merge and factor, for each of the merge's own seeds: see COLUMNS."""
    suite = SuiteFolder(folder).suite
    todo = [
        (artefact, index, seed, factor)
        for artefact in artefacts
        for factor in sorted({1.0, *params.scale})
        for index, seed in enumerate(storage.load(artefact)[0]["seeds"])
    ]
    pieces = [(folder, artefact, index, factor, split) for artefact, index, _, factor in todo]
    for (artefact, _, seed, factor), counts in zip(
        todo, work.run(rescaled, pieces, "sensitivity: scales"), strict=True
    ):
        for task in suite.task_names:
            own = (suite.name, artefact.name, task, seed, 0, *counts[task])
            yield (SCALE, _text(factor), int(factor == 1.0), *own)


def _text(value: float) -> str:
    return f"{value:.6g}"
