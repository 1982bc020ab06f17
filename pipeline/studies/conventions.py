"""Conventions: every merge that decomposes matrices, with q, k and v apart or fused, positions averaged or decomposed.

All else is as published, the scale included. Methods without data merge once, or with every seed of theirs; the
calibrated one is calibrated with the run's seeds, on the same images under every convention.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from pipeline import methods
from pipeline.merges import storage
from pipeline.models.suite import SuiteFolder
from pipeline.runtime.device import device
from pipeline.runtime.resumable import Resumable
from pipeline.runtime.schema import Parameters
from pipeline.steps.calibrate import Setting
from pipeline.steps.evaluate import on, replies
from pipeline.studies._trials import SCORES, Trial, marks, scores
from pipeline.toolbox.conventions import Conventions

COLUMNS = (*SCORES, "default")
"""`setting`: matrices/positional_embedding; `k`: 0 without data; `default`: 1 for the method's own convention."""
MATRICES, POSITIONS = ("split", "fused"), ("average", "decompose")


class Params(Parameters):
    """The grid."""

    methods: Annotated[list[Literal["iso_c", "iso_cts", "tsv_m", "wudi", "opcm", "esm"]], Field(min_length=2)]
    """Which methods are compared; each needs its parameters."""


def label(conventions: Conventions) -> str:
    """`split/average`."""
    return f"{conventions.matrices}/{conventions.positional_embedding}"


def variants(published: Conventions) -> list[Conventions]:
    """The parameters under each of the four conventions."""
    choices = (
        dict(zip(("matrices", "positional_embedding"), both, strict=True)) for both in product(MATRICES, POSITIONS)
    )
    return [published.model_copy(update=choice) for choice in choices]


def by_seed(params: Conventions) -> dict[int | None, Conventions]:
    """{seed: the parameters with this seed alone}; {None: the parameters} of a method without randomness."""
    if not hasattr(params, "seeds"):
        return {None: params}
    return {seed: params.model_copy(update={"seeds": [seed]}) for seed in params.seeds}


def data_free(folder: Path, method: str, params: Conventions, split: str) -> dict[str, tuple[int, int, str]]:
    """{task: (correct, total, right)} of a merge without data, of one seed if it draws."""
    suite = SuiteFolder(folder)
    vectors = suite.vectors(target=device())
    solution = storage.data_free(methods.load(method), vectors, params, suite.suite.task_names).solutions[0].cpu()
    return marks(replies(storage.serve(suite, solution), on(suite, split), method))


def measure(
    free: Mapping[str, Conventions],
    calibrated: Setting,
    params: Params,
    samples: int,
    seeds: Sequence[int],
    split: str,
    work: Resumable,
) -> list[tuple]:
    """Rows, see COLUMNS: data-free methods {name: parameters} and a calibrated one, as far as `params` has them."""
    suite, published = calibrated.folder().suite, {**free, calibrated.method: calibrated.params}
    runs = [
        (method, variant, seed, drawn)
        for method in params.methods
        if method in free
        for variant in variants(free[method])
        for seed, drawn in by_seed(variant).items()
    ]
    pieces = [(calibrated.suite, method, drawn, split) for method, _, _, drawn in runs]
    marked = work.run(data_free, pieces, "merges by convention")
    rows = [
        (label(variant), 0, suite.name, method, task, seed, 0, *counts[task])
        for (method, variant, seed, _), counts in zip(runs, marked, strict=True)
        for task in suite.task_names
    ]
    if calibrated.method in params.methods:
        trials = [
            Trial(label(variant), replace(calibrated, params=variant), samples, seed)
            for variant in variants(calibrated.params)
            for seed in seeds
        ]
        rows += scores(trials, split, "calibrations by convention", work)
    return [(*row, int(row[0] == label(published[row[3]]))) for row in rows]
