"""The table of GLUE-7 has the published facts: sizes, class order, anchors that are counts of texts."""

import shutil
from pathlib import Path

import pytest

from pipeline.runtime.errors import BenchmarkError
from pipeline.suites._glue_tasks import GLUE_TASKS, find_glue_task, read_glue_tasks
from pipeline.suites._tables import TABLE_FOLDER, read_published

SIZES = {"cola": 1043, "mnli": 9815, "mrpc": 408, "qnli": 5463, "qqp": 40430, "rte": 277, "sst2": 872}
"""Rows of the scored splits. MNLI's mismatched validation split would have 9,832."""


def test_tasks_and_sizes_are_the_published_ones():
    assert {name: task.test_size for name, task in GLUE_TASKS.items()} == SIZES
    assert [*GLUE_TASKS] == [*SIZES]
    assert {task.test_split for task in GLUE_TASKS.values()} == {"validation", "validation_matched"}
    assert GLUE_TASKS["mnli"].test_split == "validation_matched"


def test_classes_are_in_the_order_of_glue():
    classes = {name: task.classes for name, task in GLUE_TASKS.items()}
    assert classes["mnli"] == ("entailment", "neutral", "contradiction")
    assert classes["rte"] == classes["qnli"] == ("entailment", "not_entailment")
    assert (classes["cola"][1], classes["sst2"][1]) == ("acceptable", "positive")
    assert (classes["mrpc"][1], classes["qqp"][1]) == ("equivalent", "duplicate")


def test_pairs_are_in_the_order_of_training():
    assert GLUE_TASKS["qnli"].text_columns == ("question", "sentence")
    assert GLUE_TASKS["mnli"].text_columns == ("premise", "hypothesis")
    assert [name for name, task in GLUE_TASKS.items() if len(task.text_columns) == 1] == ["cola", "sst2"]


def test_anchors_are_counts_of_texts_and_average_to_the_published_averages():
    tasks = GLUE_TASKS.values()
    for task in tasks:
        for percent, decimals in ((task.zeroshot, 4), (task.expert, 1), (task.average, 1)):
            correct = round(percent / 100 * task.test_size)
            assert 100 * correct / task.test_size == pytest.approx(percent, abs=0.51 * 10**-decimals)
    averages = [sum(getattr(task, key) for task in tasks) / 7 for key in ("zeroshot", "expert", "average")]
    assert averages == pytest.approx([44.4591, 82.0, 56.1], abs=0.05)


def test_published_averages_are_those_of_the_sources():
    lines: dict[tuple[str, str], list[float]] = {}
    for row in read_published():
        if row.suite == "glue-7":
            lines.setdefault((row.method, row.hyperparameters), []).append(row.accuracy)
            assert bool(row.note) == (row.task == "mnli" and row.method in ("TSV-M", "ACE", "EMR")), "mismatched MNLI"
    averages = {key: sum(values) / 7 for key, values in lines.items()}
    expected = {
        ("simple average", ""): 56.1, ("Fisher", "512 examples"): 58.7, ("task arithmetic", "lambda 0.3"): 68.173,
        ("RegMean", "reduce_non_diagonal_ratio 0.6"): 68.8, ("task arithmetic", "lambda 0.5"): 70.016,
        ("TIES", "lambda 0.3"): 64.478, ("TIES", "lambda 0.6"): 69.928, ("TSV-M", ""): 70.2, ("ACE", ""): 74.1,
        ("EMR", ""): 80.379,
    }  # fmt: skip
    assert averages == pytest.approx(expected, abs=0.051)


def test_an_unknown_task_is_named_with_its_nearest():
    with pytest.raises(BenchmarkError, match=r"unknown task 'sst'; did you mean 'sst2'\? There are cola, mnli"):
        find_glue_task("sst")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (",277,", ",277.5,", "glue.csv: rte: test_size: .*integer.*, got '277.5'"),
        (",65.3,", ",165.3,", "rte: expert: .*less than or equal to 100"),
        ("tanganke/gpt2_rte", "gpt2_rte", "rte: checkpoint: .*pattern"),
        ("premise|hypothesis", "premise|hypothesis|genre", "mnli: text_columns: .*at most 2"),
        ("text_columns", "columns", "cola: text_columns: Field required"),
    ],
)
def test_a_wrong_table_is_refused(tmp_path: Path, old: str, new: str, message: str):
    path = Path(shutil.copytree(TABLE_FOLDER, tmp_path / "tables")) / "glue.csv"
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), "utf-8")
    with pytest.raises(BenchmarkError, match=message):
        read_glue_tasks(path.parent)
