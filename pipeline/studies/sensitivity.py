"""Sensitivity: vary one hyperparameter ("knob") of a method at a time, all else as in params.yaml.

    range  max - min of the accuracy over the grid        share  of the grid within a point of its best

Learning rate, steps and the scale of a data-free merge, which a suite's schedule or a paper has tuned already, vary by
factors, so that a grid means the same on every suite. The value of params.yaml is always on the grid.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import Field

from pipeline.merges import storage
from pipeline.models.suite import SuiteFolder
from pipeline.runtime.resumable import Resumable
from pipeline.runtime.schema import DISTINCT, Parameters
from pipeline.steps.calibrate import Setting
from pipeline.steps.evaluate import open_split, predict_classes
from pipeline.steps.refinement import load_solution
from pipeline.steps.rescale import scale_solution
from pipeline.studies._trials import MARK_COLUMNS, Trial, mark_answers, score_trials

KNOBS = {
    "samerging": ("rho", "temperature", "initial_coefficient", "lr", "steps"),
    "distillation": ("initial_coefficient", "lr", "steps"),
    "adamerging": ("initial_coefficient", "lr", "steps"),
}
"""The knobs of each calibrated method."""
SCALE = "scale"
"""The knob of data-free merges: a factor of the whole merged delta."""
COLUMNS = ("knob", "value", "published", *MARK_COLUMNS)
"""`value`: of the knob, or its factor for a scale; `published`: 1 for the value of params.yaml."""
Factors = Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1), DISTINCT]


class Params(Parameters):
    """The grids; a knob's value in params.yaml is added to each."""

    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1), DISTINCT]
    """Of every calibration."""
    rho: Annotated[list[Annotated[float, Field(ge=0)]], Field(min_length=1), DISTINCT]
    temperature: Factors
    initial_coefficient: Annotated[list[Annotated[float, Field(ge=-2, le=2)]], Field(min_length=1), DISTINCT]
    lr: Factors
    """Factors of the schedule's learning rate."""
    steps: Factors
    """Factors of the schedule's number of steps, rounded, at least one step."""
    scale: Factors
    """Factors of a data-free merge's delta."""


class KnobVariant(NamedTuple):
    """A method with one knob changed."""

    knob: str
    value: float
    published: bool
    setting: Setting


def vary_knob(setting: Setting, knob: str, grid: Sequence[float]) -> list[KnobVariant]:
    """Return the setting with every value of the grid (factors for lr and steps) and its own, ascending, each once."""
    if knob in ("lr", "steps"):
        published = getattr(setting.schedule, knob)
        values = {
            published,
            *(factor * published if knob == "lr" else max(1, round(factor * published)) for factor in grid),
        }
    else:
        published = getattr(setting.params, knob)
        values = {published, *grid}
    return [KnobVariant(knob, value, value == published, _with(setting, knob, value)) for value in sorted(values)]


def _with(setting: Setting, knob: str, value: float) -> Setting:
    part = "schedule" if knob in ("lr", "steps") else "params"
    published = getattr(setting, part)
    return replace(setting, **{part: type(published)(**{**published.model_dump(), knob: value})})


def score_knobs(
    settings: Iterable[Setting], samples: int, split: str, params: Params, work: Resumable
) -> Iterator[tuple[object, ...]]:
    """Yield the rows of every calibrated method, knob, value and seed, with the columns COLUMNS.

    Equal settings run once. Raises Diverged where a value of the grid is too large to calibrate with.
    """
    todo = [
        (variant, seed)
        for setting in settings
        for knob in KNOBS[setting.method]
        for variant in vary_knob(setting, knob, getattr(params, knob))
        for seed in params.seeds
    ]
    trials = [Trial(str(index), variant.setting, samples, seed) for index, (variant, seed) in enumerate(todo)]
    for index, _, *row in score_trials(trials, split, "sensitivity: knobs", work):
        variant, _ = todo[int(index)]
        yield (variant.knob, _text(variant.value), int(variant.published), *row)


def score_rescaled(folder: Path, artefact: Path, index: int, factor: float, split: str) -> dict[str, list]:
    """Multiply a merge's delta by `factor`; return {task: [correct, total, right]} on a split."""
    suite = SuiteFolder(folder)
    models = storage.serve(suite, scale_solution(load_solution(artefact, index), factor))
    marks = mark_answers(predict_classes(models, open_split(suite, split), f"{factor:g} x {artefact}"))
    return {task: [*values] for task, values in marks.items()}


def score_scales(
    folder: Path, artefacts: Sequence[Path], split: str, params: Params, work: Resumable
) -> Iterator[tuple[object, ...]]:
    """Yield the rows of every data-free merge and factor, for each of the merge's own seeds, with the columns COLUMNS.

    `artefacts`: folders of merges, each named after its method.
    """
    suite = SuiteFolder(folder).suite
    todo = [
        (artefact, index, seed, factor)
        for artefact in artefacts
        for factor in sorted({1.0, *params.scale})
        for index, seed in enumerate(storage.load(artefact)[0]["seeds"])
    ]
    pieces = [(folder, artefact, index, factor, split) for artefact, index, _, factor in todo]
    for (artefact, _, seed, factor), counts in zip(
        todo, work.run(score_rescaled, pieces, "sensitivity: scales"), strict=True
    ):
        for task in suite.task_names:
            scores = (suite.name, artefact.name, task, seed, 0, *counts[task])
            yield (SCALE, _text(factor), int(factor == 1.0), *scores)


def _text(value: float) -> str:
    return f"{value:.6g}"
