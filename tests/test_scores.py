"""Accuracies by hand, checks of whole scores, and what is said about differences."""

import numpy as np
import pandas as pd
import pytest

from pipeline.scores import AVERAGE, GAP, NORMALISED, WORST, ScoresError, difference, parse, runs, sentences

HEADER = "suite,method,task,seed,samples,correct,total\n"
ROWS = {
    "zeroshot": "s,zeroshot,a,,0,20,100\ns,zeroshot,b,,0,40,200\n",
    "individual": "s,individual,a,,0,80,100\ns,individual,b,,0,80,200\n",
    "ties": "s,ties,a,,0,40,100\ns,ties,b,,0,40,200\n",
    "distillation": "s,distillation,a,0,8,40,100\ns,distillation,b,0,8,60,200\n"
    "s,distillation,a,1,8,42,100\ns,distillation,b,1,8,64,200\n",
    "samerging": "s,samerging,a,0,8,60,100\ns,samerging,b,0,8,70,200\n"
    "s,samerging,a,1,8,64,100\ns,samerging,b,1,8,66,200\n",
}
TITLES = {"zeroshot": "Zero-shot", "individual": "Experts", "ties": "TIES", "distillation": "Distillation"}
TITLES["samerging"] = "SAMerging"
TASKS = ("a", "b")


def frame(*names, **replaced):
    return parse(HEADER + "".join((ROWS | replaced)[name] for name in names or ROWS), "test")


def test_derived_values_by_hand():
    table = runs(frame(), TASKS)
    found = table.loc[("samerging", 0)]
    assert found["a"] == pytest.approx(60)
    assert found["b"] == pytest.approx(35)
    assert found[AVERAGE] == pytest.approx(47.5)
    assert found[NORMALISED] == pytest.approx(100 * (60 / 80 + 35 / 40) / 2)
    assert found[GAP] == pytest.approx(100 * (47.5 - 20) / (60 - 20))
    assert found[WORST] == pytest.approx(35)
    assert table.loc[("zeroshot", -1), GAP] == 0
    assert table.loc[("individual", -1), [NORMALISED, GAP]].tolist() == [100, 100]


def test_tasks_are_in_the_order_asked_for():
    assert list(runs(frame(), ("b", "a")))[:2] == ["b", "a"]


@pytest.mark.parametrize("name", ["zeroshot", "individual"])
def test_gap_is_undefined_without_floor_or_ceiling(name):
    table = runs(frame(*(other for other in ROWS if other != name)), TASKS)
    assert table[GAP].isna().all()
    assert table[AVERAGE].notna().all()


def test_gap_is_undefined_where_experts_are_no_better():
    same = runs(frame(individual=ROWS["zeroshot"].replace("zeroshot", "individual")), TASKS)
    assert same[GAP].isna().all()


def test_normalised_never_skips_a_task_whose_expert_knows_nothing():
    table = runs(frame(individual="s,individual,a,,0,80,100\ns,individual,b,,0,0,200\n"), TASKS)
    assert table[NORMALISED].isna().all()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("s,ties,a,,0,40,100\n", r"ties .*tasks a; expected a, b"),
        ("s,ties,a,,0,40,100\ns,ties,a,,0,40,100\ns,ties,b,,0,40,200\n", "tasks a, a, b; expected a, b"),
        ("s,ties,a,,0,40,99\ns,ties,b,,0,40,200\n", "different numbers of a images: 99, 100"),
        ("s,ties,a,,0,101,100\ns,ties,b,,0,40,200\n", "101 of 100 correct on a"),
        ("s,ties,a,,0,0,0\ns,ties,b,,0,40,200\n", "0 of 0 correct on a"),
    ],
)
def test_scores_that_do_not_fit_are_refused(rows, message):
    with pytest.raises(ScoresError, match=message):
        runs(frame(ties=rows), TASKS)


@pytest.mark.parametrize(
    "text", ["", "suite,method\ns,m\n", HEADER + "s,m,a,,0,many,100\n", HEADER + "s,m,a,,0,,100\n"]
)
def test_files_that_are_no_scores_are_named(text):
    with pytest.raises(ScoresError, match=r"here\.csv"):
        parse(text, "here.csv")


def test_a_study_is_measured_against_the_main_floor_and_ceiling():
    study = parse("k," + HEADER + "4,s,samerging,a,0,4,60,100\n4,s,samerging,b,0,4,70,200\n", "study", ("k",))
    found = runs(study, TASKS, runs(frame(), TASKS))
    assert found.loc[(4, "samerging", 0), GAP] == pytest.approx(68.75)


def test_difference_is_paired_and_the_same_every_time():
    table = runs(frame(), TASKS)
    found = difference(table, TASKS, "samerging", "distillation")
    assert found.mean == pytest.approx(np.mean([[20, 5], [22, 1]]))
    assert (found.seeds, found.tasks) == (2, 2)
    assert found.low < found.mean < found.high
    assert found.low == pytest.approx(1)
    assert found.high == pytest.approx(22)
    assert found == difference(table, TASKS, "samerging", "distillation")


@pytest.mark.parametrize("seeds", [1, 8])
@pytest.mark.parametrize("swap", [False, True])
def test_interval_resamples_whole_tasks_and_whole_seeds(seeds, swap):
    # One of 8 tasks (or seeds) gains 8 points: a resample's mean is Binomial(8, 1/8), whose 97.5 % quantile is 3,
    # however many seeds (or tasks) repeat the same differences.
    gains = np.zeros((seeds, 8))
    gains[:, 0] = 8
    gains = gains.T if swap else gains
    tasks = [f"t{index}" for index in range(gains.shape[1])]
    index = pd.MultiIndex.from_product([("new", "old"), range(len(gains))], names=["method", "seed"])
    found = difference(pd.DataFrame(np.concatenate([gains, 0 * gains]), index, tasks), tasks, "new", "old")
    assert (found.mean, found.low, found.high) == (1, 0, 3)


def test_difference_needs_the_same_seeds():
    other = ROWS["distillation"].replace(",1,8", ",2,8")
    with pytest.raises(ScoresError, match="different seeds"):
        difference(runs(frame(distillation=other), TASKS), TASKS, "samerging", "distillation")


def test_sentences_give_n_and_the_verdict():
    gap, lead, sharpness = sentences(runs(frame(), TASKS), TASKS, ["ties"], TITLES, 1)
    assert gap.startswith("SAMerging closes 70.0 ± 1.8 % of the gap between zero-shot (20.0 %)")
    assert "(n = 2 seeds)" in gap
    assert "leads the best data-free method, TIES, by 18.00 points: 48.00 % (n = 2 seeds) against 30.00 %" in lead
    assert "+12.00 points, 95 % interval [+1.00, +22.00]: it excludes zero." in sharpness


def test_equal_methods_show_no_difference():
    table = runs(frame(distillation=ROWS["samerging"].replace("samerging", "distillation")), TASKS)
    assert "it includes zero, so these runs show no difference" in sentences(table, TASKS, [], TITLES, 1)[-1]


def test_an_interval_around_zero_shows_no_difference():
    better_on_b = "".join(f"s,distillation,a,{seed},8,50,100\ns,distillation,b,{seed},8,99,200\n" for seed in (0, 1))
    said = sentences(runs(frame(distillation=better_on_b), TASKS), TASKS, [], TITLES, 1)[-1]
    assert "interval [-16.50, +14.00]: it includes zero, so" in said


def test_an_interval_below_zero_excludes_it():
    better = "".join(f"s,distillation,a,{seed},8,70,100\ns,distillation,b,{seed},8,99,200\n" for seed in (0, 1))
    said = sentences(runs(frame(distillation=better), TASKS), TASKS, [], TITLES, 1)[-1]
    assert "interval [-16.50, -6.00]: it excludes zero." in said


def test_one_seed_has_no_deviation():
    first = {name: "".join(ROWS[name].splitlines(keepends=True)[:2]) for name in ("distillation", "samerging")}
    said = sentences(runs(frame(**first), TASKS), TASKS, ["ties"], TITLES, 1)
    assert said[0].startswith("SAMerging closes 68.8 % of the gap")
    assert "(n = 1 seed)" in said[0]


def test_a_trailing_method_is_said_to_trail():
    table = runs(frame(ties="s,ties,a,,0,90,100\ns,ties,b,,0,190,200\n"), TASKS)
    assert "trails the best data-free method, TIES, by 44.50 points" in sentences(table, TASKS, ["ties"], TITLES, 1)[1]
