"""Predict classes with merged models and count the correct ones.

Counts are integers, so that a reader can recompute every figure. No batch is ever skipped.
"""

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from pipeline.merges import storage
from pipeline.merges.answers import Answers, join_seeds
from pipeline.merges.serving import Served
from pipeline.models.examples import encode
from pipeline.models.suite import SuiteFolder
from pipeline.models.weights import Weights, to_device
from pipeline.runtime.device import device
from pipeline.runtime.errors import BenchmarkError
from pipeline.runtime.threads import map_tensors

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
        predict = partial(_predict_task, model, to_device(model.weights, target), labelled, target, title)
        for task, (classes, truth) in map_tensors(predict, model.tasks).items():
            predicted[task], labels[task] = classes[None], truth
    return Answers(predicted, labels)


def _predict_task(
    model: Served, weights: Weights, labelled: LabelledExamples, target: torch.device, title: str, task: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return the predicted and the true classes of a task, int16 [n]; `weights` are the model's on `target`."""
    examples, truth = labelled(task)
    logits = encode(model.encoder, weights, examples, target) @ model.heads[task].to(target).T
    if not bool(torch.isfinite(logits).all()):
        raise BenchmarkError(f"{title}: the merged model's logits on {task} are not finite; nothing was scored")
    return logits.argmax(1).to(torch.int16).cpu().numpy(), truth.astype(np.int16)


def predict_seeds(folder: Path, artefact: Path, split: str, title: str) -> Answers:
    """Predict the classes of a split with every seed of an artefact; [S, n] per task."""
    seeds = range(len(storage.load(artefact)[0]["seeds"]))
    return join_seeds([predict_seed(folder, artefact, index, split) for index in tqdm(seeds, desc=title, unit="run")])


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
