"""Paired differences of accuracy tables."""

import numpy as np
import pandas as pd
import pytest

from pipeline.paired import difference
from pipeline.statistics import StatisticsError

TASKS = ("a", "b", "c", "d")


def table(seeds: int, **offsets: np.ndarray) -> pd.DataFrame:
    """Accuracies of methods that differ from a common table by their offsets."""
    common = np.random.default_rng(0).uniform(40, 90, (seeds, len(TASKS)))
    frames = {name: pd.DataFrame(common + offset, columns=TASKS) for name, offset in offsets.items()}
    return pd.concat(frames, names=["method", "seed"])


def test_a_constant_difference_has_no_width():
    found = difference(table(3, one=np.array(2.0), other=np.array(0.0)), TASKS, "one", "other")
    assert (found.mean, found.low, found.high) == pytest.approx((2, 2, 2))
    assert (found.seeds, found.tasks) == (3, 4)


def test_the_interval_turns_with_the_sign():
    noise = np.random.default_rng(1).normal(1, 3, (3, 4))
    there, back = (difference(table(3, one=noise, other=np.array(0.0)), TASKS, *pair) for pair in
                   (("one", "other"), ("other", "one")))  # fmt: skip
    assert (there.mean, there.low, there.high) == pytest.approx((-back.mean, -back.high, -back.low))
    assert there.low < there.mean < there.high


def test_the_width_is_that_of_the_mean_over_tasks():
    offsets = np.broadcast_to(np.array([-3.0, -1.0, 1.0, 3.0]), (2, 4))
    found = difference(table(2, one=offsets, other=np.array(0.0)), TASKS, "one", "other")
    expected = 1.96 * np.std(offsets[0]) / np.sqrt(4)
    assert found.mean == pytest.approx(0, abs=1e-12)
    assert found.high == pytest.approx(expected, rel=0.15)
    assert found.low == pytest.approx(-expected, rel=0.15)


def test_runs_that_do_not_pair_are_refused():
    with pytest.raises(StatisticsError, match="one and other ran with different seeds"):
        difference(table(3, one=np.array(2.0), other=np.array(0.0)).drop(("other", 1)), TASKS, "one", "other")


def test_one_run_of_one_task_has_no_interval():
    found = difference(table(1, one=np.array(2.0), other=np.array(0.0)), TASKS[:1], "one", "other")
    assert found.mean == pytest.approx(2)
    assert np.isnan(found.low)
    assert np.isnan(found.high)
