"""Asking merged models and counting correct answers: integers, so that a reader can recompute every figure.

No batch is ever skipped.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from pipeline import merges
from pipeline.answers import Answers, join
from pipeline.errors import BenchmarkError
from pipeline.features import encode
from pipeline.parallel import run
from pipeline.suite import SuiteFolder, device, to_device

HEADER = ("suite", "method", "task", "seed", "samples", "correct", "total")
Row = tuple[str, str, str, int | None, int, int, int]


def answer(folder: Path, artefact: Path, index: int, split: str) -> Answers:
    """What the `index`-th seed of a merge answers on a split; predicted classes are [1, n]."""
    suite, target = SuiteFolder(folder), device()
    predicted = {}
    for model in merges.models(suite, artefact, index):
        weights = to_device(model.weights, target)
        for task in model.tasks:
            features = encode(model.encoder, weights, suite.images(split, task), target)
            logits = features @ model.heads[task].to(target).T
            if not bool(torch.isfinite(logits).all()):
                raise BenchmarkError(
                    f"{artefact}: the merged model's logits on {task} are not finite; nothing was scored"
                )
            predicted[task] = logits.argmax(1)[None].to(torch.int16).cpu().numpy()
    labels = {task: suite.labels(split, task).astype(np.int16) for task in suite.suite.task_names}
    return Answers(predicted, labels)


def ask(folder: Path, artefacts: Sequence[Path], split: str, title: str) -> list[Answers]:
    """What every seed of every artefact answers, one `Answers` per artefact."""
    seeds = [len(merges.load(path)[0]["seeds"]) for path in artefacts]
    pieces = [(folder, path, index, split) for path, n in zip(artefacts, seeds, strict=True) for index in range(n)]
    found = iter(run(answer, pieces, title))
    return [join(next(found) for _ in range(count)) for count in seeds]


def count(suite: str, method: str, artefact: Path, answers: Answers) -> list[Row]:
    """The scores of every seed of an artefact, a row per task: see HEADER.

    `seed` is None for a method without randomness, `samples` the unlabelled images of the task that it used.
    """
    about, _ = merges.load(artefact)
    return [
        (suite, method, task, seed, about["samples"][task], *counted)
        for index, seed in enumerate(about["seeds"])
        for task, counted in answers.counts(index).items()
    ]


def rows(folder: Path, method: str, artefacts: Sequence[Path], split: str, title: str) -> list[Row]:
    """The scores of every artefact, see `count`."""
    name, found = SuiteFolder(folder).suite.name, ask(folder, artefacts, split, title)
    return [row for path, one in zip(artefacts, found, strict=True) for row in count(name, method, path, one)]
