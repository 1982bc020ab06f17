"""p of a rank correlation: published tables, a permutation test of another library, and the limit of many points."""

import numpy as np
import pytest
from scipy import stats

from pipeline.statistics.ranks import MOST, independence_p


@pytest.mark.parametrize(
    ("points", "rho", "p"), [(4, 1.0, 2 / 24), (5, 0.9, 10 / 120), (5, -1.0, 2 / 120), (3, 0.5, 1.0)]
)
def test_p_is_the_share_of_orders(points: int, rho: float, p: float):
    assert independence_p(rho, points) == pytest.approx(p)


def test_p_is_that_of_a_permutation_test():
    rng = np.random.default_rng(0)
    xs, ys = rng.normal(size=(2, 7))
    found = stats.permutation_test(
        (xs,), lambda order: stats.spearmanr(order, ys).statistic, permutation_type="pairings", n_resamples=np.inf
    )
    assert independence_p(float(stats.spearmanr(xs, ys).statistic), 7) == pytest.approx(found.pvalue)


@pytest.mark.parametrize("rho", [0.0, 0.3, -0.6, 1.0])
def test_many_points_have_the_p_of_students_t(rho: float):
    xs = np.arange(MOST + 1.0)
    ys = np.random.default_rng(1).permutation(xs) if abs(rho) < 1 else xs
    statistic, p = stats.spearmanr(xs, ys)
    assert independence_p(float(statistic), MOST + 1) == pytest.approx(float(p), abs=1e-12)


def test_an_undefined_correlation_has_no_p():
    assert np.isnan(independence_p(float("nan"), 5))
