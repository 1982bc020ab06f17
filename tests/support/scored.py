"""A data/ folder with scored merges of the tiny suite, a method for every kind of serving."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pipeline.merges import storage
from pipeline.merges.solution import Extras, Solution
from pipeline.merges.storage import Merges
from pipeline.models.suite import SuiteFolder
from pipeline.runtime import store
from pipeline.steps.evaluate import SCORE_COLUMNS, count_correct, predict_seeds
from tests.support import toy

SUITE = "tiny"
DATA_FREE = {
    "average": {},
    "individual": {},
    "emr": {},
    "smile": {"merge.smile": {"rank": 32}},
    "feature_ensemble": {},
    "rmm": {"merge.rmm": {"rank": 16}},
}
"""Methods without examples and parameters that their run records have."""


def fill(root: Path, suite: Path) -> None:
    """Write root/data: the suite of the folder `suite`, merges, counts and run records."""
    shutil.copytree(suite, root / "data/suites" / SUITE)
    folder = SuiteFolder(root / "data/suites" / SUITE)
    for name, params in DATA_FREE.items():
        toy.data_free(name, folder, merge_path(root, name))
        score(root, name, f"merge-{SUITE}-{name}", params)
    seen = {"calibration_split": "train", "seeds": [3, 5]}
    for name, record, extras in (
        ("samerging", f"samerging-{SUITE}", [None, None]),
        ("surgery-average", f"surgery-{SUITE}-average", [adapters(seed) for seed in (3, 5)]),
        ("symerge", f"calibrate-{SUITE}-symerge", [trained_heads(seed) for seed in (3, 5)]),
    ):
        save_calibrated(root, name, extras)
        score(root, name, record, seen)


def merge_path(root: Path, name: str) -> Path:
    """The folder of a merge."""
    return root / "data/merges" / SUITE / name


def save_calibrated(root: Path, name: str, extras: list[Extras | None]) -> None:
    """Write a merge of the seeds 3 and 5 with random coefficients."""
    suite, noise = SuiteFolder(root / "data/suites" / SUITE).suite, torch.Generator().manual_seed(0)
    shape = len(suite.tasks), len(suite.groups)
    solutions = [Solution(0.3 * torch.randn(shape, generator=noise), extras=extra) for extra in extras]
    samples = dict(zip(suite.task_names, (4, 5, 6), strict=True))
    storage.save(Merges((3, 5), samples, suite.groups, solutions), merge_path(root, name))


def adapters(seed: int) -> Extras:
    """Corrections of the features that change them visibly."""
    noise = torch.Generator().manual_seed(seed)
    shapes = {f"{task}/{part}": shape for task in toy.TASKS for part, shape in (("down", (4, 16)), ("up", (16, 4)))}
    return Extras("adapters", {name: torch.randn(shape, generator=noise) for name, shape in shapes.items()})


def trained_heads(seed: int) -> Extras:
    """Heads other than the zero-shot ones."""
    noise = torch.Generator().manual_seed(seed)
    heads = {name: torch.randn(len(classes), 16, generator=noise) for name, classes in toy.TASKS.items()}
    return Extras("heads", heads)


def score(root: Path, name: str, record: str, params: Mapping[str, Any]) -> None:
    """Write the counts of a merge and the run records of its stages."""
    suite, merge = root / "data/suites" / SUITE, merge_path(root, name)
    rows = count_correct(SUITE, name, merge, predict_seeds(suite, merge, "test", name))
    store.write_csv(root / "data/scores" / SUITE / f"{name}.csv", SCORE_COLUMNS, rows)
    store.write_json(root / "data/runs" / f"{record}.json", {"params": params})
    store.write_json(root / f"data/runs/evaluate-{SUITE}-{name}.json", {"params": {"evaluation_split": "test"}})
