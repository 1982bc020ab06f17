"""Conventions: every merge that decomposes matrices, with q, k and v split or fused, positions averaged or decomposed.

All else is as published, the scale included. Data-free methods merge once, or once for each of their own seeds; the
calibrated one is calibrated with the run's seeds, on the same examples under every convention.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Annotated, Literal, cast

from pydantic import Field

from pipeline import methods
from pipeline.merges import storage
from pipeline.models.suite import SuiteFolder
from pipeline.runtime.device import device
from pipeline.runtime.resumable import Resumable
from pipeline.runtime.schema import DISTINCT, Parameters
from pipeline.steps.calibrate import Setting
from pipeline.steps.evaluate import open_split, predict_classes
from pipeline.steps.merge import merge_data_free
from pipeline.studies._trials import TRIAL_COLUMNS, Trial, mark_answers, score_trials
from pipeline.toolbox.conventions import Conventions

COLUMNS = (*TRIAL_COLUMNS, "default")
"""`setting`: matrices/positional_embedding; `k`: 0 without data; `default`: 1 for the method's own convention."""
MATRICES, POSITIONS = ("split", "fused"), ("average", "decompose")
Decomposing = Literal["iso_c", "iso_cts", "tsv_m", "wudi", "opcm", "ace", "dc_merge", "do_merging", "esm"]


class Params(Parameters):
    """The grid."""

    methods: Annotated[list[Decomposing], Field(min_length=2), DISTINCT]
    """The methods compared; each needs its own parameters in params.yaml."""


def format_conventions(conventions: Conventions) -> str:
    """Return the conventions as in the column `setting`: `split/average`."""
    return f"{conventions.matrices}/{conventions.positional_embedding}"


def list_conventions(published: Conventions) -> list[Conventions]:
    """Return a method's parameters under each of the four conventions."""
    choices = (
        dict(zip(("matrices", "positional_embedding"), pair, strict=True)) for pair in product(MATRICES, POSITIONS)
    )
    return [published.model_copy(update=choice) for choice in choices]


def split_seeds(params: Conventions) -> dict[int | None, Conventions]:
    """Return {seed: the parameters with this seed alone}, or {None: the parameters} for a method without randomness."""
    if not hasattr(params, "seeds"):
        return {None: params}
    return {seed: params.model_copy(update={"seeds": [seed]}) for seed in params.seeds}


def score_convention(folder: Path, method: str, params: Conventions, split: str) -> dict[str, tuple[int, int, str]]:
    """Merge without data, with one seed if the method draws; return {task: (correct, total, right)} on a split."""
    suite = SuiteFolder(folder)
    vectors = suite.vectors(target=device())
    solution = merge_data_free(methods.load(method), vectors, params, suite.suite.task_names).solutions[0].cpu()
    return mark_answers(predict_classes(storage.serve(suite, solution), open_split(suite, split), method))


def score_conventions(
    data_free: Mapping[str, Conventions],
    calibrated: Setting,
    params: Params,
    samples: int,
    seeds: Sequence[int],
    split: str,
    work: Resumable,
) -> list[tuple]:
    """Return the rows of all methods that `params` lists, under every convention, with the columns COLUMNS.

    `data_free`: {name: parameters} of data-free methods; `calibrated`: the calibrated method, whose parameters are
    Conventions too; `samples`, `seeds`: its examples per task and its seeds.
    """
    suite, published = calibrated.folder().suite, {**data_free, calibrated.method: cast(Conventions, calibrated.params)}
    runs = [
        (method, variant, seed, seeded)
        for method in params.methods
        if method in data_free
        for variant in list_conventions(data_free[method])
        for seed, seeded in split_seeds(variant).items()
    ]
    pieces = [(calibrated.suite, method, seeded, split) for method, _, _, seeded in runs]
    marks = work.run(score_convention, pieces, "merges by convention")
    rows = [
        (format_conventions(variant), 0, suite.name, method, task, seed, 0, *counts[task])
        for (method, variant, seed, _), counts in zip(runs, marks, strict=True)
        for task in suite.task_names
    ]
    if calibrated.method in params.methods:
        trials = [
            Trial(format_conventions(variant), replace(calibrated, params=variant), samples, seed)
            for variant in list_conventions(cast(Conventions, calibrated.params))
            for seed in seeds
        ]
        rows += score_trials(trials, split, "calibrations by convention", work)
    return [(*row, int(row[0] == format_conventions(published[row[3]]))) for row in rows]
