"""Paired differences of accuracy tables, and contrasts of settings from the answers to all examples."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from pipeline.merges.answers import Answers
from pipeline.statistics.contrasts import (
    Contrast,
    PairedDifference,
    combine_settings,
    contrast_settings,
    mark_settings,
    paired_difference,
)
from pipeline.statistics.intervals import StatisticsError, compare_methods, mark_methods
from pipeline.studies._trials import MARK_COLUMNS, mark_answers

TASKS = ("a", "b", "c", "d")
Rights = dict[str, dict[str, np.ndarray]]
"""{setting: {task: bool [S, n]}}."""


def table(seeds: int, **offsets: np.ndarray) -> pd.DataFrame:
    """Accuracies of methods that differ from a common table by their offsets."""
    common = np.random.default_rng(0).uniform(40, 90, (seeds, len(TASKS)))
    frames = {name: pd.DataFrame(common + offset, columns=TASKS) for name, offset in offsets.items()}
    return pd.concat(frames, names=["method", "seed"])


def test_a_constant_difference_has_no_width():
    difference = paired_difference(table(3, one=np.array(2.0), other=np.array(0.0)), TASKS, "one", "other")
    assert (difference.mean, difference.low, difference.high) == pytest.approx((2, 2, 2))
    assert (difference.seeds, difference.tasks) == (3, 4)


def test_swapping_the_methods_mirrors_the_interval():
    noise = np.random.default_rng(1).normal(1, 3, (3, 4))
    forward, backward = (
        paired_difference(table(3, one=noise, other=np.array(0.0)), TASKS, *pair)
        for pair in (("one", "other"), ("other", "one"))
    )
    assert (forward.mean, forward.low, forward.high) == pytest.approx((-backward.mean, -backward.high, -backward.low))
    assert forward.low < forward.mean < forward.high


def test_the_interval_has_the_width_of_a_mean_over_tasks():
    offsets = np.broadcast_to(np.array([-3.0, -1.0, 1.0, 3.0]), (2, 4))
    difference = paired_difference(table(2, one=offsets, other=np.array(0.0)), TASKS, "one", "other")
    expected = stats.t.ppf(0.975, 3) * np.std(offsets[0], ddof=1) / np.sqrt(4)
    assert difference.mean == pytest.approx(0, abs=1e-12)
    assert (difference.low, difference.high) == pytest.approx((-expected, expected))


def test_unpaired_runs_are_refused():
    with pytest.raises(StatisticsError, match="one and other ran with different seeds"):
        paired_difference(table(3, one=np.array(2.0), other=np.array(0.0)).drop(("other", 1)), TASKS, "one", "other")


def test_one_run_of_one_task_has_no_interval():
    difference = paired_difference(table(1, one=np.array(2.0), other=np.array(0.0)), TASKS[:1], "one", "other")
    assert difference.mean == pytest.approx(2)
    assert np.isnan(difference.low)
    assert np.isnan(difference.high)


def random_rights(shares: dict[str, float], seeds: int, examples: tuple[int, ...] = (60, 45)) -> Rights:
    """Draw answers with a share of right ones per setting; all settings find the same examples hard."""
    rng = np.random.default_rng(0)
    difficulty = {task: rng.random(size) for task, size in zip(TASKS, examples, strict=False)}
    return {
        setting: {
            task: levels + rng.normal(0, 0.3, (seeds, levels.size)) < share for task, levels in difficulty.items()
        }
        for setting, share in shares.items()
    }


def scores(rights: Rights, name: str = "setting") -> pd.DataFrame:
    """Scores as a study writes them."""
    records = []
    for setting, tasks in rights.items():
        for seed in range(len(next(iter(tasks.values())))):
            predictions = {task: right[[seed]].astype(np.int16) for task, right in tasks.items()}
            marked = mark_answers(Answers(predictions, dict.fromkeys(tasks, 1)))
            records += [(setting, "tiny", "method", task, seed, 8, *counts) for task, counts in marked.items()]
    return pd.DataFrame(records, columns=(name, *MARK_COLUMNS))


def contrast_letters(rights: Rights, plus: str, minus: str) -> Contrast:
    """Contrast the settings of two strings, a letter each."""
    tasks = [*next(iter(rights.values()))]
    marks = mark_settings(scores(rights), ("setting",), tasks, {})
    return contrast_settings(marks, [(letter,) for letter in plus], [(letter,) for letter in minus])


def interval_edges(difference: PairedDifference) -> tuple[float, float, float]:
    return difference.mean, difference.low, difference.high


def test_a_contrast_of_two_settings_is_the_difference_of_two_methods():
    rights = random_rights({"x": 0.7, "y": 0.6, "z": 0.5}, seeds=3)
    contrast = contrast_letters(rights, "x", "y")
    expected = compare_methods(mark_methods(rights, dict.fromkeys(rights, (0, 1, 2))), {"x": 1, "y": -1})
    for difference, interval in ((contrast.these, expected.average), (contrast.like, expected.like)):
        assert interval_edges(difference) == pytest.approx(
            (100 * interval.value, 100 * interval.low, 100 * interval.high)
        )
        assert (difference.seeds, difference.tasks) == (3, 2)
    assert (contrast.won, contrast.lost, contrast.examples) == (expected.won, expected.lost, 105)


def test_the_interval_for_tasks_like_these_is_that_of_the_counts():
    rights = random_rights({"x": 0.7, "y": 0.6}, seeds=3, examples=(60, 45, 8))
    counts = scores(rights).assign(accuracy=lambda rows: 100 * rows.correct / rows.total)
    wide = counts.pivot(index=["setting", "seed"], columns="task", values="accuracy")
    expected = paired_difference(wide, TASKS[:3], "x", "y")
    assert interval_edges(contrast_letters(rights, "x", "y").like) == pytest.approx(interval_edges(expected))


def test_with_one_seed_the_width_is_that_of_the_differences_per_example():
    """Each example's difference of mean answers is one of -1, -1/2, 0, 1/2, 1: its mean has multinomial variance."""
    rights = random_rights({"x": 0.8, "y": 0.7, "u": 0.6, "v": 0.7}, seeds=1, examples=(900, 400))
    gains = {task: sum(sign * rights[name][task][0] / 2 for name, sign in zip("xyuv", (1, 1, -1, -1), strict=True))
             for task in TASKS[:2]}  # fmt: skip
    assert all({*gain} == {-1, -0.5, 0, 0.5, 1} for gain in gains.values())
    parts = [(gain.var(ddof=1) / gain.size / 4, gain.size - 1) for gain in gains.values()]
    variance = sum(part for part, _ in parts)
    freedom = variance**2 / sum(part**2 / size for part, size in parts)
    difference = contrast_letters(rights, "xy", "uv").these
    assert difference.mean == pytest.approx(100 * np.mean([gain.mean() for gain in gains.values()]))
    width = 2 * stats.t.ppf(0.975, freedom) * 100 * np.sqrt(variance)
    assert difference.high - difference.low == pytest.approx(width)


def test_the_interval_of_a_mean_over_settings_by_hand():
    rights = random_rights({"x": 0.8, "y": 0.5, "z": 0.6}, seeds=3)
    by_task = [(rights["x"][task] * 0.5 + rights["y"][task] * 0.5 - rights["z"][task]) for task in TASKS[:2]]
    seeds = np.mean([effects.mean(1) for effects in by_task], axis=0)
    parts = [(seeds.var(ddof=1) / 3, 2)]
    parts += [(effects.mean(0).var(ddof=1) / effects.shape[1] / 4, effects.shape[1] - 1) for effects in by_task]
    variance = sum(part for part, _ in parts)
    freedom = variance**2 / sum(part**2 / size for part, size in parts)
    half = stats.t.ppf(0.975, freedom) * np.sqrt(variance)
    difference = contrast_letters(rights, "xy", "z").these
    expected = 100 * np.array([seeds.mean(), seeds.mean() - half, seeds.mean() + half])
    assert interval_edges(difference) == pytest.approx(expected.tolist())


@pytest.mark.parametrize("seeds", [1, 3])
def test_equal_differences_on_every_example_give_no_width(seeds: int):
    always, never = ({task: np.full((seeds, 20), right) for task in TASKS} for right in (True, False))
    contrast = contrast_letters({"x": always, "y": never}, "x", "y")
    assert interval_edges(contrast.these) == interval_edges(contrast.like) == (100, 100, 100)
    assert (contrast.won, contrast.lost) == (4, 0)


def test_a_single_seed_is_fixed_and_several_widen_the_interval():
    """Only one seed gains, and on every example: all chance is that of the seeds."""
    gains = {task: np.repeat(np.eye(3, 1, dtype=bool), 20, axis=1) for task in TASKS}
    nothing = {task: np.zeros_like(gain) for task, gain in gains.items()}
    contrast = contrast_letters({"x": gains, "y": nothing}, "x", "y")
    expected = stats.ttest_1samp([100.0, 0.0, 0.0], 0).confidence_interval(0.95)
    assert interval_edges(contrast.these) == pytest.approx((100 / 3, *expected))
    assert interval_edges(contrast.like) == pytest.approx((100 / 3, *expected))
    single = contrast_letters(
        {name: {t: r[:1] for t, r in tasks.items()} for name, tasks in (("x", gains), ("y", nothing))}, "x", "y"
    )
    assert interval_edges(single.these) == (100, 100, 100)


def test_swapping_the_settings_mirrors_the_contrast():
    rights = random_rights({"x": 0.7, "y": 0.6, "z": 0.5}, seeds=2)
    forward, backward = contrast_letters(rights, "x", "yz"), contrast_letters(rights, "yz", "x")
    for difference, mirrored in ((forward.these, backward.these), (forward.like, backward.like)):
        assert interval_edges(difference) == pytest.approx((-mirrored.mean, -mirrored.high, -mirrored.low))
    assert (forward.won, forward.lost) == (backward.lost, backward.won)


def test_settings_may_span_columns_and_rows_come_in_any_order():
    shares = zip(product("pq", (1, 2)), (0.5, 0.6, 0.7, 0.8), strict=True)
    rights = random_rights({f"{letter}{k}": share for (letter, k), share in shares}, seeds=2)
    rows = scores(rights)
    split = rows.assign(setting=rows.setting.str[0], k=rows.setting.str[1].astype(int))
    marks, reordered = (
        mark_settings(frame, ("setting", "k"), ("a", "b"), {})
        for frame in (split, split.sample(frac=1, random_state=1))
    )
    for pair in ([("p", 2)], [("q", 1)]), ([("p", 1), ("q", 1)], [("p", 2), ("q", 2)]):
        assert contrast_settings(marks, *pair) == contrast_settings(reordered, *pair)
    expected = 100 * np.mean([rights["p2"][task].mean() - rights["q1"][task].mean() for task in ("a", "b")])
    assert contrast_settings(marks, [("p", 2)], [("q", 1)]).these.mean == pytest.approx(expected)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"right": "ff"}, "x, b, seed 1: right has 8 bits, not one for each of 10 examples"),
        ({"right": "ff8000"}, "x, b, seed 1: right has 24 bits, not one for each of 10 examples"),
        ({"right": "fe20"}, "x, b, seed 1: right has 16 bits, not one for each of 10 examples"),
        ({"right": "ff80"}, "x, b, seed 1: 9 examples are marked right, but correct = 7; run the study again"),
        ({"right": "fg80"}, "x, b, seed 1: right = 'fg80', expected hexadecimal digits"),
        ({"right": 8000}, "x, b, seed 1: right = 8000, expected hexadecimal digits"),
        ({"seed": 0}, "x, b: seeds 0 0, examples 10; expected seeds 0 1"),
        ({"total": 11}, "x, b: seeds 0 1, examples 10 11; expected seeds 0 1, each with the same examples"),
    ],
)
def test_answers_that_contradict_the_counts_are_refused(changed: dict[str, object], message: str):
    right = np.arange(10) < 7
    rows = scores({name: {task: np.stack([right, right]) for task in ("a", "b")} for name in "yx"})
    place = rows.index[(rows.setting == "x") & (rows.task == "b") & (rows.seed == 1)]
    for column, value in changed.items():
        rows[column] = rows[column].astype(object)
        rows.loc[place, column] = value
    with pytest.raises(StatisticsError, match=message):
        mark_settings(rows.infer_objects(), ("setting",), ("a", "b"), {})


def test_scores_without_answers_are_refused():
    rows = scores(random_rights({"x": 0.7}, seeds=1)).drop(columns="right")
    with pytest.raises(StatisticsError, match=r"without the column `right`.*run the study again"):
        mark_settings(rows, ("setting",), ("a", "b"), {})


def test_a_run_without_a_task_is_refused():
    rows = scores(random_rights({"x": 0.7, "y": 0.6}, seeds=1))
    with pytest.raises(StatisticsError, match="y, b: seeds none, examples none; expected seeds 0"):
        mark_settings(rows[(rows.setting != "y") | (rows.task != "b")], ("setting",), ("a", "b"), {})


def test_methods_with_different_seeds_are_compared_as_by_compare_methods():
    rights = {
        **random_rights({"x": 0.7}, seeds=3),
        **random_rights({"y": 0.6}, seeds=2),
        **random_rights({"z": 0.5}, seeds=1),
    }
    with pytest.raises(StatisticsError, match="expected seeds 0 1 2"):
        mark_settings(scores(rights), ("setting",), TASKS[:2], {})
    marks = mark_settings(scores(rights), ("setting",), TASKS[:2], {}, seeded=("setting",))
    owners = {"x": (0, 1, 2), "y": (0, 1), "z": (0,)}
    expected = mark_methods(rights, owners)
    for plus, minus in ("xy", "yz"):
        contrast = combine_settings(marks, {(plus,): 1, (minus,): -1})
        comparison = compare_methods(expected, {plus: 1, minus: -1})
        for difference, interval in ((contrast.these, comparison.average), (contrast.like, comparison.like)):
            assert interval_edges(difference) == pytest.approx(
                (100 * interval.value, 100 * interval.low, 100 * interval.high)
            )
            assert difference.seeds == len(owners[plus])
        assert (contrast.won, contrast.lost, contrast.examples) == (comparison.won, comparison.lost, 105)


def test_a_combination_of_settings_is_the_contrast_of_their_means():
    rights = random_rights({"x": 0.8, "y": 0.7, "u": 0.6, "v": 0.7}, seeds=2)
    marks = mark_settings(scores(rights), ("setting",), TASKS[:2], {})
    combination = combine_settings(marks, {("x",): 1, ("y",): 1, ("u",): -1, ("v",): -1})
    contrast = contrast_settings(marks, [("x",), ("y",)], [("u",), ("v",)])
    assert interval_edges(combination.these) == pytest.approx([2 * edge for edge in interval_edges(contrast.these)])
    assert interval_edges(combination.like) == pytest.approx([2 * edge for edge in interval_edges(contrast.like)])
