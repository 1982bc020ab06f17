"""Robustness: merges scored on test images that are blurred, noisy or compressed (`pipeline.studies._corruptions`).

Nothing is merged or calibrated here. A piece of work is one corruption at one severity: it corrupts every task's images
once and shows the same ones to all models. The clean images, severity 0, are the same draw without corruption.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from pipeline.merges import storage
from pipeline.models.suite import SuiteFolder
from pipeline.runtime.resumable import Resumable
from pipeline.runtime.schema import DISTINCT, Parameters
from pipeline.statistics.sampling import generator, sample_indices
from pipeline.steps.evaluate import SCORE_COLUMNS, predict_classes
from pipeline.studies._corruptions import CorruptionName, Severity, corrupt

CLEAN = "clean"
COLUMNS = ("corruption", "severity", *SCORE_COLUMNS)
Case = tuple[str, int]
"""A corruption and its severity."""


class Params(Parameters):
    """The corruptions and the images."""

    corruptions: Annotated[list[CorruptionName], Field(min_length=1), DISTINCT]
    """Names of `pipeline.studies._corruptions`."""
    severities: Annotated[list[Severity], Field(min_length=1), DISTINCT]
    """1 to 5, weak to strong."""
    images: int = Field(ge=1)
    """Labelled images per task; a task with fewer is scored whole."""
    seed: int = Field(ge=0)
    """Of the draw of images and of every corruption."""


def score_corruptions(
    folder: Path, artefacts: Sequence[Path], split: str, params: Params, work: Resumable
) -> list[tuple]:
    """Return the rows of every corruption and severity, merge and task, with the columns COLUMNS.

    `artefacts`: folders of merges, each named after its method. No rows for a suite without images.
    """
    if SuiteFolder(folder).suite.encoder().kind != "images":
        return []
    cases = [(CLEAN, 0), *((name, severity) for name in params.corruptions for severity in params.severities)]
    pieces = [(folder, tuple(artefacts), split, *case, params.images, params.seed) for case in cases]
    results = work.run(score_corruption, pieces, "robustness")
    return [(*case, *row) for case, rows in zip(cases, results, strict=True) for row in rows]


def score_corruption(
    folder: Path, artefacts: Sequence[Path], split: str, corruption: str, severity: int, images: int, seed: int
) -> list[list]:
    """Return the rows, with the columns SCORE_COLUMNS, of all merges on the same images under one corruption."""
    suite = SuiteFolder(folder)
    data = {task: _draw(suite, split, task, (corruption, severity), images, seed) for task in suite.suite.task_names}
    return [row for artefact in artefacts for row in _rows(suite, artefact, data)]


def _draw(
    suite: SuiteFolder, split: str, task: str, case: Case, images: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return a task's images, uint8 [N, H, W, 3], corrupted unless the case is clean, and their labels [N]."""
    labels = suite.labels(split, task)
    indices = sample_indices(len(labels), images, seed, task).numpy()
    pictures = suite.examples(split, task)[indices]
    if case[0] != CLEAN:
        rng = np.random.default_rng(generator(seed, *case, task).initial_seed())
        pictures = corrupt(pictures, *case, rng)
    return pictures, labels[indices]


def _rows(suite: SuiteFolder, artefact: Path, data: dict[str, tuple[np.ndarray, np.ndarray]]) -> Iterator[list]:
    record, method = storage.load(artefact)[0], artefact.name
    for index, seed in enumerate(record["seeds"]):
        counts = predict_classes(storage.load_models(suite, artefact, index), data.__getitem__, method).counts(0)
        for task in suite.suite.task_names:
            yield [suite.suite.name, method, task, seed, record["samples"][task], *counts[task]]
