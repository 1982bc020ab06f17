"""The artefact of an evaluation: the class that every seed of a merge predicts for every example, and the labels.

One .npz per method: `<task>` int16 [S, n] are the predicted classes for S seeds and n examples, `labels/<task>` int16
[n] the true ones.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.runtime import store
from pipeline.runtime.errors import BenchmarkError

LABELS = "labels/"


class AnswersError(BenchmarkError):
    """Answers that are incomplete or do not fit their labels."""


@dataclass(frozen=True)
class Answers:
    """Predicted classes [S, n] and labels [n] per task, int16."""

    predicted: Mapping[str, np.ndarray]
    labels: Mapping[str, np.ndarray]

    def correct(self) -> dict[str, np.ndarray]:
        """Return {task: bool [S, n]}, whether each prediction is right."""
        return {task: predicted == self.labels[task] for task, predicted in self.predicted.items()}

    def counts(self, index: int) -> dict[str, tuple[int, int]]:
        """Return {task: (correct, total)} of the `index`-th seed."""
        return {task: (int(right[index].sum()), right.shape[1]) for task, right in self.correct().items()}


def join_seeds(parts: Iterable[Answers]) -> Answers:
    """Join the answers of several seeds, each [1, n], in order."""
    parts = [*parts]
    predicted = {task: np.concatenate([part.predicted[task] for part in parts]) for task in parts[0].labels}
    return Answers(predicted, parts[0].labels)


def save_answers(answers: Answers, path: Path) -> None:
    """Write the artefact to `path`."""
    labels = {f"{LABELS}{task}": values for task, values in answers.labels.items()}
    store.write_arrays(path, {**answers.predicted, **labels}, compress=True)


def load_answers(path: Path, tasks: Sequence[str]) -> Answers:
    """Read the artefact at `path`; AnswersError unless it has exactly the tasks, with one label per example."""
    arrays = store.read_arrays(path)
    expected = {*tasks, *(f"{LABELS}{task}" for task in tasks)}
    if arrays.keys() != expected:
        raise AnswersError(f"{path}: arrays {sorted(arrays)}, expected {sorted(expected)}; evaluate again (dvc repro)")
    for task in tasks:
        shape, labels = arrays[task].shape, arrays[f"{LABELS}{task}"].shape
        if len(shape) != 2 or shape[1:] != labels:
            raise AnswersError(f"{path}: answers of shape {shape} to {labels} labels of {task}; evaluate again")
    return Answers({task: arrays[task] for task in tasks}, {task: arrays[f"{LABELS}{task}"] for task in tasks})


def pack_correct(correct: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Pack {method: {task: bool [S, n]}} into {"<method>/<task>": uint8 [S, ceil(n / 8)]}, as np.packbits does."""
    return {
        f"{method}/{task}": np.packbits(right, axis=1)
        for method, tasks in correct.items()
        for task, right in tasks.items()
    }
