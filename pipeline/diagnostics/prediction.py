"""Rank correlations between measures and losses, with 95 % intervals.

Spearman's rho is the correlation of ranks; ties have their mean rank. Where points come in strata (subsets of several
sizes), ranks are taken within each stratum, centred, divided by its number of points, and pooled: the part that the
stratum alone explains is then not credited to the measure. With one stratum this is Spearman's rho.

There are two intervals:

    low, high              percentiles of a bootstrap of the points, within strata; a resample in which all ranks are
                           tied has no correlation and is left out
    task_low, task_high    rho -+ t(T - 1) times the jackknife's standard error over tasks: every task is left out in
                           turn, with all points that contain it

Points that are subsets of the same few tasks are not independent: for measures and losses drawn at random for eight
tasks and their pairs, 73 % of the first intervals over 200 subsets excluded zero, and 12 % of the second. The first
interval covers other subsets of these tasks; only the second covers other tasks. Where points are tasks, both are too
short: for independent values 6 % of the first excluded zero with eight tasks, 15 % with five. The report has p from
all orders for them (`pipeline.statistics.ranks`).
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import scipy

RESAMPLES = 2000


def rank_correlation(one: np.ndarray, other: np.ndarray, strata: np.ndarray) -> np.ndarray:
    """Pooled rank correlation of every row of [B, n] and [B, n]; NaN where either side is constant. strata: [n]."""
    ranks = [_ranked(values, strata) for values in (one, other)]
    lengths = np.prod([np.linalg.norm(values, axis=1) for values in ranks], axis=0)
    with np.errstate(invalid="ignore"):
        return np.where(lengths > 0, (ranks[0] * ranks[1]).sum(1) / lengths, np.nan)


def _ranked(values: np.ndarray, strata: np.ndarray) -> np.ndarray:
    """Rank the values [B, n] within strata, centred and divided by the number of points."""
    ranks = np.empty(values.shape)
    for stratum in np.unique(strata):
        inside = strata == stratum
        count = int(inside.sum())
        ranks[:, inside] = (pd.DataFrame(values[:, inside]).rank(axis=1).to_numpy() - (count + 1) / 2) / count
    return ranks


def bootstrap_interval(one: np.ndarray, other: np.ndarray, strata: np.ndarray, seed: int) -> tuple[float, float]:
    """Estimate the interval of the correlation of two [n]: points are drawn within their strata, with replacement."""
    rng, indices = np.random.default_rng(seed), np.empty((RESAMPLES, len(strata)), dtype=int)
    for stratum in np.unique(strata):
        places = np.flatnonzero(strata == stratum)
        indices[:, places] = rng.choice(places, size=(RESAMPLES, len(places)))
    correlations = rank_correlation(one[indices], other[indices], strata)
    if np.isnan(correlations).all():
        return float("nan"), float("nan")
    low, high = np.nanquantile(correlations, (0.025, 0.975))
    return float(low), float(high)


def jackknife_interval(
    one: np.ndarray, other: np.ndarray, strata: np.ndarray, members: Sequence[Sequence[int]]
) -> tuple[float, float]:
    """Estimate the interval over tasks; NaN if a correlation without one of the tasks is undefined.

    members: the tasks of each point.
    """
    correlations = []
    for task in sorted({task for tasks in members for task in tasks}):
        rest = np.array([task not in tasks for tasks in members])
        correlations.append(rank_correlation(one[None, rest], other[None, rest], strata[rest])[0])
    freedom = len(correlations) - 1
    error = np.sqrt(freedom * np.var(correlations)) * scipy.stats.t.ppf(0.975, freedom)
    centre = rank_correlation(one[None], other[None], strata)[0]
    return float(np.clip(centre - error, -1, 1)), float(np.clip(centre + error, -1, 1))


CORRELATION_COLUMNS = ("scope", "measure", "method", "n", "rho", "low", "high", "task_low", "task_high")
CorrelationRow = tuple[str, str, str, int, float, float, float, float, float]


def correlate_measures(
    scope: str,
    measures: Mapping[str, np.ndarray],
    losses: Mapping[str, np.ndarray],
    strata: Sequence[int],
    members: Sequence[Sequence[int]],
    seed: int,
) -> list[CorrelationRow]:
    """Correlate every measure [n] with every method's loss [n]: a row of CORRELATION_COLUMNS each.

    strata: the stratum of each point; members: the tasks of each point.
    """
    groups = np.asarray(strata)
    return [
        (
            *(scope, measure, method, len(groups)),
            float(rank_correlation(values[None], loss[None], groups)[0]),
            *bootstrap_interval(values, loss, groups, seed),
            *jackknife_interval(values, loss, groups, members),
        )
        for measure, values in measures.items()
        for method, loss in losses.items()
    ]
