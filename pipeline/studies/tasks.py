"""Number of tasks: merge subsets of the suite's experts, and score every merge on the tasks left out as well.

Subsets of one size are windows on a seeded circle of the tasks, evenly spaced, so that every task is in about as many
of them as any other: a curve over sizes compares like with like. The windows of T - `left_out` tasks are the folds in
which tasks are left out: together they leave out every task, and each once where `left_out` divides T. All methods see
the same subsets, and of the tasks in it only: no task vector, head or image of another.
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
from pipeline.models.sampling import generator
from pipeline.models.suite import SuiteFolder
from pipeline.runtime.resumable import Resumable
from pipeline.runtime.schema import Parameters
from pipeline.steps.calibrate import Setting, calibrate, indices, need
from pipeline.steps.evaluate import HEADER, on, replies

COLUMNS = ("subset", "size", "merged", *HEADER)
"""`subset`: the names of its tasks with + between; `merged`: 1 for a task of the subset, 0 for one left out."""
REFERENCES = ("zeroshot", "individual")
"""Merges of the whole suite only: they do not depend on the other tasks."""
Subset = tuple[str, ...]


class Params(Parameters):
    """Which subsets."""

    sizes: list[Annotated[int, Field(ge=2)]]
    """Numbers of tasks to merge; those below T are used, T always is."""
    subsets: int = Field(ge=1)
    """Subsets of every size; no more than there are windows, T."""
    left_out: int = Field(ge=1)
    """Tasks that a fold leaves out."""
    seed: int = Field(ge=0)
    """Of the order of the tasks on the circle."""
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    """Of the calibrations of every subset."""


def subsets(tasks: Sequence[str], params: Params) -> list[Subset]:
    """Subsets by ascending size, tasks in the suite's order; the last is the whole suite."""
    total, folded = len(tasks), len(tasks) - params.left_out
    circle = torch.randperm(total, generator=generator(params.seed, "subsets")).tolist()
    counts = {size: params.subsets for size in params.sizes if size < total}
    if folded >= 2:
        counts[folded] = -(-total // params.left_out)
    found = [window for size in sorted(counts) for window in _windows(circle, size, min(counts[size], total))]
    return [tuple(tasks[index] for index in sorted(window)) for window in found] + [tuple(tasks)]


def _windows(circle: Sequence[int], size: int, number: int) -> list[list[int]]:
    """`number` runs of `size` neighbours, their starts as evenly spaced as may be."""
    total = len(circle)
    starts = [index * total // number for index in range(number)]
    return [[circle[(start + step) % total] for step in range(size)] for start in starts]


def data_free(folder: Path, method: str, params: Parameters, subset: Subset, split: str) -> dict[str, list[int]]:
    """{task: [images used, correct, total]} of a subset's merge without data, for every task of the suite."""
    part = SuiteFolder(folder, subset)
    merged = storage.data_free(methods.load(method), part.vectors(), params, subset)
    return _counts(part, merged.solutions[0], split, method, merged.samples)


def calibrated(setting: Setting, samples: int, seed: int, split: str) -> dict[str, list[int]]:
    """The same of one calibration on images of the subset's tasks."""
    part = setting.folder()
    drawn = {task: len(chosen) for task, chosen in indices(part, setting.split, samples, seed).items()}
    return _counts(part, calibrate(setting, samples, seed), split, setting.method, drawn)


def _counts(
    part: SuiteFolder, solution: Solution, split: str, title: str, used: Mapping[str, int]
) -> dict[str, list[int]]:
    """A model of all merged tasks answers for the tasks left out as well, each with its own head."""
    whole, merged = SuiteFolder(part.folder), part.suite.task_names
    models = storage.serve(part, solution)
    asked = (replace(model, tasks=whole.suite.task_names) if model.tasks == merged else model for model in models)
    found = replies(asked, on(whole, split), title).counts(0)
    return {task: [used.get(task, 0), *found[task]] for task in whole.suite.task_names}


def measure(
    folder: Path,
    free: Mapping[str, Parameters],
    settings: Sequence[Setting],
    params: Params,
    samples: int,
    split: str,
    work: Resumable,
) -> list[tuple]:
    """Rows, see COLUMNS: data-free methods {name: parameters} once, settings with all seeds, on every subset."""
    suite = SuiteFolder(folder)
    tasks = suite.suite.task_names
    chosen = subsets(tasks, params)
    once = [(name, subset) for name in free for subset in (chosen[-1:] if name in REFERENCES else chosen)]
    found = work.run(data_free, [(folder, name, free[name], subset, split) for name, subset in once], "subsets")
    most = max(need(setting, samples) for setting in settings)
    runs = [(setting, subset, seed) for setting in settings for subset in chosen for seed in params.seeds]
    pieces = [(replace(setting, tasks=subset), samples, seed, split) for setting, subset, seed in runs]
    found += work.run(calibrated, pieces, "calibrations of subsets", most)
    named = [(name, subset, None) for name, subset in once]
    named += [(setting.method, subset, seed) for setting, subset, seed in runs]
    return [
        ("+".join(subset), len(subset), int(task in subset), suite.suite.name, method, task, seed, *counts[task])
        for (method, subset, seed), counts in zip(named, found, strict=True)
        for task in tasks
    ]
