"""Predict classes with merged models and count the correct ones.

Counts are integers, so that a reader can recompute every figure. No batch is ever skipped.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch

from pipeline.merges import storage
from pipeline.merges.answers import Answers, join_seeds
from pipeline.merges.serving import Served
from pipeline.models.features import encode
from pipeline.models.suite import SuiteFolder
from pipeline.models.weights import to_device
from pipeline.runtime.device import device
from pipeline.runtime.errors import BenchmarkError
from pipeline.runtime.parallel import run_all

SCORE_COLUMNS = ("suite", "method", "task", "seed", "samples", "correct", "total")
ScoreRow = tuple[str, str, str, int | None, int, int, int]
LabelledExamples = Callable[[str], tuple[np.ndarray, np.ndarray]]
"""Maps a task to its examples, uint8 [n, H, W, 3], and their labels [n]."""


def predict_seed(folder: Path, artefact: Path, index: int, split: str) -> Answers:
    """Predict the classes of a split with the `index`-th seed of a merge; [1, n] per task."""
    suite = SuiteFolder(folder)
    return predict_classes(storage.load_models(suite, artefact, index), open_split(suite, split), str(artefact))


def open_split(suite: SuiteFolder, split: str) -> LabelledExamples:
    """Open the examples and labels of a split."""
    return lambda task: (suite.examples(split, task), suite.labels(split, task))


def predict_classes(models: Iterable[Served], labelled: LabelledExamples, title: str) -> Answers:
    """Predict the classes of every task's examples with the model that serves it; [1, n] per task.

    Raises BenchmarkError, in which `title` names the models, for logits that are not finite.
    """
    target, predicted, labels = device(), {}, {}
    for model in models:
        weights = to_device(model.weights, target)
        for task in model.tasks:
            examples, truth = labelled(task)
            labels[task] = truth.astype(np.int16)
            features = encode(model.encoder, weights, examples, target)
            logits = features @ model.heads[task].to(target).T
            if not bool(torch.isfinite(logits).all()):
                raise BenchmarkError(f"{title}: the merged model's logits on {task} are not finite; nothing was scored")
            predicted[task] = logits.argmax(1)[None].to(torch.int16).cpu().numpy()
    return Answers(predicted, labels)


def predict_seeds(folder: Path, artefact: Path, split: str, title: str) -> Answers:
    """Predict the classes of a split with every seed of an artefact; [S, n] per task."""
    seeds = len(storage.load(artefact)[0]["seeds"])
    return join_seeds(run_all(predict_seed, [(folder, artefact, index, split) for index in range(seeds)], title))


def count_correct(suite: str, method: str, artefact: Path, answers: Answers) -> list[ScoreRow]:
    """Count the correct answers of every seed of an artefact, a row per task; columns as in SCORE_COLUMNS.

    `seed` is None for a method without randomness, `samples` the number of unlabelled examples of the task that it
    used.
    """
    record, _ = storage.load(artefact)
    return [
        (suite, method, task, seed, record["samples"][task], *counts)
        for index, seed in enumerate(record["seeds"])
        for task, counts in answers.counts(index).items()
    ]
