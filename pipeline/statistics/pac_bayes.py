"""A PAC-Bayes bound of the loss of a randomised merge, from losses in [0, 1] and the Kullback-Leibler divergence.

P is a prior that does not depend on the examples, Q a posterior that may. With probability 1 - delta over n independent
examples, for all Q at once (Seeger 2002; Maurer 2004, arXiv cs/0411099):

    kl(loss of Q on the examples || expected loss of Q) <= (KL(Q || P) + ln(2 sqrt(n) / delta)) / n

kl is that of two Bernoulli variables. The examples need not have one distribution: k from each of T tasks are n = T k
independent losses, and no convex function of their mean has a larger expectation than with n losses of one
distribution and the same mean (Hoeffding 1956); nor has it for a draw without replacement (Hoeffding 1963, theorem 4).
The bound is then one of the mean over tasks. It divides KL by T k, where the mean of a bound per task, each for a T-th
of delta, divides KL by k.

The loss of Q on the examples is estimated from m draws of Q. By Chernoff's inequality it is, with probability
1 - delta, at most the largest p with kl(mean of the draws || p) <= ln(1 / delta) / m.
"""

from typing import NamedTuple

import numpy as np

RISK = 0.05
"""Probability that a bound may fail, over the draw of the examples and of the coefficients."""
BISECTIONS = 60


class RiskBound(NamedTuple):
    """What is known, with probability 1 - RISK, of the expected loss of a randomised merge."""

    estimated: float
    """Upper limit of its loss on the examples themselves."""
    expected: float
    """Upper limit of its expected loss."""


def bernoulli_divergence(mean: float, other: float) -> float:
    """Return kl(mean || other) of two Bernoulli variables, in nats."""
    pairs = ((mean, other), (1 - mean, 1 - other))
    return sum(p * float(np.log(p / max(q, np.finfo(float).tiny))) for p, q in pairs if p > 0)


def invert_divergence(mean: float, budget: float) -> float:
    """Return the largest p in [mean, 1] with kl(mean || p) <= budget, by bisection."""
    low, high = mean, 1.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if bernoulli_divergence(mean, middle) <= budget else (low, middle)
    return high


def bound_risk(sampled: float, draws: int, divergence: float, examples: int, choices: int = 1) -> RiskBound:
    """Bound the expected loss of a posterior.

    sampled: mean loss of `draws` draws of the posterior, each on examples drawn from the `examples`; divergence:
    KL(Q || P). choices: how many posteriors the caller chooses from by their bounds; RISK is shared among them, and one
    half of each share is for the draws.
    """
    shares = 2 * choices / RISK
    estimated = invert_divergence(sampled, float(np.log(shares)) / draws)
    budget = (divergence + float(np.log(2 * np.sqrt(examples) * shares))) / examples
    return RiskBound(estimated, invert_divergence(estimated, budget))
