"""Counting correct answers: integers, so that a reader can recompute every figure. No batch is ever skipped."""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch

from pipeline import merges
from pipeline.errors import BenchmarkError
from pipeline.extras import Served
from pipeline.features import encode
from pipeline.parallel import run
from pipeline.suite import SuiteFolder, device, to_device

HEADER = ("suite", "method", "task", "seed", "samples", "correct", "total")
Row = tuple[str, str, str, int | None, int, int, int]


def correct(folder: Path, artefact: Path, index: int, split: str) -> dict[str, tuple[int, int]]:
    """{task: (correct, total)} of the `index`-th seed of a merge on a split."""
    suite = SuiteFolder(folder)
    return count(suite, merges.models(suite, artefact, index), split, str(artefact))


def count(suite: SuiteFolder, models: Iterable[Served], split: str, title: str) -> dict[str, tuple[int, int]]:
    """{task: (correct, total)} of the models that serve the tasks; `title` names them in an error."""
    return tally(models, lambda task: (suite.images(split, task), suite.labels(split, task)), title)


def tally(
    models: Iterable[Served], shown: Callable[[str], tuple[np.ndarray, np.ndarray]], title: str
) -> dict[str, tuple[int, int]]:
    """`count` on any images: `shown` gives a task's images uint8 [N, H, W, 3] and labels int64 [N]."""
    target, counts = device(), {}
    for model in models:
        weights = to_device(model.weights, target)
        for task in model.tasks:
            images, truth = shown(task)
            labels = torch.from_numpy(np.array(truth)).to(target)
            features = encode(model.encoder, weights, images, target)
            logits = features @ model.heads[task].to(target).T
            if not bool(torch.isfinite(logits).all()):
                raise BenchmarkError(f"{title}: the merged model's logits on {task} are not finite; nothing was scored")
            counts[task] = (int((logits.argmax(1) == labels).sum()), len(labels))
    return counts


def rows(folder: Path, method: str, artefacts: list[Path], split: str, title: str) -> list[Row]:
    """The scores of every seed of every artefact, a row per task: see HEADER.

    `seed` is None for a method without randomness, `samples` the unlabelled images of the task that it used.
    """
    suite = SuiteFolder(folder).suite
    abouts = [(path, merges.load(path)[0]) for path in artefacts]
    cells = [
        (path, index, seed, about["samples"]) for path, about in abouts for index, seed in enumerate(about["seeds"])
    ]
    counts = run(correct, [(folder, path, index, split) for path, index, *_ in cells], title)
    return [
        (suite.name, method, task, seed, samples[task], *count[task])
        for (_, _, seed, samples), count in zip(cells, counts, strict=True)
        for task in suite.task_names
    ]
