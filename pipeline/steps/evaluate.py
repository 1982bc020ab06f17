"""Asking merged models and counting correct answers: integers, so that a reader can recompute every figure.

No batch is ever skipped.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch

from pipeline.merges import storage
from pipeline.merges.answers import Answers, join
from pipeline.merges.serving import Served
from pipeline.models.features import encode
from pipeline.models.suite import SuiteFolder
from pipeline.models.weights import to_device
from pipeline.runtime.device import device
from pipeline.runtime.errors import BenchmarkError
from pipeline.runtime.parallel import run

HEADER = ("suite", "method", "task", "seed", "samples", "correct", "total")
Row = tuple[str, str, str, int | None, int, int, int]
Shown = Callable[[str], tuple[np.ndarray, np.ndarray]]
"""task -> images uint8 [n, H, W, 3] and their labels [n]."""


def answer(folder: Path, artefact: Path, index: int, split: str) -> Answers:
    """What the `index`-th seed of a merge answers on a split; predicted classes are [1, n]."""
    suite = SuiteFolder(folder)
    return replies(storage.models(suite, artefact, index), on(suite, split), str(artefact))


def on(suite: SuiteFolder, split: str) -> Shown:
    """The images and labels of a split."""
    return lambda task: (suite.images(split, task), suite.labels(split, task))


def replies(models: Iterable[Served], shown: Shown, title: str) -> Answers:
    """What the models that serve the tasks answer to the images that are `shown`; `title` names them in an error."""
    target, predicted, labels = device(), {}, {}
    for model in models:
        weights = to_device(model.weights, target)
        for task in model.tasks:
            images, truth = shown(task)
            labels[task] = truth.astype(np.int16)
            features = encode(model.encoder, weights, images, target)
            logits = features @ model.heads[task].to(target).T
            if not bool(torch.isfinite(logits).all()):
                raise BenchmarkError(f"{title}: the merged model's logits on {task} are not finite; nothing was scored")
            predicted[task] = logits.argmax(1)[None].to(torch.int16).cpu().numpy()
    return Answers(predicted, labels)


def ask(folder: Path, artefact: Path, split: str, title: str) -> Answers:
    """What every seed of an artefact answers."""
    seeds = len(storage.load(artefact)[0]["seeds"])
    return join(run(answer, [(folder, artefact, index, split) for index in range(seeds)], title))


def count(suite: str, method: str, artefact: Path, answers: Answers) -> list[Row]:
    """The scores of every seed of an artefact, a row per task: see HEADER.

    `seed` is None for a method without randomness, `samples` the unlabelled images of the task that it used.
    """
    about, _ = storage.load(artefact)
    return [
        (suite, method, task, seed, about["samples"][task], *counted)
        for index, seed in enumerate(about["seeds"])
        for task, counted in answers.counts(index).items()
    ]
