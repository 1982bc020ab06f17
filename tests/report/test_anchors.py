"""Anchors and published results by hand: which count as reproduced, their sentence and their tables."""

import numpy as np
import pandas as pd
import pytest

from pipeline.report.evidence import format_csv
from pipeline.report.tables import markdown
from pipeline.report.views.published import (
    anchor_csv,
    anchor_table,
    compare_anchors,
    our_rows,
    published_rows,
    published_table,
    sentence,
)
from pipeline.runtime.errors import BenchmarkError

TASKS = ("b", "a")
KEYS = [("zeroshot", -1), ("individual", -1), ("m_1", 0), ("m_1", 1)]
INDEX = pd.MultiIndex.from_tuples(KEYS, names=["method", "seed"])
RUNS = pd.DataFrame({"b": [63.28, 80.0, 50, 52], "a": [40.0, 90.5, 60, 64], "Average": [51.64, 85.25, 55, 58]}, INDEX)
ANCHORS = {"a": {"zeroshot": 40.0, "individual": 90.6001}, "b": {"zeroshot": 63.18, "individual": 79.95}}
SIZES = pd.Series({"a": 10_000, "b": 10_000})
ROW = {"method": "X|<1>", "hyperparameters": "k 1", "protocol": "data-free", "source": "p_2", "note": ""}
ROWS = [
    {**ROW, "task": "a", "accuracy": 51.25, "note": "few"},
    {**ROW, "source": "p_1", "task": "a", "accuracy": 70},
    {**ROW, "task": "b", "accuracy": 52.75},
]
OUR_METHODS = {"m_1": {"method": "M_1", "hyperparameters": "rho 1", "protocol": "all"}}


def test_a_difference_of_a_tenth_counts_as_reproduced_and_more_does_not():
    anchors = compare_anchors(RUNS, TASKS, ANCHORS, SIZES)
    assert anchors[["task", "row"]].to_numpy().tolist() == [
        ["b", "zero-shot"],
        ["a", "zero-shot"],
        ["b", "expert"],
        ["a", "expert"],
    ]
    assert anchors.difference.tolist() == pytest.approx([0.1, 0, 0.05, -0.1001])
    assert 63.28 - 63.18 > 0.1, "in floating point"
    assert anchors.reproduced.tolist() == [True, True, True, False]


def test_a_small_test_split_may_differ_by_three_examples():
    few = pd.Series({"a": 2_996, "b": 3_000})
    assert 100 * 3 / few["a"] > 0.1001 > 100 * 3 / few["b"]
    assert compare_anchors(RUNS, TASKS, ANCHORS, few).reproduced.all()


def test_the_sentence_counts_anchors_and_names_failures():
    anchors = compare_anchors(RUNS, TASKS, ANCHORS, SIZES)
    claim = "published accuracies of these checkpoints reproduced within 0.1 points or 3 examples"
    assert sentence(anchors, "test") == f"Anchors: 3 of 4 {claim}; NOT reproduced: a expert (−0.100)."
    assert sentence(anchors[:3], "test") == f"Anchors: 3 of 3 {claim}."
    assert "not compared" in sentence(anchors, "validation")
    assert "reproduced" not in sentence(anchors, "validation")


def test_anchors_of_a_missing_method_are_not_run():
    anchors = compare_anchors(RUNS.drop("individual", level="method"), TASKS, ANCHORS, SIZES)
    assert sentence(anchors, "test").startswith("Anchors: 2 of 4 published")
    assert sentence(anchors, "test").endswith("within 0.1 points or 3 examples; not run: expert.")
    assert anchor_csv(anchors).splitlines()[-1] == "a,expert,,90.600100,,"
    assert "| a | – | 90.60 | – | not run |" in markdown(anchor_table(anchors, ""))


def test_a_suite_without_anchors_has_no_sentence():
    anchors = compare_anchors(RUNS, TASKS, {}, SIZES)
    assert anchors.empty
    assert sentence(anchors, "test") == sentence(anchors, "validation") == ""
    assert len(compare_anchors(RUNS, TASKS, {"a": ANCHORS["a"]}, SIZES)) == 2, "those of some tasks alone"


def test_golden_anchors():
    anchors = compare_anchors(RUNS, TASKS, ANCHORS, SIZES)
    assert anchor_csv(anchors) == (
        "task,row,ours,published,difference,reproduced\n"
        "b,zero-shot,63.280000,63.180000,0.100000,yes\n"
        "a,zero-shot,40.000000,40.000000,0.000000,yes\n"
        "b,expert,80.000000,79.950000,0.050000,yes\n"
        "a,expert,90.500000,90.600100,-0.100100,no\n"
    )
    assert markdown(anchor_table(anchors, "A_B")) == (
        "| Task | ours | published | difference | reproduced |\n"
        "| :-- | --: | --: | --: | :-- |\n"
        "| *zero-shot* |  |  |  |  |\n"
        "| b | 63.28 | 63.18 | +0.100 | yes |\n"
        "| a | 40.00 | 40.00 | +0.000 | yes |\n"
        "| *expert* |  |  |  |  |\n"
        "| b | 80.00 | 79.95 | +0.050 | yes |\n"
        "| a | 90.50 | 90.60 | −0.100 | NO |\n"
        "\nA\\_B\n"
    )


def test_published_rows_are_one_line_each_and_never_average_over_missing_tasks():
    published = published_rows(ROWS, TASKS)
    assert published.source.tolist() == ["p_2", "p_1"], "as listed"
    assert published.Average.tolist()[0] == 52
    assert np.isnan(published.Average.tolist()[1])
    assert published.note.tolist() == ["a: few", ""]
    assert published_rows(ROWS[1:2], TASKS).b.isna().all(), "a task that no row has"


def test_a_published_task_that_occurs_twice_is_refused():
    with pytest.raises(BenchmarkError, match=r"X\|<1> of p_1 has a twice"):
        published_rows([*ROWS, ROWS[1]], TASKS)


def test_golden_published():
    ours, published = our_rows(RUNS, TASKS, OUR_METHODS, "test"), published_rows(ROWS, TASKS)
    assert format_csv(pd.concat([ours, published]), "%.6f") == (
        "method,hyperparameters,b,a,Average,protocol,source,note\n"
        "M_1,rho 1,51.000000,62.000000,56.500000,all,this run,\n"
        "X|<1>,k 1,52.750000,51.250000,52.000000,data-free,p_2,a: few\n"
        "X|<1>,k 1,,70.000000,,data-free,p_1,\n"
    )
    assert markdown(published_table(ours, published, TASKS, 1, "test")) == (
        "| Method | b | a | Average | protocol | hyperparameters | source | note |\n"
        "| :-- | --: | --: | --: | :-- | :-- | :-- | :-- |\n"
        "| *this run* |  |  |  |  |  |  |  |\n"
        "| M\\_1 | 51.0 | 62.0 | 56.5 | all | rho 1 | this run |  |\n"
        "| *published* |  |  |  |  |  |  |  |\n"
        "| X\\|\\<1\\> | 52.8 | 51.2 | 52.0 | data-free | k 1 | p\\_2 | a: few |\n"
        "| X\\|\\<1\\> | – | 70.0 | – | data-free | k 1 | p\\_1 |  |\n"
        "\npublished results on the same checkpoints; protocols differ: see the column\n"
    )


def test_a_split_other_than_test_is_named():
    ours = our_rows(RUNS, TASKS, OUR_METHODS, "validation")
    assert ours.source.tolist() == ["this run, validation split"]
    assert "this run scored the validation split" in published_table(ours, ours, TASKS, 1, "validation").caption
