"""Robustness: merges scored on test images that are blurred, noisy or compressed (`pipeline.studies._corruptions`).

Nothing is merged or calibrated anew. A cell is one corruption at one severity: it corrupts every task's images once and
shows all models the same ones. The clean images, severity 0, are the same draw without corruption.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from pipeline.merges import storage
from pipeline.models.sampling import draw, generator
from pipeline.models.suite import SuiteFolder
from pipeline.runtime.resumable import Resumable
from pipeline.runtime.schema import Parameters
from pipeline.steps.evaluate import HEADER, replies
from pipeline.studies._corruptions import CORRUPTIONS, SEVERITIES, corrupt

CLEAN = "clean"
COLUMNS = ("corruption", "severity", *HEADER)
Case = tuple[str, int]
"""A corruption and its severity."""


class Params(Parameters):
    """What the test images go through."""

    corruptions: Annotated[list[Literal[tuple(CORRUPTIONS)]], Field(min_length=1)]
    """Names of `pipeline.studies._corruptions`."""
    severities: Annotated[list[Literal[SEVERITIES]], Field(min_length=1)]
    """1 to 5, weak to strong."""
    images: int = Field(ge=1)
    """Labelled images per task; a task with fewer is scored whole."""
    seed: int = Field(ge=0)
    """Of the draw of images and of every corruption."""


def measure(folder: Path, artefacts: Sequence[Path], split: str, params: Params, work: Resumable) -> list[tuple]:
    """Rows, see COLUMNS, of every corruption and severity, merge and task; `artefacts`: folders of merges by method."""
    cases = [(CLEAN, 0), *((name, severity) for name in params.corruptions for severity in params.severities)]
    pieces = [(folder, tuple(artefacts), split, *case, params.images, params.seed) for case in cases]
    found = work.run(score, pieces, "robustness")
    return [(*case, *row) for case, rows in zip(cases, found, strict=True) for row in rows]


def score(
    folder: Path, artefacts: Sequence[Path], split: str, corruption: str, severity: int, images: int, seed: int
) -> list[list]:
    """Rows as `evaluate.HEADER` of all merges on the same images under one corruption."""
    suite = SuiteFolder(folder)
    shown = {task: _shown(suite, split, task, (corruption, severity), images, seed) for task in suite.suite.task_names}
    return [row for artefact in artefacts for row in _rows(suite, artefact, shown)]


def _shown(
    suite: SuiteFolder, split: str, task: str, case: Case, images: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """A task's images uint8 [N, H, W, 3] as the models see them, and labels [N]."""
    labels = suite.labels(split, task)
    chosen = draw(len(labels), images, seed, task).numpy()
    pictures = suite.images(split, task)[chosen]
    if case[0] != CLEAN:
        rng = np.random.default_rng(generator(seed, *case, task).initial_seed())
        pictures = corrupt(pictures, *case, rng)
    return pictures, labels[chosen]


def _rows(suite: SuiteFolder, artefact: Path, shown: dict[str, tuple[np.ndarray, np.ndarray]]) -> Iterator[list]:
    about, method = storage.load(artefact)[0], artefact.name
    for index, seed in enumerate(about["seeds"]):
        counts = replies(storage.models(suite, artefact, index), shown.__getitem__, method).counts(0)
        for task in suite.suite.task_names:
            yield [suite.suite.name, method, task, seed, about["samples"][task], *counts[task]]
