"""A trial: one calibration under one setting, and which images it gets right. What most studies consist of."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from pipeline.merges import storage
from pipeline.merges.answers import Answers
from pipeline.runtime.resumable import Resumable
from pipeline.steps.calibrate import Setting, calibrate, indices, need, seen
from pipeline.steps.evaluate import HEADER, on, replies

MARKED = (*HEADER, "right")
"""`right`: a bit per image in their order, as np.packbits, in hexadecimal digits."""
SCORES = ("setting", "k", *MARKED)


class Trial(NamedTuple):
    """What one cell computes."""

    name: str
    """Tells the setting in the scores, in the column `setting`."""
    setting: Setting
    samples: int
    """Unlabelled images per task asked for."""
    seed: int


def marks(answers: Answers) -> dict[str, tuple[int, int, str]]:
    """{task: (correct, total, right)} of the answers of one seed, see MARKED."""
    right = {task: seeds[0] for task, seeds in answers.correct().items()}
    return {task: (int(bits.sum()), len(bits), np.packbits(bits).tobytes().hex()) for task, bits in right.items()}


def score(setting: Setting, samples: int, seed: int, split: str) -> dict[str, list]:
    """{task: [images used, correct, total, right]} of one calibration on a split."""
    suite = setting.folder()
    drawn = indices(suite, setting.split, seen(setting, samples), seed)
    served = storage.serve(suite, calibrate(setting, samples, seed))
    found = marks(replies(served, on(suite, split), setting.method))
    return {task: [len(drawn[task]), *found[task]] for task in suite.suite.task_names}


def scores(trials: Iterable[Trial], split: str, title: str, work: Resumable) -> list[tuple]:
    """Rows of all trials, in order, with the columns `setting`, `k` and those of `evaluate`: see SCORES.

    Raises `memory.NoRoom` before the first one starts if not even one fits into the memory that is free.
    """
    todo = [*trials]
    most = max(need(trial.setting, trial.samples) for trial in todo)
    found = work.run(score, [(*trial[1:], split) for trial in todo], title, most)
    suite = todo[0].setting.folder()
    return [
        (trial.name, trial.samples, suite.suite.name, trial.setting.method, task, trial.seed, *counts[task])
        for trial, counts in zip(todo, found, strict=True)
        for task in suite.suite.task_names
    ]
