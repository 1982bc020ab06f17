"""Every step of the pipeline on suites of texts: the same numbers as text by text, without padding."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline import methods
from pipeline.diagnostics import Settings
from pipeline.merges import storage
from pipeline.merges.storage import Merges
from pipeline.models.examples import cut_padding
from pipeline.models.suite import SuiteFolder
from pipeline.models.weights import Weights
from pipeline.runtime import store
from pipeline.runtime.schema import Schedule
from pipeline.steps import merge as merge_step
from pipeline.steps.calibrate import Setting, calibrate, require_memory
from pipeline.steps.diagnose import diagnose
from pipeline.steps.evaluate import predict_seed
from pipeline.steps.prepare import EXAMPLES, write_preview
from pipeline.steps.rescale import Rescale, rescale
from pipeline.steps.surgery import Surgery, apply_surgery
from pipeline.steps.teach import compute_teacher_logits
from tests.support import toy

pytestmark = pytest.mark.usefixtures("one_process")


def logits(suite: SuiteFolder, weights: Weights, split: str, task: str) -> Tensor:
    """Logits of a task's texts, encoded one by one without padding."""
    encoder, texts = suite.suite.encoder(), torch.from_numpy(np.array(suite.examples(split, task)))
    return torch.cat([encoder(weights, cut_padding(text[None])) for text in texts]) @ suite.heads()[task].T


@pytest.fixture
def teachers(text_suite: Path, tmp_path: Path) -> Path:
    """The experts' logits on the calibration texts."""
    for task in toy.TASKS:
        values = compute_teacher_logits(text_suite, task, "train").numpy()
        store.write_array(tmp_path / "teachers" / f"{task}.npy", values)
    return tmp_path / "teachers"


def test_teachers_answer_text_by_text(text_suite: Path, teachers: Path):
    suite = SuiteFolder(text_suite)
    for task in toy.TASKS:
        expected = logits(suite, {**suite.base(), **suite.expert(task)}, "train", task)
        np.testing.assert_allclose(store.read_array(teachers / f"{task}.npy"), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["samerging", "regmean"])
def test_a_calibrated_merge_is_scored_rescaled_and_corrected(
    text_suite: Path, teachers: Path, tmp_path: Path, name: str
):
    module, suite = methods.load(name), SuiteFolder(text_suite)
    setting = Setting(
        text_suite, teachers, name, module.Params(), Schedule(lr=0.05, steps=2, batch_size=4), "train", "float32"
    )
    assert require_memory(setting, 6) > 0
    solution = calibrate(setting, 6, 0)
    storage.save(Merges((0,), dict.fromkeys(toy.TASKS, 6), suite.suite.groups, [solution]), tmp_path / name)
    (served,) = storage.load_models(suite, tmp_path / name, 0)
    answers = predict_seed(text_suite, tmp_path / name, 0, "test")
    for task in toy.TASKS:
        expected = logits(suite, dict(served.weights), "test", task).argmax(1)
        assert answers.predicted[task][0].tolist() == expected.tolist()
    merges, rows = rescale(text_suite, teachers, tmp_path / name, "train", [0], Rescale(samples=5, factors=[0.5, 1.0]))
    assert len(rows) == 2
    assert merges.samples == dict.fromkeys(toy.TASKS, 6)
    merges = apply_surgery(text_suite, tmp_path / name, "train", 5, [0], Surgery(rank=2, steps=3))
    assert merges.solutions[0].extras.tensors["dogs/up"].shape == (16, 2)


@pytest.mark.parametrize("name", ["average", "emr", "smile", "feature_ensemble", "logit_ensemble"])
def test_a_data_free_merge_is_scored(text_suite: Path, tmp_path: Path, name: str):
    toy.data_free(name, SuiteFolder(text_suite), tmp_path)
    answers = predict_seed(text_suite, tmp_path, 0, "test")
    assert {task: classes.shape for task, classes in answers.predicted.items()} == dict.fromkeys(toy.TASKS, (1, 7))


def test_there_is_memory_for_a_merge_of_texts(text_suite: Path):
    merge_step.check_memory(SuiteFolder(text_suite), torch.device("cpu"))


def test_a_suite_of_texts_is_diagnosed(text_suite: Path, tmp_path: Path):
    diagnose(text_suite, "train", Settings(samples=4, images=5, subsets=1), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "measures.csv", "nodes.safetensors", "tasks.csv", "subsets.csv", "prediction.csv",
    }  # fmt: skip
    assert all(torch.isfinite(layer).all() for layer in store.TensorFile(tmp_path / "nodes.safetensors").values())


def test_the_preview_has_the_first_test_texts(text_suite: Path, tmp_path: Path):
    write_preview(text_suite, *(tmp_path / name for name in ("preview.npz", "origin.json", "clusters.npz")))
    first = SuiteFolder(text_suite).examples("test", "dogs")[: EXAMPLES["texts"]]
    expected = [" ".join(f"w{token}" for token in text if token >= 0) for text in first.tolist()]
    assert store.read_arrays(tmp_path / "preview.npz")["dogs"].tolist() == expected
    assert store.read_arrays(tmp_path / "clusters.npz") == {}, "texts are independent"
