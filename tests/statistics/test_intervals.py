"""Intervals against Student's and Welch's tests and simulation; adjusted p-values, means and profiles by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pipeline.statistics.intervals import (
    Marks,
    StatisticsError,
    adjust_p_values,
    compare_methods,
    compare_pairs,
    interquartile_mean,
    mark_methods,
    mean_interval,
    performance_profile,
    t_interval,
)

SEEDS = (0, 1, 2)
PAIR = {"one": 1, "two": -1}


def random_answers(rng, share, runs, tasks=3, examples=60):
    """Draw bools [runs, examples] per task."""
    return {f"t{task}": rng.random((runs, examples)) < share for task in range(tasks)}


def mark(rights, seeds=None):
    return mark_methods(rights, seeds or {name: SEEDS[: len(tasks["t0"])] for name, tasks in rights.items()})


def compare(rights, seeds=None):
    """The first method minus the second."""
    return compare_methods(mark(rights, seeds), PAIR)


def ends(interval):
    return float(interval.low), float(interval.high)


def test_the_mean_of_one_axis_has_students_interval():
    members = np.random.default_rng(0).normal(0.4, 1, (7, 2))
    interval, expected = t_interval(members.mean(0), [members]), stats.ttest_1samp(members, 0)
    assert interval.p == pytest.approx(expected.pvalue)
    for found, wanted in zip((interval.low, interval.high), expected.confidence_interval(0.95), strict=True):
        assert found == pytest.approx(wanted)


def test_unequal_seeds_have_welchs_interval_and_p():
    """Answers that differ by seed alone: two samples of unequal sizes and variances."""
    counts = {"one": (60, 70, 85), "two": (10, 40, 45, 90, 35)}
    rights = {name: {"t0": np.arange(100) < np.array(tops)[:, None]} for name, tops in counts.items()}
    marks = mark(rights, {name: tuple(f"{name} {seed}" for seed in range(len(tops))) for name, tops in counts.items()})
    still = Marks({name: [np.repeat(task.mean(-1, keepdims=True), 4, -1) for task in tasks]
                   for name, tasks in marks.tasks.items()}, marks.seeds, [strata(0, np.arange(4))])  # fmt: skip
    comparison = compare_methods(still, PAIR)
    expected = stats.ttest_ind(*(np.array(tops) / 100 for tops in counts.values()), equal_var=False)
    assert ends(comparison.average) == pytest.approx((*expected.confidence_interval(0.95),))
    assert comparison.p == pytest.approx(expected.pvalue)
    assert comparison.seeds == (3, 5)


def test_equal_seeds_are_paired():
    """Two methods with equal seed effects differ by a constant."""
    right = np.arange(100) < np.array((20, 50, 80))[:, None]
    rights = {"one": {"t0": right, "t1": right}, "two": {"t0": right[:, ::-1], "t1": right[:, ::-1]}}
    assert ends(compare(rights).like) == (0, 0)
    low, high = ends(compare(rights, {"one": (0, 1, 2), "two": (3, 4, 5)}).like)
    assert high - low == pytest.approx(2 * stats.t.ppf(0.975, 4) * np.sqrt(2 / 3) * 0.3)


def test_without_seeds_the_standard_error_is_that_of_paired_proportions():
    rng = np.random.default_rng(3)
    first = rng.random((1, 400)) < 0.8
    second = first ^ (rng.random((1, 400)) < 0.15)
    comparison = compare(
        {"one": {"t0": first, "t1": first}, "two": {"t0": second, "t1": second}}, {"one": (None,), "two": (None,)}
    )
    gained, lost = (first & ~second).mean(), (second & ~first).mean()
    error = np.sqrt((gained + lost - (gained - lost) ** 2) / 399)  # of McNemar's discordant pairs
    assert comparison.tasks.value == pytest.approx(2 * [gained - lost])
    assert comparison.tasks.high - comparison.tasks.low == pytest.approx(2 * [2 * stats.t.ppf(0.975, 399) * error])
    low, high = ends(comparison.average)
    assert high - low == pytest.approx(2 * stats.t.ppf(0.975, 798) * error / np.sqrt(2)), "each task has its examples"


def test_p_approximates_the_exact_test_of_discordant_pairs():
    first, second = np.ones((1, 500), bool), np.ones((1, 500), bool)
    second[0, :34], first[0, 34:50] = False, False
    rights = {name: {"t0": right, "t1": np.ones((1, 500), bool)} for name, right in (("one", first), ("two", second))}
    comparison = compare(rights, dict.fromkeys(rights, (None,)))
    assert comparison.p == pytest.approx(stats.binomtest(34, 50).pvalue, abs=0.01)
    assert (comparison.won, comparison.lost, comparison.examples) == (1, 0, 1000)


def test_a_method_without_randomness_is_subtracted_from_every_seed():
    rng = np.random.default_rng(0)
    rights = {"one": random_answers(rng, 0.7, 3), "two": random_answers(rng, 0.5, 1)}
    comparison = compare(rights, {"one": SEEDS, "two": (None,)})
    expected = [rights["one"][task].mean() - rights["two"][task].mean() for task in ("t0", "t1", "t2")]
    assert comparison.tasks.value == pytest.approx(expected)
    assert comparison.average.value == pytest.approx(np.mean(expected))
    assert comparison.seeds == (3, 1)


@pytest.mark.parametrize(("tasks", "seeds"), [(3, 3), (5, 3), (8, 3), (8, 1), (20, 3)])
def test_intervals_cover_the_chance_of_few_tasks_and_seeds(tasks: int, seeds: int):
    rng, trials = np.random.default_rng(0), 4000
    noise = rng.normal(0, 0.5, (trials, seeds, 1)) * (seeds > 1)  # no interval covers the effect of a single seed
    intervals = [mean_interval(grid) for grid in rng.normal(0, 1, (trials, 1, tasks)) + noise]
    assert 0.93 <= np.mean([interval.low <= 0 <= interval.high for interval in intervals]) <= 0.98


def test_intervals_cover_the_chance_of_examples_and_seeds():
    rng, trials, size = np.random.default_rng(0), 400, 3
    covered = np.zeros(2)
    for _ in range(trials):
        effects = rng.normal(0.5, 0.1, (size, 1))
        rights = {"one": {f"t{task}": rng.random((size, 40)) < effects for task in range(2)}}
        rights["two"] = random_answers(rng, 0.5, 1, 2, 40)
        interval = compare(rights, {"one": SEEDS, "two": (None,)}).average
        gains = [rights["one"][task].mean(axis=0) - rights["two"][task][0] for task in ("t0", "t1")]
        error = np.sqrt(sum(gain.var() / len(gain) for gain in gains)) / 2  # of the examples alone
        covered += [interval.low <= 0 <= interval.high, abs(interval.value) <= stats.norm.ppf(0.975) * error]
    coverage, examples_only = covered / trials
    assert 0.93 <= coverage <= 0.995
    assert examples_only < 0.9, "an interval that leaves out a source of chance is too narrow"


@pytest.mark.parametrize("seeds", [1, 8])
@pytest.mark.parametrize("swap", [False, True])
def test_intervals_for_tasks_like_these_are_over_whole_tasks_and_seeds(seeds, swap):
    # One of 8 tasks (or seeds) gains everything, however many seeds (or tasks) repeat the same differences.
    gains = np.zeros((seeds, 8), bool)
    gains[:, 0] = True
    expected = stats.ttest_1samp(gains[0].astype(float), 0).confidence_interval(0.95)
    gains = gains.T if swap else gains
    new = {f"t{task}": np.repeat(column[:, None], 5, axis=1) for task, column in enumerate(gains.T)}
    rights = {"one": new, "two": {task: np.zeros_like(right) for task, right in new.items()}}
    names = dict.fromkeys(rights, tuple(range(len(gains))))
    if gains.shape[1] == 1:
        rights = {name: {**tasks, "copy": tasks["t0"]} for name, tasks in rights.items()}
    comparison = compare(rights, names)
    assert (comparison.average.value, *ends(comparison.like)) == pytest.approx((1 / 8, *expected))


def test_intervals_for_tasks_like_these_leave_the_examples_alone():
    right = random_answers(np.random.default_rng(0), 0.5, 1, tasks=1)["t0"]
    comparison = compare(
        {"one": {"t0": right, "t1": right}, "two": {"t0": ~right, "t1": ~right}}, {"one": (0,), "two": (0,)}
    )
    assert comparison.like.low == comparison.like.high == comparison.average.value
    assert comparison.average.low < comparison.average.value < comparison.average.high


def strata(*columns):
    """Clusters [n, 1 + C] of columns that start with the stratum."""
    return np.stack([np.broadcast_to(column, len(columns[-1])) for column in columns], 1)


def test_copies_of_an_example_are_one_cluster():
    """Answers to every example seven times over have the interval of the examples, not one that is narrower."""
    rng = np.random.default_rng(4)
    rights = {"one": random_answers(rng, 0.7, 1), "two": random_answers(rng, 0.6, 1)}
    copies = {name: {task: np.tile(right, 7) for task, right in tasks.items()} for name, tasks in rights.items()}
    clusters = {f"t{task}": strata(0, rng.permutation(60)[np.arange(7 * 60) % 60]) for task in range(3)}
    single, seeds = compare(rights), dict.fromkeys(rights, (0,))
    clustered = compare_methods(mark_methods(copies, seeds, clusters=clusters), PAIR)
    assert ends(clustered.average) == pytest.approx(ends(single.average))
    np.testing.assert_allclose(clustered.tasks.high, single.tasks.high)
    naive = compare(copies)
    assert naive.average.high - naive.average.low < 0.4 * (single.average.high - single.average.low)


def compare_with_nothing(right, clusters):
    """Compare a method with one that is never right; return the marks and the interval of the task."""
    wrong, both = np.zeros_like(right), ("t0", "t1")
    rights = {"one": {"t0": right, "t1": wrong}, "two": dict.fromkeys(both, wrong)}
    marks = mark_methods(rights, dict.fromkeys(rights, (None,)), clusters=dict.fromkeys(both, clusters))
    interval = compare_methods(marks, PAIR).tasks
    return marks, (interval.low[0], interval.high[0])


def test_clusters_of_unequal_sizes_have_the_robust_variance():
    """G / (G - 1) times the sum of squares of the clusters' residual sums, as econometrics has it."""
    sizes, rng = np.array([1, 4, 9, 2, 30, 14]), np.random.default_rng(5)
    members = np.repeat(np.arange(len(sizes)), sizes)
    right = rng.random((1, len(members))) < 0.6
    marks, interval = compare_with_nothing(right, strata(0, members))
    rest = right[0] - right.mean()
    sums = np.array([rest[members == cluster].sum() for cluster in range(len(sizes))])
    error = np.sqrt(len(sizes) / (len(sizes) - 1) * (sums**2).sum()) / len(members)
    half = stats.t.ppf(0.975, len(sizes) - 1) * error
    assert interval == pytest.approx((right.mean() - half, right.mean() + half))
    assert (marks.count, marks.clustered) == (2 * 60, 2)


@pytest.mark.parametrize(("members", "tasks"), [(np.arange(60) + 900, 0), (np.arange(60) // 2 + 900, 2)])
def test_clusters_may_have_any_numbers(members: np.ndarray, tasks: int):
    right = np.random.default_rng(8).random((1, 60)) < 0.6
    marks, interval = compare_with_nothing(right, strata(0, members))
    assert marks.clustered == tasks
    assert interval == pytest.approx(compare_with_nothing(right, strata(0, members - 900))[1])


def test_strata_that_differ_widen_nothing():
    """Two strata, one never right: the variance is that of the other one, times the square of its share."""
    rng = np.random.default_rng(6)
    stratum, members = np.repeat([0, 1], [40, 60]), np.concatenate([np.arange(40) // 10, 4 + np.arange(60) // 10])
    right = (rng.random((1, 100)) < 0.5) & (stratum == 1)
    _, (low, high) = compare_with_nothing(right, strata(stratum, members))
    means = right[0, 40:].reshape(6, 10).mean(1)
    error = 0.6 * means.std(ddof=1) / np.sqrt(6)
    assert high - low == pytest.approx(2 * stats.t.ppf(0.975, 5) * error)
    _, (low, high) = compare_with_nothing(right, strata(0, members))
    assert high - low > 3 * error * stats.t.ppf(0.975, 5), "without strata the difference between them counts"


def test_two_ways_of_clustering_add_their_variances():
    rng = np.random.default_rng(7)
    right = rng.random((1, 60)) < 0.6
    ways = np.arange(60) % 5, np.arange(60) // 10
    _, (low, high) = compare_with_nothing(right, strata(0, *ways))
    parts = []
    for way in ways:
        means = np.array([right[0, way == cluster].mean() for cluster in np.unique(way)])
        parts.append((means.var(ddof=1) / len(means), len(means) - 1))
    variance = sum(part for part, _ in parts)
    freedom = variance**2 / sum(part**2 / members for part, members in parts)
    assert high - low == pytest.approx(2 * stats.t.ppf(0.975, freedom) * np.sqrt(variance))


def test_intervals_cover_the_chance_of_clusters():
    rng, trials, fonts = np.random.default_rng(0), 1000, 7
    of_fonts, covered, tasks = np.repeat(np.arange(fonts), 30), np.zeros(2), ("t0", "t1")
    clusters = dict.fromkeys(tasks, strata(0, of_fonts))
    for _ in range(trials):
        levels = {task: rng.normal(0.5, 0.1, fonts)[of_fonts] for task in tasks}
        rights = {"one": {task: rng.random((1, 210)) < levels[task] for task in tasks}}
        rights["two"] = random_answers(rng, 0.5, 1, 2, 210)
        seeds = dict.fromkeys(rights, (None,))
        intervals = (compare_methods(mark_methods(rights, seeds, clusters=it), PAIR).average for it in (clusters, {}))
        covered += [interval.low <= 0 <= interval.high for interval in intervals]
    assert 0.93 <= covered[0] / trials <= 0.98
    assert covered[1] / trials < 0.9, "an interval over images alone is too narrow"


@pytest.mark.parametrize(
    ("clusters", "message"),
    [
        (strata(0, np.arange(59)), r"t1: clusters of shape \(59, 2\), expected 60 rows"),
        (strata(0, np.zeros(60, int)), "t1: a stratum of one cluster"),
        (strata(np.arange(60) // 20, np.arange(60) // 20), "t1: a stratum of one cluster"),
    ],
)
def test_clusters_are_of_every_example_and_several_per_stratum(clusters: np.ndarray, message: str):
    rights = {"one": random_answers(np.random.default_rng(0), 0.5, 1)}
    with pytest.raises(StatisticsError, match=message):
        mark_methods(rights, {"one": (0,)}, clusters={"t1": clusters})


def test_two_examples_of_one_cluster_have_no_interval():
    with pytest.raises(StatisticsError, match="t: a stratum of one cluster"):
        mark_methods({"one": {"t": np.array([[True, False]])}}, {"one": (0,)}, clusters={"t": strata(0, [3, 3])})


def test_the_reverse_difference_is_the_negative():
    rng = np.random.default_rng(1)
    marks = mark({"one": random_answers(rng, 0.7, 3), "two": random_answers(rng, 0.6, 3)})
    forward, backward = compare_methods(marks, PAIR), compare_methods(marks, {"two": 1, "one": -1})
    for name in ("average", "like", "tasks"):
        interval, mirrored = getattr(forward, name), getattr(backward, name)
        np.testing.assert_allclose(interval.value, -mirrored.value)
        np.testing.assert_allclose(interval.low, -mirrored.high, atol=1e-12)
        np.testing.assert_allclose(interval.high, -mirrored.low, atol=1e-12)
    assert (forward.p, forward.won, forward.lost) == (pytest.approx(backward.p), backward.lost, backward.won)


def test_equal_methods_have_a_difference_of_zero():
    right = random_answers(np.random.default_rng(0), 0.7, 3)
    comparison = compare({"one": right, "two": right})
    assert (*ends(comparison.average), *ends(comparison.like)) == (0, 0, 0, 0)
    assert (comparison.p, comparison.won, comparison.lost) == (1, 0, 0)


def test_differences_without_chance_are_certain():
    sure, never = ({"t0": np.full((3, 9), right), "t1": np.full((3, 9), right)} for right in (True, False))
    comparison = compare({"one": sure, "two": never})
    assert (*ends(comparison.average), comparison.p, comparison.won) == (1, 1, 0, 2)


def test_another_method_changes_no_interval():
    rng = np.random.default_rng(0)
    rights = {name: random_answers(rng, 0.6, 3) for name in ("one", "two", "three")}
    alone, among = compare(rights), mark(rights)
    assert compare_pairs(among, [("one", "two"), ("one", "three")])["one", "two"].average == alone.average
    adjusted = [comparison.p for comparison in compare_pairs(among, [("one", "two"), ("one", "three")]).values()]
    raw = [compare_methods(among, {"one": 1, other: -1}).p for other in ("two", "three")]
    assert adjusted == adjust_p_values(raw).tolist()


def test_an_axis_of_one_member_is_left_out_and_refused_on_its_own():
    members = np.array([0.1, 0.4, 0.3])
    assert t_interval(members.mean(), [members, np.array([9.0])]) == t_interval(members.mean(), [members])
    with pytest.raises(StatisticsError, match="nothing to draw from"):
        mean_interval(np.ones((1, 1)))


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
        mark({"one": {"t0": np.ones((1, 8), bool)}, "two": two}, {"one": (0,), "two": (0,)})


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


def constant_marks(*shares):
    """Marks of `one`, a row of shares per seed and a column per task, and of `top`, which is always right."""
    one = [np.repeat(column[None, :, None], 5, -1) for column in np.array(shares).T]
    seeds = {"one": SEEDS[: len(shares)], "top": (None,)}
    return Marks({"one": one, "top": [np.ones((1, 1, 5))] * len(one)}, seeds, [strata(0, np.arange(5))] * len(one))


def test_the_interquartile_mean_by_hand():
    marks = constant_marks((0.1, 0.2, 0.3, 0.4), (0.5, 0.6, 0.7, 0.9))
    assert interquartile_mean(marks, "one", "top") == pytest.approx(np.mean([0.3, 0.4, 0.5, 0.6]))
    halved = Marks({**marks.tasks, "top": [task / 2 for task in marks.tasks["top"]]}, marks.seeds, marks.clusters)
    assert interquartile_mean(halved, "one", "top") == pytest.approx(2 * np.mean([0.3, 0.4, 0.5, 0.6]))


def test_profile_by_hand():
    profile = performance_profile(constant_marks((0.2, 0.4), (0.6, 0.8)), "one", "top", np.array([0, 0.2, 0.5, 0.8, 1]))
    assert profile.tolist() == [1, 0.75, 0.5, 0, 0]


def test_a_profile_integrates_to_the_mean():
    rights = {"one": random_answers(np.random.default_rng(0), 0.6, 3), "top": random_answers(np.random, 2, 1)}
    marks = mark(rights, {"one": SEEDS, "top": (None,)})
    profile = performance_profile(marks, "one", "top", np.linspace(0, 1, 1000, endpoint=False))
    assert profile.mean() == pytest.approx(marks.accuracies("one").mean(), abs=1e-3)


def test_experts_that_are_never_right_leave_scores_undefined():
    marks = constant_marks((0.2, 0.4), (0.1, 0.3))
    undefined = Marks({**marks.tasks, "top": [0 * task for task in marks.tasks["top"]]}, marks.seeds, marks.clusters)
    assert np.isnan(interquartile_mean(undefined, "one", "top"))
    assert np.isnan(performance_profile(undefined, "one", "top", np.array([0.5]))).all()
