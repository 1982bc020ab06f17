"""The answers of a merge, stored whole, and the counts taken from them."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from pipeline.merges import answers, storage
from pipeline.merges.answers import Answers, AnswersError
from pipeline.merges.solution import Solution
from pipeline.merges.storage import Merges
from pipeline.models.examples import encode
from pipeline.models.suite import SuiteFolder
from pipeline.runtime import store
from pipeline.steps.evaluate import SCORE_COLUMNS, count_correct, predict_seeds
from tests.support import toy

CPU = torch.device("cpu")


@pytest.fixture
def artefact(pristine_suite: Path, tmp_path: Path) -> Path:
    """The first and the second expert as the two seeds of a merge."""
    tasks, groups = (*toy.TASKS,), SuiteFolder(pristine_suite).suite.groups
    one_hot = [torch.zeros(len(tasks), len(groups)) for _ in range(2)]
    for index, coefficients in enumerate(one_hot):
        coefficients[index] = 1
    merges = Merges((7, 3), dict.fromkeys(tasks, 5), groups, [Solution(matrix) for matrix in one_hot])
    storage.save(merges, tmp_path / "merge")
    return tmp_path / "merge"


def test_the_answers_of_a_seed_are_those_of_its_model(pristine_suite: Path, artefact: Path):
    suite = SuiteFolder(pristine_suite)
    predictions = predict_seeds(pristine_suite, artefact, "test", "")
    for index, expert in enumerate((*toy.TASKS,)[:2]):
        weights = {**suite.base(), **suite.expert(expert)}
        for task in toy.TASKS:
            features = encode(suite.suite.encoder(), weights, suite.examples("test", task), CPU)
            assert predictions.predicted[task][index].tolist() == (features @ suite.heads()[task].T).argmax(1).tolist()
    for task in toy.TASKS:
        assert predictions.predicted[task].dtype == predictions.labels[task].dtype == np.int16
        assert predictions.labels[task].tolist() == suite.labels("test", task).tolist()


def test_rows_are_counted_from_the_answers(pristine_suite: Path, artefact: Path):
    predictions = predict_seeds(pristine_suite, artefact, "test", "")
    scored = [dict(zip(SCORE_COLUMNS, row, strict=True)) for row in count_correct("tiny", "m", artefact, predictions)]
    assert [(row["seed"], row["task"]) for row in scored] == [(seed, task) for seed in (7, 3) for task in toy.TASKS]
    for row in scored:
        predicted = predictions.predicted[row["task"]][(7, 3).index(row["seed"])]
        assert row["correct"] == sum(predicted == predictions.labels[row["task"]])
        assert (row["total"], row["samples"]) == (toy.SIZES["test"], 5)


def test_saved_answers_are_restored_and_have_the_same_bytes(tmp_path: Path):
    original = Answers({"a": np.array([[1, 2, 3], [1, 0, 3]], np.int16)}, {"a": np.array([1, 2, 0], np.int16)})
    for name in ("one.npz", "two.npz"):
        answers.save_answers(original, tmp_path / name)
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    restored = answers.load_answers(tmp_path / "one.npz", ["a"])
    assert restored.correct()["a"].tolist() == [[True, True, False], [True, False, False]]
    assert (restored.counts(0), restored.counts(1)) == ({"a": (2, 3)}, {"a": (1, 3)})


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": np.zeros((1, 2))}, "arrays ['a'], expected ['a', 'labels/a']; evaluate again"),
        ({"a": np.zeros((1, 2)), "labels/a": np.zeros(3)}, "answers of shape (1, 2) to (3,) labels of a"),
        ({"a": np.zeros(2), "labels/a": np.zeros(2)}, "answers of shape (2,) to (2,) labels of a"),
    ],
)
def test_incomplete_answers_are_refused(tmp_path: Path, arrays: dict[str, np.ndarray], message: str):
    store.write_arrays(tmp_path / "m.npz", arrays)
    with pytest.raises(AnswersError, match=re.escape(message)):
        answers.load_answers(tmp_path / "m.npz", ["a"])


@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=20), elements=st.booleans()))
def test_packed_bits_unpack_to_the_same(right: np.ndarray):
    packed = answers.pack_correct({"m": {"a": right}})
    assert list(packed) == ["m/a"]
    assert np.array_equal(np.unpackbits(packed["m/a"], axis=1, count=right.shape[1]), right)
