"""Trials: one calibration under one setting, and the examples that it gets right. Most studies consist of trials."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from pipeline.merges import storage
from pipeline.merges.answers import Answers
from pipeline.runtime.resumable import Resumable
from pipeline.steps.calibrate import Setting, calibrate, draw_indices, examples_seen, require_memory
from pipeline.steps.evaluate import SCORE_COLUMNS, open_split, predict_classes

MARK_COLUMNS = (*SCORE_COLUMNS, "right")
"""`right`: one bit per example, in the order of the examples, packed by np.packbits, as hexadecimal digits."""
TRIAL_COLUMNS = ("setting", "k", *MARK_COLUMNS)


class Trial(NamedTuple):
    """One calibration of a study."""

    name: str
    """Identifies the setting in the scores, in the column `setting`."""
    setting: Setting
    samples: int
    """Unlabelled examples per task that are requested; a smaller pool is used whole."""
    seed: int


def mark_answers(answers: Answers) -> dict[str, tuple[int, int, str]]:
    """Return {task: (correct, total, right)} of the first seed's answers, see MARK_COLUMNS."""
    correct = {task: seeds[0] for task, seeds in answers.correct().items()}
    return {task: (int(bits.sum()), len(bits), np.packbits(bits).tobytes().hex()) for task, bits in correct.items()}


def score_trial(setting: Setting, samples: int, seed: int, split: str) -> dict[str, list]:
    """Calibrate once; return {task: [examples used, correct, total, right]} on a split."""
    suite = setting.folder()
    draws = draw_indices(suite, setting.split, examples_seen(setting, samples), seed)
    models = storage.serve(suite, calibrate(setting, samples, seed))
    marks = mark_answers(predict_classes(models, open_split(suite, split), setting.method))
    return {task: [len(draws[task]), *marks[task]] for task in suite.suite.task_names}


def score_trials(trials: Iterable[Trial], split: str, title: str, work: Resumable) -> list[tuple]:
    """Return the rows of all trials, in their order, with the columns TRIAL_COLUMNS.

    Raises `memory.NotEnoughMemory` before the first trial starts if the free memory does not suffice for even one.
    """
    todo = [*trials]
    memory = max(require_memory(trial.setting, trial.samples) for trial in todo)
    results = work.run(score_trial, [(*trial[1:], split) for trial in todo], title, memory)
    suite = todo[0].setting.folder()
    return [
        (trial.name, trial.samples, suite.suite.name, trial.setting.method, task, trial.seed, *counts[task])
        for trial, counts in zip(todo, results, strict=True)
        for task in suite.suite.task_names
    ]
