"""A merge taken further with unlabelled images: what the stages `rescale` and `surgery` share.

Both start from the artefact of a merge without extras and write one of their own: for the same seeds or, where the
merge has none, for every seed of the run. A seed's images are the first of those that a calibration with that seed
draws, so nothing is seen that a calibrated method does not see.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from pipeline.merges import storage
from pipeline.merges.solution import Solution
from pipeline.merges.storage import Merges
from pipeline.models.sampling import draw
from pipeline.models.suite import SuiteFolder
from pipeline.runtime import store
from pipeline.runtime.errors import BenchmarkError


class NotRefinable(BenchmarkError):
    """The merge has a form that the stage cannot take further."""


def starts(artefact: Path, seeds: Sequence[int]) -> list[tuple[int, int]]:
    """(index of the merge, seed) of every run: the artefact's own seeds, or `seeds` from its one merge without."""
    about, _ = storage.load(artefact)
    if about["extras"] is not None:
        raise NotRefinable(
            f"{artefact}: the merge needs {about['extras']!r} at inference, expected a merge without extras; "
            f"take the method off the list of this stage in params.yaml"
        )
    if about["seeds"] == [None]:
        return [(0, seed) for seed in seeds]
    return [*enumerate(about["seeds"])]


def solution(artefact: Path, index: int) -> Solution:
    """The `index`-th merge as it was saved, its losses apart."""
    _, coefficients = storage.load(artefact)
    if coefficients is None:
        return Solution(delta=dict(store.TensorFile(artefact / f"delta-{index}.safetensors")))
    models = coefficients[index]
    return Solution(models[0] if len(models) == 1 else models)


def drawn(suite: SuiteFolder, split: str, task: str, samples: int, seed: int) -> Tensor:
    """Indices [min(samples, pool)] of a task's images."""
    return draw(len(suite.images(split, task)), samples, seed, task)


def refined(
    suite: SuiteFolder, artefact: Path, split: str, samples: int, seeds: Sequence[int], solutions: Sequence[Solution]
) -> Merges:
    """The merges that a stage made with `samples` images per task, one per seed, from those of `artefact`.

    They count the images of both: draws of one seed are nested, so the union is the larger draw.
    """
    about, _ = storage.load(artefact)
    draws = {
        task: torch.stack([drawn(suite, split, task, max(samples, about["samples"][task]), seed) for seed in seeds])
        for task in suite.suite.task_names
    }
    used = {task: indices.shape[1] for task, indices in draws.items()}
    return Merges(tuple(seeds), used, suite.suite.groups, solutions, draws)
