"""Number of tasks: merge subsets of the suite's experts, and score every merge on the tasks left out as well.

Subsets of one size are windows on a seeded circle of the tasks, evenly spaced, so that every task is in about as many
of them as any other: points of a curve over sizes are comparable. The windows of T - `left_out` tasks are folds:
together they leave out every task, and each exactly once where `left_out` divides T. All methods see the same subsets,
and task vectors, heads and examples of the tasks in a subset only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field

from pipeline import methods
from pipeline.merges import storage
from pipeline.merges.solution import Solution
from pipeline.models.suite import SuiteFolder
from pipeline.runtime.resumable import Resumable
from pipeline.runtime.schema import DISTINCT, Parameters
from pipeline.statistics.sampling import generator
from pipeline.steps.calibrate import Setting, calibrate, draw_indices, require_memory
from pipeline.steps.evaluate import SCORE_COLUMNS, open_split, predict_classes
from pipeline.steps.merge import merge_data_free

COLUMNS = ("subset", "size", "merged", *SCORE_COLUMNS)
"""`subset`: the names of its tasks, joined by +; `merged`: 1 for a task of the subset, 0 for a task left out."""
REFERENCES = ("zeroshot", "individual")
"""Methods that merge the whole suite only: their scores do not depend on the other tasks."""
TaskNames = tuple[str, ...]


class Params(Parameters):
    """The subsets."""

    sizes: Annotated[list[Annotated[int, Field(ge=2)]], DISTINCT]
    """Numbers of tasks to merge; those below T are used, T always is."""
    subsets: int = Field(ge=1)
    """Subsets of every size; no more than there are windows, T."""
    left_out: int = Field(ge=1)
    """Tasks that a fold leaves out."""
    seed: int = Field(ge=0)
    """Of the order of the tasks on the circle."""
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1), DISTINCT]
    """Of the calibrations of every subset."""


def draw_subsets(tasks: Sequence[str], params: Params) -> list[TaskNames]:
    """Return subsets by ascending size, their tasks in the suite's order; the last is the whole suite."""
    total, fold_size = len(tasks), len(tasks) - params.left_out
    circle = torch.randperm(total, generator=generator(params.seed, "subsets")).tolist()
    counts = {size: params.subsets for size in params.sizes if size < total}
    if fold_size >= 2:
        counts[fold_size] = -(-total // params.left_out)
    windows = [window for size in sorted(counts) for window in _windows(circle, size, min(counts[size], total))]
    return [tuple(tasks[index] for index in sorted(window)) for window in windows] + [tuple(tasks)]


def _windows(circle: Sequence[int], size: int, number: int) -> list[list[int]]:
    """Return `number` runs of `size` neighbours, their starts as evenly spaced as possible."""
    total = len(circle)
    starts = [index * total // number for index in range(number)]
    return [[circle[(start + step) % total] for step in range(size)] for start in starts]


def score_subset(folder: Path, method: str, params: Parameters, subset: TaskNames, split: str) -> dict[str, list[int]]:
    """Merge a subset without data; return {task: [examples used, correct, total]} for every task of the suite."""
    part = SuiteFolder(folder, subset)
    merged = merge_data_free(methods.load(method), part.vectors(), params, subset)
    return _counts(part, merged.solutions[0], split, method, merged.samples)


def score_subset_calibration(setting: Setting, samples: int, seed: int, split: str) -> dict[str, list[int]]:
    """Calibrate once on examples of the subset's tasks; return the same as `score_subset`."""
    part = setting.folder()
    used = {task: len(indices) for task, indices in draw_indices(part, setting.split, samples, seed).items()}
    return _counts(part, calibrate(setting, samples, seed), split, setting.method, used)


def _counts(
    part: SuiteFolder, solution: Solution, split: str, title: str, used: Mapping[str, int]
) -> dict[str, list[int]]:
    """Count correct answers; a model of all merged tasks is scored on the tasks left out too, with their own heads."""
    whole, merged = SuiteFolder(part.folder), part.suite.task_names
    models = storage.serve(part, solution)
    extended = (replace(model, tasks=whole.suite.task_names) if model.tasks == merged else model for model in models)
    counts = predict_classes(extended, open_split(whole, split), title).counts(0)
    return {task: [used.get(task, 0), *counts[task]] for task in whole.suite.task_names}


def score_subsets(
    folder: Path,
    data_free: Mapping[str, Parameters],
    settings: Sequence[Setting],
    params: Params,
    samples: int,
    split: str,
    work: Resumable,
) -> list[tuple]:
    """Return the rows of all methods on every subset, with the columns COLUMNS.

    `data_free`: {name: parameters}, merged once each; `settings`: of the calibrated methods, calibrated with every seed
    of `params`.
    """
    suite = SuiteFolder(folder)
    tasks = suite.suite.task_names
    subsets = draw_subsets(tasks, params)
    merges = [(name, subset) for name in data_free for subset in (subsets[-1:] if name in REFERENCES else subsets)]
    results = work.run(
        score_subset, [(folder, name, data_free[name], subset, split) for name, subset in merges], "subsets"
    )
    memory = max(require_memory(setting, samples) for setting in settings)
    calibrations = [(setting, subset, seed) for setting in settings for subset in subsets for seed in params.seeds]
    pieces = [(replace(setting, tasks=subset), samples, seed, split) for setting, subset, seed in calibrations]
    results += work.run(score_subset_calibration, pieces, "calibrations of subsets", memory)
    runs = [(name, subset, None) for name, subset in merges]
    runs += [(setting.method, subset, seed) for setting, subset, seed in calibrations]
    return [
        ("+".join(subset), len(subset), int(task in subset), suite.suite.name, method, task, seed, *counts[task])
        for (method, subset, seed), counts in zip(runs, results, strict=True)
        for task in tasks
    ]
