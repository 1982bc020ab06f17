"""Paired differences of accuracy tables, and contrasts of settings from the answers to every image."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from pipeline.merges.answers import Answers
from pipeline.statistics import bootstrap
from pipeline.statistics.bootstrap import StatisticsError
from pipeline.statistics.contrasts import (
    Contrast,
    PairedDifference,
    combine_settings,
    contrast_settings,
    paired_difference,
    resample_settings,
)
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
    found = paired_difference(table(3, one=np.array(2.0), other=np.array(0.0)), TASKS, "one", "other")
    assert (found.mean, found.low, found.high) == pytest.approx((2, 2, 2))
    assert (found.seeds, found.tasks) == (3, 4)


def test_the_interval_turns_with_the_sign():
    noise = np.random.default_rng(1).normal(1, 3, (3, 4))
    there, back = (paired_difference(table(3, one=noise, other=np.array(0.0)), TASKS, *pair) for pair in
                   (("one", "other"), ("other", "one")))  # fmt: skip
    assert (there.mean, there.low, there.high) == pytest.approx((-back.mean, -back.high, -back.low))
    assert there.low < there.mean < there.high


def test_the_width_is_that_of_the_mean_over_tasks():
    offsets = np.broadcast_to(np.array([-3.0, -1.0, 1.0, 3.0]), (2, 4))
    found = paired_difference(table(2, one=offsets, other=np.array(0.0)), TASKS, "one", "other")
    expected = 1.96 * np.std(offsets[0]) / np.sqrt(4)
    assert found.mean == pytest.approx(0, abs=1e-12)
    assert found.high == pytest.approx(expected, rel=0.15)
    assert found.low == pytest.approx(-expected, rel=0.15)


def test_runs_that_do_not_pair_are_refused():
    with pytest.raises(StatisticsError, match="one and other ran with different seeds"):
        paired_difference(table(3, one=np.array(2.0), other=np.array(0.0)).drop(("other", 1)), TASKS, "one", "other")


def test_one_run_of_one_task_has_no_interval():
    found = paired_difference(table(1, one=np.array(2.0), other=np.array(0.0)), TASKS[:1], "one", "other")
    assert found.mean == pytest.approx(2)
    assert np.isnan(found.low)
    assert np.isnan(found.high)


def answered(shares: dict[str, float], seeds: int, images: tuple[int, ...] = (60, 45)) -> Rights:
    """Answers right with a probability per setting; images are easy or hard for all of them alike."""
    rng = np.random.default_rng(0)
    hard = {task: rng.random(size) for task, size in zip(TASKS, images, strict=False)}
    return {
        setting: {task: one + rng.normal(0, 0.3, (seeds, one.size)) < share for task, one in hard.items()}
        for setting, share in shares.items()
    }


def scores(rights: Rights, name: str = "setting") -> pd.DataFrame:
    """Scores as a study writes them."""
    found = []
    for setting, tasks in rights.items():
        for seed in range(len(next(iter(tasks.values())))):
            own = {task: right[[seed]].astype(np.int16) for task, right in tasks.items()}
            marked = mark_answers(Answers(own, dict.fromkeys(tasks, 1)))
            found += [(setting, "tiny", "method", task, seed, 8, *counts) for task, counts in marked.items()]
    return pd.DataFrame(found, columns=(name, *MARK_COLUMNS))


def compared(rights: Rights, ones: str, others: str, resamples: int = 2000) -> Contrast:
    """The contrast of settings of one letter each."""
    tasks = [*next(iter(rights.values()))]
    found = resample_settings(scores(rights), ("setting",), tasks, resamples)
    return contrast_settings(found, [(one,) for one in ones], [(other,) for other in others])


def edges(found: PairedDifference) -> tuple[float, float, float]:
    return found.mean, found.low, found.high


def test_a_contrast_of_two_settings_is_the_difference_of_two_methods():
    rights = answered({"x": 0.7, "y": 0.6, "z": 0.5}, seeds=3)
    found = compared(rights, "x", "y", 500)
    expected = bootstrap.compare_methods(
        bootstrap.resample_accuracies(rights, dict.fromkeys(rights, (0, 1, 2)), 500), "x", "y"
    )
    for one, other in ((found.these, expected.average), (found.like, expected.like)):
        assert edges(one) == pytest.approx((100 * other.value, 100 * other.low, 100 * other.high))
        assert (one.seeds, one.tasks) == (3, 2)
    assert (found.won, found.lost, found.images) == (expected.won, expected.lost, 105)


def test_tasks_like_these_are_drawn_as_from_the_counts():
    rights = answered({"x": 0.7, "y": 0.6}, seeds=3, images=(60, 45, 8))
    counts = scores(rights).assign(accuracy=lambda rows: 100 * rows.correct / rows.total)
    wide = counts.pivot(index=["setting", "seed"], columns="task", values="accuracy")
    expected = paired_difference(wide, TASKS[:3], "x", "y")
    assert edges(compared(rights, "x", "y", bootstrap.RESAMPLES).like) == pytest.approx(edges(expected))


def test_with_one_seed_the_width_is_that_of_the_shares_of_every_image():
    """Each image's difference of mean answers is one of -1, -1/2, 0, 1/2, 1: the mean has its multinomial variance."""
    rights = answered({"x": 0.8, "y": 0.7, "u": 0.6, "v": 0.7}, seeds=1, images=(900, 400))
    gains = {task: sum(sign * rights[name][task][0] / 2 for name, sign in zip("xyuv", (1, 1, -1, -1), strict=True))
             for task in TASKS[:2]}  # fmt: skip
    assert all({*gain} == {-1, -0.5, 0, 0.5, 1} for gain in gains.values())
    error = 100 * np.sqrt(sum(gain.var() / gain.size for gain in gains.values())) / 2
    found = compared(rights, "xy", "uv").these
    assert found.mean == pytest.approx(100 * np.mean([gain.mean() for gain in gains.values()]))
    assert found.high - found.low == pytest.approx(2 * norm.ppf(0.975) * error, rel=0.06)


def test_a_mean_over_settings_is_drawn_as_by_hand():
    rights = answered({"x": 0.8, "y": 0.5, "z": 0.6}, seeds=3)
    drawn = np.random.default_rng(0)  # the order in which scipy draws: seeds, then each task's images
    seeds, *images = (drawn.integers(0, size, (40, size)) for size in (3, 60, 45))
    values = []
    for draw, own in enumerate(seeds):
        by_task = []
        for task, chosen in zip(TASKS, images, strict=False):
            x, y, z = (rights[name][task][own][:, chosen[draw]].mean() for name in "xyz")
            by_task.append((x + y) / 2 - z)
        values.append(100 * np.mean(by_task))
    found = compared(rights, "xy", "z", 40).these
    assert (found.low, found.high) == pytest.approx((np.quantile(values, 0.025), np.quantile(values, 0.975)))


@pytest.mark.parametrize("seeds", [1, 3])
def test_images_that_all_differ_alike_leave_no_chance(seeds: int):
    always, never = ({task: np.full((seeds, 20), right) for task in TASKS} for right in (True, False))
    found = compared({"x": always, "y": never}, "x", "y")
    assert edges(found.these) == edges(found.like) == (100, 100, 100)
    assert (found.won, found.lost) == (4, 0)


def test_one_seed_is_not_drawn_and_several_widen_the_interval():
    """Seeds of which one alone gains everything, on every image: all chance is that of the seeds."""
    gains = {task: np.repeat(np.eye(3, 1, dtype=bool), 20, axis=1) for task in TASKS}
    nothing = {task: np.zeros_like(gain) for task, gain in gains.items()}
    found = compared({"x": gains, "y": nothing}, "x", "y")
    assert edges(found.these) == edges(found.like) == pytest.approx((100 / 3, 0, 100))
    alone = compared(
        {name: {t: r[:1] for t, r in one.items()} for name, one in (("x", gains), ("y", nothing))}, "x", "y"
    )
    assert edges(alone.these) == (100, 100, 100)


def test_a_contrast_turns_with_its_sign():
    rights = answered({"x": 0.7, "y": 0.6, "z": 0.5}, seeds=2)
    there, back = compared(rights, "x", "yz"), compared(rights, "yz", "x")
    for one, other in ((there.these, back.these), (there.like, back.like)):
        assert edges(one) == pytest.approx((-other.mean, -other.high, -other.low))
    assert (there.won, there.lost) == (back.lost, back.won)


def test_settings_of_several_columns_and_rows_in_any_order():
    rights = answered({f"{one}{k}": share for (one, k), share in zip(product("pq", (1, 2)), (0.5, 0.6, 0.7, 0.8),
                                                                     strict=True)}, seeds=2)  # fmt: skip
    rows = scores(rights)
    split = rows.assign(setting=rows.setting.str[0], k=rows.setting.str[1].astype(int))
    found, again = (
        resample_settings(one, ("setting", "k"), ("a", "b")) for one in (split, split.sample(frac=1, random_state=1))
    )
    for pair in ([("p", 2)], [("q", 1)]), ([("p", 1), ("q", 1)], [("p", 2), ("q", 2)]):
        assert contrast_settings(found, *pair) == contrast_settings(again, *pair)
    expected = 100 * np.mean([rights["p2"][task].mean() - rights["q1"][task].mean() for task in ("a", "b")])
    assert contrast_settings(found, [("p", 2)], [("q", 1)]).these.mean == pytest.approx(expected)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"right": "ff"}, "x, b, seed 1: right has 8 bits, not one for each of 10 images"),
        ({"right": "ff8000"}, "x, b, seed 1: right has 24 bits, not one for each of 10 images"),
        ({"right": "fe20"}, "x, b, seed 1: right has 16 bits, not one for each of 10 images"),
        ({"right": "ff80"}, "x, b, seed 1: 9 images are marked right, but correct = 7; run the study again"),
        ({"right": "fg80"}, "x, b, seed 1: right = 'fg80', expected hexadecimal digits"),
        ({"right": 8000}, "x, b, seed 1: right = 8000, expected hexadecimal digits"),
        ({"seed": 0}, "x, b: seeds 0 0, images 10; expected seeds 0 1"),
        ({"total": 11}, "x, b: seeds 0 1, images 10 11; expected seeds 0 1, each with the same images"),
    ],
)
def test_answers_that_are_not_those_counted_are_refused(changed: dict[str, object], message: str):
    right = np.arange(10) < 7
    rows = scores({name: {task: np.stack([right, right]) for task in ("a", "b")} for name in "yx"})
    place = rows.index[(rows.setting == "x") & (rows.task == "b") & (rows.seed == 1)]
    for column, value in changed.items():
        rows[column] = rows[column].astype(object)
        rows.loc[place, column] = value
    with pytest.raises(StatisticsError, match=message):
        resample_settings(rows.infer_objects(), ("setting",), ("a", "b"))


def test_scores_without_answers_are_refused():
    rows = scores(answered({"x": 0.7}, seeds=1)).drop(columns="right")
    with pytest.raises(StatisticsError, match=r"without the column `right`.*run the study again"):
        resample_settings(rows, ("setting",), ("a", "b"))


def test_a_run_without_a_task_is_refused():
    rows = scores(answered({"x": 0.7, "y": 0.6}, seeds=1))
    with pytest.raises(StatisticsError, match="y, b: seeds none, images none; expected seeds 0"):
        resample_settings(rows[(rows.setting != "y") | (rows.task != "b")], ("setting",), ("a", "b"))


def test_methods_with_seeds_of_their_own_are_drawn_as_by_the_statistics():
    rights = {**answered({"x": 0.7}, seeds=3), **answered({"y": 0.6}, seeds=2), **answered({"z": 0.5}, seeds=1)}
    with pytest.raises(StatisticsError, match="expected seeds 0 1 2"):
        resample_settings(scores(rights), ("setting",), TASKS[:2])
    drawn = resample_settings(scores(rights), ("setting",), TASKS[:2], 500, seeded=("setting",))
    owners = {"x": (0, 1, 2), "y": (0, 1), "z": (0,)}
    expected = bootstrap.resample_accuracies(rights, owners, 500)
    for weights, ones, others in (({("x",): 1, ("y",): -1}, "x", "y"), ({("y",): 1, ("z",): -1}, "y", "z")):
        made, by_hand = combine_settings(drawn, weights), bootstrap.compare_methods(expected, ones, others)
        for part, interval in ((made.these, by_hand.average), (made.like, by_hand.like)):
            assert edges(part) == pytest.approx((100 * interval.value, 100 * interval.low, 100 * interval.high))
            assert part.seeds == len(owners[ones])
        assert (made.won, made.lost, made.images) == (by_hand.won, by_hand.lost, 105)


def test_a_combination_of_settings_is_the_contrast_of_their_means():
    rights = answered({"x": 0.8, "y": 0.7, "u": 0.6, "v": 0.7}, seeds=2)
    drawn = resample_settings(scores(rights), ("setting",), TASKS[:2], 500)
    twice = combine_settings(drawn, {("x",): 1, ("y",): 1, ("u",): -1, ("v",): -1})
    half = contrast_settings(drawn, [("x",), ("y",)], [("u",), ("v",)])
    assert edges(twice.these) == pytest.approx([2 * edge for edge in edges(half.these)])
    assert edges(twice.like) == pytest.approx([2 * edge for edge in edges(half.like)])
