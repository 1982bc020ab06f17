"""One method or setting against another in the same runs, where only counts are kept: what studies compare with.

`pipeline.statistics` does the same from the answers to every image.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline.statistics import RESAMPLES, Drawn, StatisticsError, interval, pigeonhole


@dataclass(frozen=True)
class Difference:
    """`mean` of the paired differences of two methods' averages, in points, and its 95 % interval."""

    mean: float
    low: float
    high: float
    seeds: int
    tasks: int


def difference(table: pd.DataFrame, tasks: Sequence[str], method: Hashable, other: Hashable) -> Difference:
    """`method` minus `other` in the same seeds, with a 95 % interval over seeds and tasks.

    table: accuracies in per cent, a row per (method, seed) and a column per task. Seeds and tasks are drawn
    independently and crossed: seeds of one task share its test images, so that seeds x tasks are not that many
    independent differences. One seed and one task have no interval.
    """
    pairs = (table.loc[method, list(tasks)] - table.loc[other, list(tasks)]).to_numpy()
    if not np.isfinite(pairs).all():
        raise StatisticsError(f"{method} and {other} ran with different seeds; run their stages again (dvc repro)")

    def mean(drawn: Drawn) -> np.ndarray:
        return pairs[drawn["seeds"][:, :, None], drawn["tasks"][:, None, :]].mean(axis=(1, 2))

    if pairs.size == 1:
        return Difference(float(pairs.mean()), np.nan, np.nan, 1, 1)
    found = interval(pairs.mean(), pigeonhole(mean, dict(zip(("seeds", "tasks"), pairs.shape, strict=True)), RESAMPLES))
    return Difference(float(found.value), float(found.low), float(found.high), *pairs.shape)
