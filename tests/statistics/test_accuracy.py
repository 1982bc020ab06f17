"""Tables of accuracies by hand, and the refusal of inconsistent scores."""

import pytest

from pipeline.statistics.accuracy import AVERAGE, GAP, NORMALISED, WORST, ScoresError, parse_scores, tabulate_runs

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
TASKS = ("a", "b")


def parse_rows(*names, **changed_rows):
    return parse_scores(HEADER + "".join((ROWS | changed_rows)[name] for name in names or ROWS), "test")


def test_derived_values_by_hand():
    table = tabulate_runs(parse_rows(), TASKS)
    row = table.loc[("samerging", 0)]
    assert row["a"] == pytest.approx(60)
    assert row["b"] == pytest.approx(35)
    assert row[AVERAGE] == pytest.approx(47.5)
    assert row[NORMALISED] == pytest.approx(100 * (60 / 80 + 35 / 40) / 2)
    assert row[GAP] == pytest.approx(100 * (47.5 - 20) / (60 - 20))
    assert row[WORST] == pytest.approx(35)
    assert table.loc[("zeroshot", -1), GAP] == 0
    assert table.loc[("individual", -1), [NORMALISED, GAP]].tolist() == [100, 100]


def test_tasks_keep_the_requested_order():
    assert list(tabulate_runs(parse_rows(), ("b", "a")))[:2] == ["b", "a"]


@pytest.mark.parametrize("name", ["zeroshot", "individual"])
def test_gap_is_undefined_without_floor_or_ceiling(name):
    table = tabulate_runs(parse_rows(*(other for other in ROWS if other != name)), TASKS)
    assert table[GAP].isna().all()
    assert table[AVERAGE].notna().all()


def test_gap_is_undefined_where_experts_equal_zero_shot():
    table = tabulate_runs(parse_rows(individual=ROWS["zeroshot"].replace("zeroshot", "individual")), TASKS)
    assert table[GAP].isna().all()


def test_normalised_accuracy_is_undefined_if_an_expert_is_never_right():
    table = tabulate_runs(parse_rows(individual="s,individual,a,,0,80,100\ns,individual,b,,0,0,200\n"), TASKS)
    assert table[NORMALISED].isna().all()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("s,ties,a,,0,40,100\n", r"ties .*tasks a; expected a, b"),
        ("s,ties,a,,0,40,100\ns,ties,a,,0,40,100\ns,ties,b,,0,40,200\n", "tasks a, a, b; expected a, b"),
        ("s,ties,a,,0,40,99\ns,ties,b,,0,40,200\n", "different numbers of a examples: 99, 100"),
        ("s,ties,a,,0,101,100\ns,ties,b,,0,40,200\n", "101 of 100 correct on a"),
        ("s,ties,a,,0,0,0\ns,ties,b,,0,40,200\n", "0 of 0 correct on a"),
    ],
)
def test_inconsistent_scores_are_refused(rows, message):
    with pytest.raises(ScoresError, match=message):
        tabulate_runs(parse_rows(ties=rows), TASKS)


@pytest.mark.parametrize(
    "text", ["", "suite,method\ns,m\n", HEADER + "s,m,a,,0,many,100\n", HEADER + "s,m,a,,0,,100\n"]
)
def test_files_without_scores_are_refused_by_name(text):
    with pytest.raises(ScoresError, match=r"here\.csv"):
        parse_scores(text, "here.csv")


def test_a_study_is_measured_against_the_main_floor_and_ceiling():
    study = parse_scores("k," + HEADER + "4,s,samerging,a,0,4,60,100\n4,s,samerging,b,0,4,70,200\n", "study", ("k",))
    table = tabulate_runs(study, TASKS, tabulate_runs(parse_rows(), TASKS))
    assert table.loc[(4, "samerging", 0), GAP] == pytest.approx(68.75)
