"""Asking merged models and counting correct answers: integers, so that a reader can recompute every figure.

No batch is ever skipped.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from pipeline import merges
from pipeline.answers import Answers, join
from pipeline.errors import BenchmarkError
from pipeline.extras import Served
from pipeline.features import encode
from pipeline.parallel import run
from pipeline.suite import SuiteFolder, device, to_device

HEADER = ("suite", "method", "task", "seed", "samples", "correct", "total")
Row = tuple[str, str, str, int | None, int, int, int]


def answer(folder: Path, artefact: Path, index: int, split: str) -> Answers:
    """What the `index`-th seed of a merge answers on a split; predicted classes are [1, n]."""
    suite = SuiteFolder(folder)
    return replies(suite, merges.models(suite, artefact, index), split, str(artefact))


def replies(suite: SuiteFolder, models: Iterable[Served], split: str, title: str) -> Answers:
    """What the models that serve the tasks answer; `title` names them in an error."""
    target, predicted = device(), {}
    for model in models:
        weights = to_device(model.weights, target)
        for task in model.tasks:
            features = encode(model.encoder, weights, suite.images(split, task), target)
            logits = features @ model.heads[task].to(target).T
            if not bool(torch.isfinite(logits).all()):
                raise BenchmarkError(f"{title}: the merged model's logits on {task} are not finite; nothing was scored")
            predicted[task] = logits.argmax(1)[None].to(torch.int16).cpu().numpy()
    labels = {task: suite.labels(split, task).astype(np.int16) for task in suite.suite.task_names}
    return Answers(predicted, labels)


def ask(folder: Path, artefact: Path, split: str, title: str) -> Answers:
    """What every seed of an artefact answers."""
    seeds = len(merges.load(artefact)[0]["seeds"])
    return join(run(answer, [(folder, artefact, index, split) for index in range(seeds)], title))


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
