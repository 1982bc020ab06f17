"""Does a measure predict a loss? Rank correlations with bootstrap intervals.

Spearman's rho is the correlation of ranks, ties at their mean rank. Where points come in strata (subsets of several
sizes), ranks are taken within each stratum, about their mean and as a share of its points, and pooled: what the stratum
alone explains is then no merit of the measure. With one stratum that is Spearman's rho.

Intervals are percentiles of a bootstrap of the points, within strata; a resample in which all ranks are tied has no
correlation and is left out. With the eight points of eight tasks such an interval is rough.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

RESAMPLES = 2000


def correlation(one: np.ndarray, other: np.ndarray, strata: np.ndarray) -> np.ndarray:
    """Pooled rank correlation of every row of [B, n] and [B, n], strata [n]; NaN where either side is constant."""
    ranks = [_ranked(values, strata) for values in (one, other)]
    lengths = np.prod([np.linalg.norm(values, axis=1) for values in ranks], axis=0)
    with np.errstate(invalid="ignore"):
        return np.where(lengths > 0, (ranks[0] * ranks[1]).sum(1) / lengths, np.nan)


def _ranked(values: np.ndarray, strata: np.ndarray) -> np.ndarray:
    found = np.empty(values.shape)
    for stratum in np.unique(strata):
        inside = strata == stratum
        count = int(inside.sum())
        found[:, inside] = (pd.DataFrame(values[:, inside]).rank(axis=1).to_numpy() - (count + 1) / 2) / count
    return found


def interval(one: np.ndarray, other: np.ndarray, strata: np.ndarray, seed: int) -> tuple[float, float]:
    """The 95 % interval of the correlation of two [n]: points are drawn anew within their strata, with replacement."""
    rng, indices = np.random.default_rng(seed), np.empty((RESAMPLES, len(strata)), dtype=int)
    for stratum in np.unique(strata):
        places = np.flatnonzero(strata == stratum)
        indices[:, places] = rng.choice(places, size=(RESAMPLES, len(places)))
    found = correlation(one[indices], other[indices], strata)
    if np.isnan(found).all():
        return float("nan"), float("nan")
    return tuple(float(edge) for edge in np.nanquantile(found, (0.025, 0.975)))


def without_each(
    one: np.ndarray, other: np.ndarray, strata: np.ndarray, members: Sequence[Sequence[int]]
) -> tuple[float, float]:
    """The least and greatest correlation when a task is left out with every point that has it among its `members`."""
    found = []
    for task in sorted({task for tasks in members for task in tasks}):
        kept = np.array([task not in tasks for tasks in members])
        if kept.any():
            found.append(correlation(one[None, kept], other[None, kept], strata[kept])[0])
    if not np.isfinite(found).any():
        return float("nan"), float("nan")
    return float(np.nanmin(found)), float(np.nanmax(found))


HEADER = ("scope", "measure", "method", "n", "rho", "low", "high", "least", "most")
Row = tuple[str, str, str, int, float, float, float, float, float]


def predict(
    scope: str,
    measures: Mapping[str, np.ndarray],
    losses: Mapping[str, np.ndarray],
    strata: Sequence[int],
    members: Sequence[Sequence[int]],
    seed: int,
) -> list[Row]:
    """A row (see HEADER) for every measure [n] and every method's loss [n].

    `members`: the tasks of each point, for `least` and `most`, the range of rho when any one task is left out.
    """
    groups = np.asarray(strata)
    return [
        (
            *(scope, measure, method, len(groups)),
            float(correlation(values[None], loss[None], groups)[0]),
            *interval(values, loss, groups, seed),
            *without_each(values, loss, groups, members),
        )
        for measure, values in measures.items()
        for method, loss in losses.items()
    ]
