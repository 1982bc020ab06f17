"""Intervals against closed forms and simulation; adjusted p-values, interquartile means and profiles by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, norm

from pipeline.statistics.bootstrap import (
    Resampled,
    StatisticsError,
    adjust_p_values,
    compare_methods,
    compare_with_others,
    iqm,
    multiplicities,
    performance_profile,
    pigeonhole_bootstrap,
    resample_accuracies,
)

DRAWS = 4000
SEEDS = (0, 1, 2)


def random_answers(rng, share, runs, tasks=3, examples=60):
    """Draw bools [runs, examples] per task."""
    return {f"t{task}": rng.random((runs, examples)) < share for task in range(tasks)}


def resample(rights, seeds=None, draws=DRAWS):
    return resample_accuracies(
        rights, seeds or {name: SEEDS[: len(tasks["t0"])] for name, tasks in rights.items()}, draws
    )


def test_without_seeds_the_standard_error_is_that_of_paired_proportions():
    rng = np.random.default_rng(3)
    first = rng.random((1, 400)) < 0.8
    second = first ^ (rng.random((1, 400)) < 0.15)
    resampled = resample(
        {"one": {"t0": first, "t1": first}, "two": {"t0": second, "t1": second}}, {"one": (None,), "two": (None,)}
    )
    gained, lost = (first & ~second).mean(), (second & ~first).mean()
    error = np.sqrt((gained + lost - (gained - lost) ** 2) / 400)  # of McNemar's discordant pairs
    draws = resampled.examples["one"][:, 0] - resampled.examples["two"][:, 0]
    assert draws.std(axis=0) == pytest.approx(2 * [error], rel=0.05)
    assert draws.mean(axis=1).std() == pytest.approx(error / np.sqrt(2), rel=0.05), "each task has examples of its own"
    comparison = compare_methods(resampled, "one", "two")
    assert comparison.tasks.value == pytest.approx(2 * [gained - lost])
    assert comparison.tasks.high - comparison.tasks.low == pytest.approx(2 * [2 * norm.ppf(0.975) * error], rel=0.1)


def test_p_approximates_the_exact_test_of_discordant_pairs():
    first, second = np.ones((1, 500), bool), np.ones((1, 500), bool)
    second[0, :34], first[0, 34:50] = False, False
    rights = {name: {"t0": right, "t1": np.ones((1, 500), bool)} for name, right in (("one", first), ("two", second))}
    comparison = compare_methods(resample(rights, dict.fromkeys(rights, (None,))), "one", "two")
    assert comparison.p == pytest.approx(binomtest(34, 50).pvalue, abs=0.01)
    assert (comparison.won, comparison.lost, comparison.examples) == (1, 0, 1000)


def test_equal_seeds_are_paired():
    """Two methods with equal seed effects differ by a constant in every draw of seeds."""
    right = np.zeros((3, 100), bool)
    for seed, count in enumerate((20, 50, 80)):
        right[seed, :count] = True
    rights = {"one": {"t0": right, "t1": right}, "two": {"t0": right[:, ::-1], "t1": right[:, ::-1]}}
    paired = resample(rights).tasks
    spread = (paired["one"].mean((1, 2)) - paired["two"].mean((1, 2))).std()
    assert spread == 0
    unpaired = resample(rights, {"one": (0, 1, 2), "two": (3, 4, 5)}).tasks
    spread = (unpaired["one"].mean((1, 2)) - unpaired["two"].mean((1, 2))).std()
    assert spread == pytest.approx(np.sqrt(2) * np.std([0.2, 0.5, 0.8]) / np.sqrt(3), rel=0.05)


def test_a_method_without_randomness_is_subtracted_from_every_seed():
    rng = np.random.default_rng(0)
    rights = {"one": random_answers(rng, 0.7, 3), "two": random_answers(rng, 0.5, 1)}
    comparison = compare_methods(resample(rights, {"one": SEEDS, "two": (None,)}), "one", "two")
    expected = [rights["one"][task].mean() - rights["two"][task].mean() for task in ("t0", "t1", "t2")]
    assert comparison.tasks.value == pytest.approx(expected)
    assert comparison.average.value == pytest.approx(np.mean(expected))
    assert comparison.seeds == (3, 1)


def simulate_methods(rng, size, spread):
    """Draw a method with normal seed effects and one without seeds, equal in expectation."""
    effects = rng.normal(0.5, spread, (size, 1))
    seeded = {f"t{task}": rng.random((size, 40)) < effects for task in range(2)}
    return {"one": seeded, "two": random_answers(rng, 0.5, 1, 2, 40)}


def test_intervals_cover_the_chance_of_examples_and_seeds():
    rng, trials, size = np.random.default_rng(0), 150, 12
    covered = np.zeros(2)
    for _ in range(trials):
        rights = simulate_methods(rng, size, 0.2)
        interval = compare_methods(
            resample_accuracies(rights, {"one": tuple(range(size)), "two": (None,)}, 300), "one", "two"
        ).average
        gains = [rights["one"][task].mean(axis=0) - rights["two"][task][0] for task in ("t0", "t1")]
        error = np.sqrt(sum(gain.var() / len(gain) for gain in gains)) / 2  # of the examples alone
        covered += [interval.low <= 0 <= interval.high, abs(interval.value) <= norm.ppf(0.975) * error]
    coverage, examples_only = covered / trials
    assert 0.9 <= coverage <= 0.99
    assert examples_only < 0.85, "an interval that leaves out a source of chance is too narrow"


@pytest.mark.parametrize("seeds", [1, 8])
@pytest.mark.parametrize("swap", [False, True])
def test_intervals_for_tasks_like_these_resample_whole_tasks_and_seeds(seeds, swap):
    # One of 8 tasks (or seeds) gains everything: a draw's mean is Binomial(8, 1/8) / 8, whose 97.5 % quantile is 3 / 8,
    # however many seeds (or tasks) repeat the same differences.
    gains = np.zeros((seeds, 8), bool)
    gains[:, 0] = True
    gains = gains.T if swap else gains
    new = {f"t{task}": np.repeat(column[:, None], 5, axis=1) for task, column in enumerate(gains.T)}
    rights = {"new": new, "old": {task: np.zeros_like(right) for task, right in new.items()}}
    names = dict.fromkeys(rights, tuple(range(len(gains))))
    if gains.shape[1] == 1:
        rights = {name: {**tasks, "copy": tasks["t0"]} for name, tasks in rights.items()}
    comparison = compare_methods(resample_accuracies(rights, names), "new", "old")
    assert (comparison.average.value, comparison.like.low, comparison.like.high) == (1 / 8, 0, 3 / 8)


def test_intervals_for_tasks_like_these_do_not_resample_examples():
    rng = np.random.default_rng(0)
    right = random_answers(rng, 0.5, 1, tasks=1)["t0"]
    resampled = resample(
        {"one": {"t0": right, "t1": right}, "two": {"t0": ~right, "t1": ~right}}, {"one": (0,), "two": (0,)}
    )
    comparison = compare_methods(resampled, "one", "two")
    assert comparison.like.low == comparison.like.high == comparison.average.value
    assert comparison.average.low < comparison.average.value < comparison.average.high


def test_the_reverse_difference_is_the_negative():
    rng = np.random.default_rng(1)
    resampled = resample({"one": random_answers(rng, 0.7, 3), "two": random_answers(rng, 0.6, 3)})
    forward, backward = compare_methods(resampled, "one", "two"), compare_methods(resampled, "two", "one")
    for name in ("average", "like", "tasks"):
        interval, mirrored = getattr(forward, name), getattr(backward, name)
        np.testing.assert_allclose(interval.value, -mirrored.value)
        np.testing.assert_allclose(interval.low, -mirrored.high, atol=1e-12)
        np.testing.assert_allclose(interval.high, -mirrored.low, atol=1e-12)
    assert (forward.p, forward.won, forward.lost) == (backward.p, backward.lost, backward.won)


def test_equal_methods_have_a_difference_of_zero():
    right = random_answers(np.random.default_rng(0), 0.7, 3)
    comparison = compare_methods(resample({"one": right, "two": right}), "one", "two")
    assert (comparison.average.low, comparison.average.high, comparison.like.low, comparison.like.high) == (0, 0, 0, 0)
    assert (comparison.p, comparison.won, comparison.lost) == (1, 0, 0)


def test_the_same_answers_give_the_same_draws():
    rights = {
        "one": random_answers(np.random.default_rng(0), 0.7, 3),
        "two": random_answers(np.random.default_rng(1), 0.6, 1),
    }
    draws, repeated = (resample(rights, {"one": SEEDS, "two": (None,)}, 500) for _ in range(2))
    assert all(np.array_equal(draws.examples[name], repeated.examples[name]) for name in rights)
    single = resample({"one": rights["one"]}, {"one": SEEDS}, 500)
    assert np.array_equal(single.examples["one"], draws.examples["one"]), "another method changes no draw"


def test_accuracies_of_a_draw_are_those_of_its_examples():
    rights = {"one": random_answers(np.random.default_rng(0), 0.5, 2, 2, 30)}
    resampled = resample_accuracies(rights, {"one": (5, 6)}, 10)
    rng = np.random.default_rng(0)  # the order in which scipy draws: seeds, then each task's examples
    seeds, *examples = (rng.integers(0, size, (10, size)) for size in (2, 30, 30))
    for draw in range(10):
        for place in range(2):
            expected = [rights["one"][f"t{task}"][seeds[draw, place], examples[task][draw]].mean() for task in range(2)]
            assert resampled.examples["one"][draw, place] == pytest.approx(expected)


def test_an_axis_of_one_member_is_fixed_and_refused_on_its_own():
    draws = {"one": [], "two": []}

    def statistic(drawn):
        for axis, members in drawn.items():
            draws[axis] += members.ravel().tolist()
        return np.zeros(len(drawn["two"]))

    assert pigeonhole_bootstrap(statistic, {"one": 1, "two": 2}, 9).shape == (9,)
    assert {axis: {*members} for axis, members in draws.items()} == {"one": {0}, "two": {0, 1}}
    with pytest.raises(StatisticsError, match="nothing to draw from"):
        pigeonhole_bootstrap(lambda drawn: drawn["one"], {"one": 1}, 9)


@given(st.lists(st.lists(st.integers(0, 4), min_size=3, max_size=3), min_size=1, max_size=5))
def test_multiplicities_count_every_member(drawn):
    expected = [[row.count(member) for member in range(5)] for row in drawn]
    assert multiplicities(np.array(drawn), 5).tolist() == expected


@pytest.mark.parametrize(
    ("two", "message"),
    [
        ({"t0": np.ones((1, 9), bool)}, r"two: answers of t0 have shape \(1, 9\), expected \(1, 8\)"),
        ({"t0": np.ones((2, 8), bool)}, r"two: answers of t0 have shape \(2, 8\), expected \(1, 8\)"),
        ({"t1": np.ones((1, 8), bool)}, "two: answers of t0 have shape None"),
    ],
)
def test_answers_to_other_examples_are_refused(two, message):
    with pytest.raises(StatisticsError, match=message):
        resample({"one": {"t0": np.ones((1, 8), bool)}, "two": two}, {"one": (0,), "two": (0,)})


def test_holm_by_hand():
    assert adjust_p_values([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert adjust_p_values([0.6, 0.7]).tolist() == [1, 1]
    assert adjust_p_values([]).tolist() == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_lies_between_no_correction_and_bonferronis(p):
    adjusted, values = adjust_p_values(p), np.array(p)
    assert (adjusted >= values).all()
    assert (adjusted <= np.minimum(1, len(p) * values)).all()
    assert (np.diff(adjusted[np.argsort(values, kind="stable")]) >= 0).all()
    assert adjusted.min() == pytest.approx(min(1, len(p) * values.min()))


def test_many_comparisons_are_corrected_for_their_number():
    rng = np.random.default_rng(0)
    resampled = resample({name: random_answers(rng, share, 1) for name, share in (("a", 0.6), ("b", 0.5), ("c", 0.2))})
    comparisons = compare_with_others(resampled, "a", ["b", "c"])
    uncorrected = [compare_methods(resampled, "a", name).p for name in ("b", "c")]
    assert [comparison.p for comparison in comparisons.values()] == pytest.approx(adjust_p_values(uncorrected))
    assert list(comparisons) == ["b", "c"]


def constant_draws(*values):
    """Draws that all equal `values` [S, T]; the experts are always right."""
    runs = {"one": np.array(values, float), "top": np.ones((1, len(values[0])))}
    drawn = {name: np.repeat(value[None], 3, axis=0) for name, value in runs.items()}
    return Resampled(runs, drawn, drawn, 1)


def test_interquartile_mean_by_hand():
    interval = iqm(constant_draws((0.1, 0.2, 0.3, 0.4), (0.5, 0.6, 0.7, 8.0)), "one", "top")
    assert (interval.value, interval.low, interval.high) == pytest.approx(3 * (np.mean([0.3, 0.4, 0.5, 0.6]),))


def test_scores_are_normalised_by_the_experts_of_the_same_draw():
    rng = np.random.default_rng(0)
    right = random_answers(rng, 0.8, 1)
    interval = iqm(resample({"one": right, "top": right}, {"one": (None,), "top": (None,)}), "one", "top")
    assert (interval.value, interval.low, interval.high) == (1, 1, 1)


def test_profile_by_hand():
    profile = performance_profile(constant_draws((0.2, 0.4), (0.6, 0.8)), "one", "top", np.array([0, 0.2, 0.5, 0.8, 1]))
    assert profile.value.tolist() == profile.low.tolist() == profile.high.tolist() == [1, 0.75, 0.5, 0, 0]


def test_a_profile_integrates_to_the_mean_and_lies_in_its_band():
    resampled = resample(
        {
            "one": random_answers(np.random.default_rng(0), 0.6, 3),
            "top": {f"t{t}": np.ones((1, 60), bool) for t in range(3)},
        },
        {"one": SEEDS, "top": (None,)},
    )
    thresholds = np.linspace(0, 1, 1000, endpoint=False)
    profile = performance_profile(resampled, "one", "top", thresholds)
    assert profile.value.mean() == pytest.approx(resampled.observed["one"].mean(), abs=1e-3)
    assert ((profile.low <= profile.value) & (profile.value <= profile.high)).all()
    assert (profile.high - profile.low).max() > 0


def test_experts_that_are_never_right_leave_scores_undefined():
    resampled = constant_draws((0.2, 0.4))
    zero = {
        name: {**runs, "top": 0 * runs["top"]}
        for name, runs in (("observed", resampled.observed), ("examples", resampled.examples))
    }
    undefined = Resampled(zero["observed"], zero["examples"], resampled.tasks, 1)
    assert np.isnan(iqm(undefined, "one", "top").value)
    assert np.isnan(performance_profile(undefined, "one", "top", np.array([0.5])).value).all()
