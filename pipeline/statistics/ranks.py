"""Whether a rank correlation of few points can be chance."""

import itertools
from functools import cache

import numpy as np
from scipy.stats import t

MOST = 8
"""Points whose orders, 40,320 of eight, are all looked at."""


def independence_p(rho: float, points: int) -> float:
    """Return the two-sided p of Spearman's rho of at least three points without ties, all orders equally likely.

    Up to MOST points it is exact, the share of the orders whose |rho| is at least as large; beyond, Student's t stands
    for that. NaN if rho is undefined.
    """
    if np.isnan(rho):
        return float("nan")
    if points <= MOST:
        return float((_correlate_orders(points) >= abs(rho) - 1e-6).mean())
    freedom = points - 2
    return float(2 * t.sf(abs(rho) * np.sqrt(freedom / max(1 - rho**2, 1e-15)), freedom))


@cache
def _correlate_orders(points: int) -> np.ndarray:
    """Return |rho| of the ranks 1 to n with each of their orders [n!]."""
    centred = np.arange(points) - (points - 1) / 2
    return np.abs(np.array([*itertools.permutations(centred)]) @ centred / (centred @ centred))
