"""PAC-Bayes bounds: the inverse of kl, and how often bounds hold where the truth is known."""

import math

import numpy as np
import pytest
import scipy
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.statistics.pac_bayes import RISK, bernoulli_divergence, bound_risk, invert_divergence

shares = st.floats(0, 1)


@example(1.0, 0.1)
@given(shares, st.floats(1e-6, 5))
def test_the_inverse_spends_the_budget_or_reaches_one(mean, budget):
    largest = invert_divergence(mean, budget)
    assert mean <= largest <= 1
    spent = bernoulli_divergence(mean, largest)
    assert largest > 1 - 1e-9 or spent == pytest.approx(budget, abs=1e-4)


@given(shares, st.floats(0.01, 0.99))
def test_the_divergence_is_that_of_scipy_and_above_pinskers(mean, other):
    divergence = bernoulli_divergence(mean, other)
    expected = sum(scipy.special.rel_entr([mean, 1 - mean], [other, 1 - other]))
    assert divergence == pytest.approx(expected, abs=1e-12)
    assert divergence >= 2 * (mean - other) ** 2 - 1e-12


def test_without_errors_the_bounds_have_a_closed_form():
    estimated, expected = bound_risk(0.0, 400, 7.0, 900, 3)
    shares_of_risk = RISK / 6
    assert estimated == pytest.approx(1 - shares_of_risk ** (1 / 400))
    budget = (7 + math.log(2 * 30 / shares_of_risk)) / 900
    assert bernoulli_divergence(estimated, expected) == pytest.approx(budget)
    assert bound_risk(0.0, 10**12, 7.0, 900, 3).expected == pytest.approx(1 - math.exp(-budget), abs=1e-4)


@pytest.mark.parametrize("change", [{"divergence": 30.0}, {"examples": 500}, {"draws": 50}, {"choices": 9}])
def test_less_evidence_gives_a_weaker_bound(change):
    known = {"sampled": 0.2, "draws": 400, "divergence": 7.0, "examples": 900, "choices": 3}
    assert bound_risk(**known | change).expected > bound_risk(**known).expected


def test_bounds_of_fitted_posteriors_hold_where_the_truth_is_known():
    """The labels of one task are coins, so that every classifier is wrong on half of it; all are right on the other.

    The posterior N(w, I) over linear classifiers has a w that fits the coins, the prior is N(0, I).
    """
    rng, each, inputs, draws, truth = np.random.default_rng(0), 60, 200, 2000, 0.25
    bounds, blind = [], []
    for _ in range(40):
        examples, coins = rng.normal(size=(each, inputs)), rng.choice([-1, 1], each)
        fitted = 0.1 * coins @ examples
        drawn = fitted + rng.normal(size=(draws, inputs))
        places = rng.integers(each, size=draws)
        wrong = coins[places] * np.einsum("di,di->d", drawn, examples[places]) < 0
        sampled = float(np.mean([wrong, np.zeros(draws)]))
        bounds.append(bound_risk(sampled, draws, fitted @ fitted / 2, 2 * each).expected)
        blind.append(bound_risk(sampled, draws, 0.0, 2 * each).expected)
    assert np.mean(np.array(bounds) >= truth) >= 1 - RISK
    assert np.mean(bounds) < 0.6
    assert np.mean(np.array(blind) >= truth) < 1 - RISK, "the divergence is needed"
