"""Answers: what a merge says, kept whole; counts come from them."""

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
from pipeline.models.features import encode
from pipeline.models.suite import SuiteFolder
from pipeline.runtime import store
from pipeline.steps.evaluate import SCORE_COLUMNS, count_correct, predict_seeds
from tests.support import toy

CPU = torch.device("cpu")


@pytest.fixture
def artefact(pristine_suite: Path, tmp_path: Path) -> Path:
    """The first expert and the second one, as the two seeds of a merge."""
    tasks, groups = (*toy.TASKS,), SuiteFolder(pristine_suite).suite.groups
    one_hot = [torch.zeros(len(tasks), len(groups)) for _ in range(2)]
    for index, coefficients in enumerate(one_hot):
        coefficients[index] = 1
    found = Merges((7, 3), dict.fromkeys(tasks, 5), groups, [Solution(one) for one in one_hot])
    storage.save(found, tmp_path / "merge")
    return tmp_path / "merge"


def test_every_seed_answers_every_image_as_its_own_model_does(pristine_suite: Path, artefact: Path):
    suite = SuiteFolder(pristine_suite)
    found = predict_seeds(pristine_suite, artefact, "test", "")
    for index, expert in enumerate((*toy.TASKS,)[:2]):
        weights = {**suite.base(), **suite.expert(expert)}
        for task in toy.TASKS:
            features = encode(suite.suite.encoder(), weights, suite.images("test", task), CPU)
            assert found.predicted[task][index].tolist() == (features @ suite.heads()[task].T).argmax(1).tolist()
    for task in toy.TASKS:
        assert found.predicted[task].dtype == found.labels[task].dtype == np.int16
        assert found.labels[task].tolist() == suite.labels("test", task).tolist()


def test_rows_are_counted_from_the_answers(pristine_suite: Path, artefact: Path):
    found = predict_seeds(pristine_suite, artefact, "test", "")
    scored = [dict(zip(SCORE_COLUMNS, row, strict=True)) for row in count_correct("tiny", "m", artefact, found)]
    assert [(row["seed"], row["task"]) for row in scored] == [(seed, task) for seed in (7, 3) for task in toy.TASKS]
    for row in scored:
        predicted = found.predicted[row["task"]][(7, 3).index(row["seed"])]
        assert row["correct"] == sum(predicted == found.labels[row["task"]])
        assert (row["total"], row["samples"]) == (toy.SIZES["test"], 5)


def test_the_file_gives_the_answers_back_and_is_the_same_every_time(tmp_path: Path):
    found = Answers({"a": np.array([[1, 2, 3], [1, 0, 3]], np.int16)}, {"a": np.array([1, 2, 0], np.int16)})
    for name in ("one.npz", "two.npz"):
        answers.save_answers(found, tmp_path / name)
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    back = answers.load_answers(tmp_path / "one.npz", ["a"])
    assert back.correct()["a"].tolist() == [[True, True, False], [True, False, False]]
    assert (back.counts(0), back.counts(1)) == ({"a": (2, 3)}, {"a": (1, 3)})


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": np.zeros((1, 2))}, "arrays ['a'], expected ['a', 'labels/a']; evaluate again"),
        ({"a": np.zeros((1, 2)), "labels/a": np.zeros(3)}, "answers of shape (1, 2) to (3,) labels of a"),
        ({"a": np.zeros(2), "labels/a": np.zeros(2)}, "answers of shape (2,) to (2,) labels of a"),
    ],
)
def test_answers_that_are_not_whole_are_refused(tmp_path: Path, arrays: dict[str, np.ndarray], message: str):
    store.write_arrays(tmp_path / "m.npz", arrays)
    with pytest.raises(AnswersError, match=re.escape(message)):
        answers.load_answers(tmp_path / "m.npz", ["a"])


@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=20), elements=st.booleans()))
def test_packed_bits_unpack_to_the_same(right: np.ndarray):
    packed = answers.pack_correct({"m": {"a": right}})
    assert list(packed) == ["m/a"]
    assert np.array_equal(np.unpackbits(packed["m/a"], axis=1, count=right.shape[1]), right)
