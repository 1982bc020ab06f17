"""The data-efficiency study: the same method, schedule and seeds with ever more unlabelled images per task.

Every number of images gets the same number of optimiser steps, and the draws of a seed are nested, so that the curve
shows the effect of the images alone.
"""

from collections.abc import Sequence
from pathlib import Path

from pipeline import merges, store
from pipeline.evaluate import HEADER, rows
from pipeline.problem import Setting, calibrate_seeds


def efficiency(
    setting: Setting, evaluation_split: str, samples: Sequence[int], seeds: Sequence[int], output: Path
) -> None:
    """Write the merges of every k of `samples` to `output`/k and all scores to `output`/scores.csv.

    The scores have one column more than those of `evaluate`, first: `k`, the number of images asked for.
    """
    found = calibrate_seeds(setting, samples, seeds)
    artefacts = [output / str(k) for k in samples]
    for one, path in zip(found, artefacts, strict=True):
        merges.save(one, path)
    scores = rows(setting.suite, setting.method, artefacts, evaluation_split, f"evaluate {setting.method}")
    per_artefact = len(scores) // len(artefacts)
    budgets = [k for k in samples for _ in range(per_artefact)]
    store.write_csv(output / "scores.csv", ("k", *HEADER), [(k, *row) for k, row in zip(budgets, scores, strict=True)])
