"""Refine a stored merge: the part that the stages `rescale`, `surgery` and `svc` share.

All start from the artefact of a merge without extras and write one of their own. `svc` needs no examples and keeps the
merge's seeds. `rescale` and `surgery` run for the same seeds or, where the merge has none, for every seed of the run.
A seed's examples are the first of those that a calibration with that seed draws, so these stages see no example that a
calibrated method does not see.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.merges import storage
from pipeline.merges.solution import Solution
from pipeline.merges.storage import Merges
from pipeline.models.suite import SuiteFolder
from pipeline.runtime import store
from pipeline.runtime.errors import BenchmarkError
from pipeline.statistics.sampling import sample_indices


class NotRefinable(BenchmarkError):
    """Raised for a merge whose form the stage cannot refine."""


def require_no_extras(artefact: Path) -> dict[str, Any]:
    """Return the record of an artefact; raise NotRefinable for a merge with extras."""
    record, _ = storage.load(artefact)
    if record["extras"] is not None:
        raise NotRefinable(
            f"{artefact}: the merge needs {record['extras']!r} at inference, expected a merge without extras; "
            f"take the method off the list of this stage in params.yaml"
        )
    return record


def require_one_model(artefact: Path, stage: str) -> dict[str, Any]:
    """Return the record of an artefact; raise NotRefinable for a merge with extras or with one model per task."""
    record, (_, coefficients) = require_no_extras(artefact), storage.load(artefact)
    if coefficients is not None and coefficients.shape[1] > 1:
        raise NotRefinable(
            f"{artefact}: the merge has one model per task, expected one for all; take the method off methods.{stage} "
            f"in params.yaml"
        )
    return record


def plan_runs(artefact: Path, seeds: Sequence[int]) -> list[tuple[int, int]]:
    """Return (index of the merge, seed) of every run.

    The seeds are the artefact's own; if it has a single merge without a seed, that one is refined with each of `seeds`.
    Raises NotRefinable for a merge with extras.
    """
    record = require_no_extras(artefact)
    if record["seeds"] == [None]:
        return [(0, seed) for seed in seeds]
    return [*enumerate(record["seeds"])]


def load_solution(artefact: Path, index: int) -> Solution:
    """Load the `index`-th merge as it was saved, without its losses."""
    _, coefficients = storage.load(artefact)
    if coefficients is None:
        return Solution(delta=dict(store.TensorFile(artefact / f"delta-{index}.safetensors")))
    models = coefficients[index]
    return Solution(models[0] if len(models) == 1 else models)


def draw_task_indices(suite: SuiteFolder, split: str, task: str, samples: int, seed: int) -> Tensor:
    """Draw the indices [min(samples, pool)] of one task's examples."""
    return sample_indices(len(suite.examples(split, task)), samples, seed, task)


def assemble_merges(
    suite: SuiteFolder, artefact: Path, split: str, samples: int, seeds: Sequence[int], solutions: Sequence[Solution]
) -> Merges:
    """Assemble the refinements of `artefact`, one solution per seed, made with `samples` examples per task.

    The examples of both steps are counted: draws of one seed are nested, so their union is the larger draw.
    """
    record, _ = storage.load(artefact)
    draws = {
        task: torch.stack(
            [draw_task_indices(suite, split, task, max(samples, record["samples"][task]), seed) for seed in seeds]
        )
        for task in suite.suite.task_names
    }
    used = {task: indices.shape[1] for task, indices in draws.items()}
    return Merges(tuple(seeds), used, suite.suite.groups, solutions, draws)
