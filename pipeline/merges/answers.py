"""The artefact of an evaluation: what every seed of a merge answered on every image, beside the right answers.

One .npz per method: `<task>` int16 [S, n] is the predicted class for S seeds and n images, `labels/<task>` int16 [n]
the true one.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.runtime import store
from pipeline.runtime.errors import BenchmarkError

LABELS = "labels/"


class AnswersError(BenchmarkError):
    """Answers that are not whole or do not fit their labels."""


@dataclass(frozen=True)
class Answers:
    """Predicted classes [S, n] and labels [n] per task, int16."""

    predicted: Mapping[str, np.ndarray]
    labels: Mapping[str, np.ndarray]

    def correct(self) -> dict[str, np.ndarray]:
        """{task: bool [S, n]}, whether the prediction is right."""
        return {task: predicted == self.labels[task] for task, predicted in self.predicted.items()}

    def counts(self, index: int) -> dict[str, tuple[int, int]]:
        """{task: (correct, total)} of the `index`-th seed."""
        return {task: (int(right[index].sum()), right.shape[1]) for task, right in self.correct().items()}


def join(parts: Iterable[Answers]) -> Answers:
    """The answers of several seeds, each [1, n], as one."""
    parts = [*parts]
    predicted = {task: np.concatenate([part.predicted[task] for part in parts]) for task in parts[0].labels}
    return Answers(predicted, parts[0].labels)


def save(answers: Answers, path: Path) -> None:
    """Write the artefact."""
    labels = {f"{LABELS}{task}": values for task, values in answers.labels.items()}
    store.write_arrays(path, {**answers.predicted, **labels}, compress=True)


def load(path: Path, tasks: Sequence[str]) -> Answers:
    """Read the artefact; AnswersError unless it has the tasks, with one label per answered image."""
    arrays = store.read_arrays(path)
    expected = {*tasks, *(f"{LABELS}{task}" for task in tasks)}
    if arrays.keys() != expected:
        raise AnswersError(f"{path}: arrays {sorted(arrays)}, expected {sorted(expected)}; evaluate again (dvc repro)")
    for task in tasks:
        found, labels = arrays[task].shape, arrays[f"{LABELS}{task}"].shape
        if len(found) != 2 or found[1:] != labels:
            raise AnswersError(f"{path}: answers of shape {found} to {labels} labels of {task}; evaluate again")
    return Answers({task: arrays[task] for task in tasks}, {task: arrays[f"{LABELS}{task}"] for task in tasks})


def pack(correct: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """{"<method>/<task>": uint8 [S, ceil(n / 8)]} of {method: {task: bool [S, n]}}: a bit per image, as np.packbits."""
    return {
        f"{method}/{task}": np.packbits(right, axis=1)
        for method, tasks in correct.items()
        for task, right in tasks.items()
    }
