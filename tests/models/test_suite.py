"""Suite folders: a valid folder opens, a broken one is refused with the name of the faulty file."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.models import suite as suites
from pipeline.models.suite import SuiteError, SuiteFolder, write_clusters
from pipeline.models.weights import to_device
from pipeline.runtime import store
from pipeline.runtime.device import device
from pipeline.runtime.errors import BenchmarkError
from pipeline.steps.prepare import write_preview
from tests.support import toy, toy_texts

Fault = Callable[[Path], None]


def delete(path: Path) -> None:
    """Delete the file."""
    path.unlink()


def halve(path: Path) -> None:
    """Cut the file in the middle."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    """Leave an empty file."""
    path.write_bytes(b"")


def change_tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Fault:
    """Change the tensors of a safetensors file."""

    def fault(path: Path) -> None:
        content = load_file(path)
        change(content)
        save_file(content, path)

    return fault


def change_array(change: Callable[[np.ndarray], np.ndarray]) -> Fault:
    """Change the array of a .npy file."""
    return lambda path: np.save(path, change(np.load(path)))


def set_keys(**values: object) -> Fault:
    """Set keys of suite.json."""
    return lambda path: path.write_text(json.dumps(json.loads(path.read_text()) | values))


def set_tower(**values: object) -> Fault:
    """Set keys of the vision_cfg of suite.json."""

    def fault(path: Path) -> None:
        content = json.loads(path.read_text())
        content["model"]["vision_cfg"] |= values
        path.write_text(json.dumps(content))

    return fault


FAULTS: dict[str, tuple[str, Fault, str]] = {
    "tower without layers": (
        "suite.json",
        set_tower(layers=0),
        "model: .*layers is 0, expected a positive whole number",
    ),
    "tower of a text": (
        "suite.json",
        set_tower(width="96"),
        "model: .*width is '96', expected a positive whole number",
    ),
    "tower of half a head": ("suite.json", set_tower(head_width=5), "is no multiple of head_width 5"),
    "tower of an unknown kind": ("suite.json", set_tower(pool_type="avg"), "vision_cfg: pool_type not supported"),
    "tower of no MLP": ("suite.json", set_tower(mlp_ratio=0), "vision_cfg: mlp_ratio is 0, expected a number above 0"),
    "tower of other weights": (
        "suite.json",
        set_tower(width=64),
        r"has shape .*, the model of suite.json asks for \[",
    ),
    "no deviation": ("suite.json", set_keys(std=[0.0, 1.0, 1.0]), "std.*greater than 0"),
    "no suite.json": ("suite.json", delete, "no such file"),
    "suite.json cut": ("suite.json", halve, "not valid JSON"),
    "suite.json with an unknown key": ("suite.json", set_keys(colour="red"), "colour"),
    "suite.json with a bad task name": (
        "suite.json",
        set_keys(tasks=[{"name": "../x", "classes": []}]),
        r"tasks\.0\.name",
    ),
    "no base": ("base.safetensors", delete, "cannot be read"),
    "base cut": ("base.safetensors", halve, "cannot be read"),
    "base empty": ("base.safetensors", empty, "cannot be read"),
    "base without the projection": (
        "base.safetensors",
        change_tensors(lambda t: t.pop("proj")),
        "1 tensors are missing.*'proj'",
    ),
    "no expert": ("experts/dogs.safetensors", delete, "cannot be read"),
    "expert cut": ("experts/dogs.safetensors", halve, "cannot be read"),
    "expert mis-shaped": (
        "experts/dogs.safetensors",
        change_tensors(lambda t: t.update({"ln_post.bias": torch.zeros(31)})),
        r"ln_post\.bias has shape \[31\], the base has \[32\]",
    ),
    "expert without a tensor": (
        "experts/fish.safetensors",
        change_tensors(lambda t: t.pop("ln_post.bias")),
        "1 tensors are missing, the first is 'ln_post.bias'",
    ),
    "expert with a tensor too many": (
        "experts/fish.safetensors",
        change_tensors(lambda t: t.update(proj=torch.zeros(32, 16))),
        "1 tensors do not belong to the suite, the first is 'proj'",
    ),
    "no heads": ("heads.safetensors", delete, "cannot be read"),
    "no head of a task": ("heads.safetensors", change_tensors(lambda t: t.pop("cats")), "head of cats"),
    "head of too few classes": (
        "heads.safetensors",
        change_tensors(lambda t: t.update(dogs=torch.zeros(2, 16))),
        r"head of dogs has shape \[2, 16\], expected \[3, 16\]",
    ),
    "no images": ("images/test/cats.npy", delete, "cannot be read"),
    "images cut": ("images/test/cats.npy", halve, "cannot be read"),
    "images empty": ("images/test/cats.npy", empty, "cannot be read"),
    "images of another type": ("images/train/cats.npy", change_array(lambda a: a / 255), "float64.*expected uint8"),
    "grey images": ("images/train/cats.npy", change_array(lambda a: a[..., 0]), r"expected uint8 \[N, 14, 14, 3\]"),
    "images of another size": (
        "images/train/cats.npy",
        change_array(lambda a: np.repeat(a, 2, axis=1)),
        r"expected uint8 \[N, 14, 14, 3\], the size of the encoder",
    ),
    "heads of other features": (
        "heads.safetensors",
        change_tensors(lambda t: t.update({name: head[:, :-1].clone() for name, head in t.items()})),
        r"head of cats has shape \[2, 15\], expected \[2, 16\], a row per class of suite.json and a column per feature",
    ),
    "smaller images": (
        "images/train/fish.npy",
        change_array(lambda a: a[:, 1:]),
        r"expected uint8 \[N, 14, 14, 3\], the size of the encoder",
    ),
    "fewer images than labels": ("images/validation/fish.npy", change_array(lambda a: a[:-1]), "4 images but labels"),
    "no labels": ("labels/test/dogs.npy", delete, "cannot be read"),
    "labels cut": ("labels/test/dogs.npy", halve, "cannot be read"),
    "label above the classes": ("labels/test/dogs.npy", change_array(lambda a: a + 1), "expected 0 to 2"),
    "label below zero": ("labels/test/dogs.npy", change_array(lambda a: a - 1), "expected 0 to 2"),
    "labels of another type": ("labels/test/dogs.npy", change_array(lambda a: a / 2), "float64.*expected int64"),
}


def change_texts(change: Callable[[np.ndarray], object]) -> Fault:
    """Change ids of an array of texts in place."""

    def fault(path: Path) -> None:
        texts = np.load(path)
        change(texts)
        np.save(path, texts)

    return fault


def set_model(**values: object) -> Fault:
    """Set keys of the model of suite.json."""

    def fault(path: Path) -> None:
        content = json.loads(path.read_text())
        content["model"] |= values
        path.write_text(json.dumps(content))

    return fault


TEXTS = "texts/train/dogs.npy"
TEXT_FAULTS: dict[str, tuple[str, Fault, str]] = {
    "wide ids": (TEXTS, change_array(lambda a: a.astype(np.int64)), r"int64 \[12, 9\], expected int32 \[N, L\]"),
    "one text": (TEXTS, change_array(lambda a: a[0]), r"int32 \[9\], expected int32 \[N, L\]"),
    "no tokens": (TEXTS, change_array(lambda a: a[:, :0]), "texts of 0 tokens, expected 1 to 12"),
    "long texts": (TEXTS, change_array(lambda a: np.tile(a, 2)), "texts of 18 tokens, expected 1 to 12, the positions"),
    "id beyond the vocabulary": (
        TEXTS,
        change_texts(lambda a: a.__setitem__((0, 0), 40)),
        r"token ids from -1 to 40, expected -1 \(padding\) to 39",
    ),
    "id below padding": (TEXTS, change_texts(lambda a: a.__setitem__((0, 8), -2)), r"token ids from -2 to \d+"),
    "empty text": (TEXTS, change_texts(lambda a: a.__setitem__(3, -1)), "text 3 is empty"),
    "padding inside": (TEXTS, change_texts(lambda a: a.__setitem__((11, 4), -1)), "text 11 has tokens after padding"),
    "texts of another length": (
        "texts/test/fish.npy",
        change_array(lambda a: np.pad(a, ((0, 0), (0, 1)), constant_values=-1)),
        r"texts of shape \[10\], those of cats have \[9\]",
    ),
    "fewer texts than labels": (TEXTS, change_array(lambda a: a[:-1]), "11 texts but labels"),
    "no texts": (TEXTS, delete, "cannot be read"),
    "label above the classes": ("labels/test/dogs.npy", change_array(lambda a: a + 1), "expected 0 to 2"),
    "unknown architecture": (
        "suite.json",
        set_model(architecture="llama"),
        "model: .*architecture 'llama', expected b",
    ),
    "no heads": ("suite.json", set_model(heads=0), "model: .*heads is 0, expected a positive whole number"),
    "heads that do not fit": ("suite.json", set_model(heads=3), "model: .*width 16 is no multiple of heads 3"),
    "too many layers": ("suite.json", set_model(layers=10**20), "model: .*expected at most 1000"),
    "no epsilon": ("suite.json", set_model(epsilon=None), "model: .*epsilon is None, expected a number"),
    "unknown setting": ("suite.json", set_model(rotary=True), "model: .*rotary not supported; expected layers"),
    "a mean": ("suite.json", set_keys(mean=[0.5, 0.5, 0.5]), "mean: .*expected three numbers for images, and none for"),
    "an unknown group": ("suite.json", set_keys(groups=["bias"]), "groups: no tensor 'bias' in base.safetensors"),
    "smaller embedding": (
        "base.safetensors",
        change_tensors(lambda t: t.update(word_embedding=torch.zeros(39, 16))),
        r"word_embedding has shape \[39, 16\], the model of suite.json asks for \[40, 16\]",
    ),
    "base without a frozen tensor": (
        "base.safetensors",
        change_tensors(lambda t: t.pop("positional_embedding")),
        "1 tensors are missing, the first is 'positional_embedding'",
    ),
}


@pytest.mark.parametrize(("file", "fault", "message"), TEXT_FAULTS.values(), ids=TEXT_FAULTS)
def test_a_broken_folder_of_texts_is_refused_by_file(
    text_suite: Path, tmp_path: Path, file: str, fault: Fault, message: str
):
    broken = Path(shutil.copytree(text_suite, tmp_path / "broken"))
    SuiteFolder(broken)
    fault(broken / file)
    with pytest.raises(BenchmarkError, match=message) as caught:
        SuiteFolder(broken)
    assert file in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_suite_of_texts_opens(text_suite: Path):
    opened = SuiteFolder(text_suite)
    assert not {"mean", "std"} & json.loads((text_suite / "suite.json").read_text()).keys()
    assert opened.examples("test", "dogs").shape == (toy.SIZES["test"], toy_texts.LENGTH)
    assert opened.blank().shape == (1, toy_texts.LENGTH)
    frozen = {*opened.base()} - {*opened.suite.groups}
    assert frozen == (set() if opened.suite.model["architecture"] == "gpt2" else {*toy_texts.FROZEN})
    assert {*opened.expert("dogs")} == {*opened.suite.groups}


@pytest.mark.parametrize("missing", ["mean", "std"])
def test_a_suite_of_images_needs_their_mean_and_deviation(broken: Path, missing: str):
    content = json.loads((broken / "suite.json").read_text())
    del content[missing]
    (broken / "suite.json").write_text(json.dumps(content))
    with pytest.raises(SuiteError, match=f"{missing}: .*expected three numbers for images"):
        SuiteFolder(broken)


@pytest.fixture
def broken(pristine_suite: Path, tmp_path: Path) -> Path:
    """A copy of the suite, to be broken."""
    return Path(shutil.copytree(pristine_suite, tmp_path / "broken"))


def test_examples_may_be_clusters(broken: Path):
    suite, folder = broken, SuiteFolder(broken)
    assert folder.clusters("test", "dogs") is None, "all are independent"
    clusters = np.stack([np.zeros(toy.SIZES["test"], np.int64), np.arange(toy.SIZES["test"]) // 2], 1)
    store.write_array(suite / "clusters/test/dogs.npy", clusters)
    assert (SuiteFolder(suite).clusters("test", "dogs") == clusters).all()
    write_preview(suite, *(suite / name for name in ("preview.npz", "origin.json", "clusters.npz")))
    written = store.read_arrays(suite / "clusters.npz")
    assert {name: part.tolist() for name, part in written.items()} == {"test/dogs": clusters.tolist()}
    for name, numbers in (("own", np.arange(4) + 900), ("shared", np.array([7, 900, 7, 9]))):
        write_clusters(suite, "train", name, np.stack([np.zeros(4, np.int64), numbers], 1))
    assert [path.name for path in (suite / "clusters/train").iterdir()] == ["shared.npy"]
    for wrong, message in (
        (clusters[1:], r"expected int64 \["),
        (clusters[:, 0], "expected int64"),
        (clusters / 2, "float64 of"),
    ):
        store.write_array(suite / "clusters/test/dogs.npy", wrong)
        with pytest.raises(SuiteError, match=f"clusters/test/dogs.npy: .*{message}"):
            SuiteFolder(suite)


def test_a_complete_folder_opens(pristine_suite: Path):
    opened = SuiteFolder(pristine_suite)
    assert opened.suite.task_names == tuple(toy.TASKS)
    assert opened.examples("test", "dogs").shape == (toy.SIZES["test"], 14, 14, 3)
    assert opened.labels("train", "dogs").shape == (toy.SIZES["train"],)
    assert opened.heads()["fish"].shape == (2, 16)
    vectors = opened.vectors()
    assert tuple(vectors) == opened.suite.groups
    expected = opened.expert("dogs")["ln_post.bias"] - opened.base()["ln_post.bias"]
    assert torch.equal(vectors["ln_post.bias"][1], expected)


def test_the_encoder_runs_on_the_stored_weights(pristine_suite: Path):
    opened = SuiteFolder(pristine_suite)
    images = torch.from_numpy(np.array(opened.examples("test", "cats")))
    features = opened.suite.encoder()({**opened.base(), **opened.expert("cats")}, images)
    assert features.shape == (toy.SIZES["test"], 16)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(toy.SIZES["test"]))


@pytest.mark.parametrize(("file", "fault", "message"), FAULTS.values(), ids=FAULTS)
def test_a_broken_folder_is_refused_by_file(broken: Path, file: str, fault: Fault, message: str):
    SuiteFolder(broken)
    fault(broken / file)
    with pytest.raises(BenchmarkError, match=message) as caught:
        SuiteFolder(broken)
    assert file in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("file", ["base.safetensors", "experts/dogs.safetensors"])
def test_weights_that_are_not_finite_are_refused_by_file(broken: Path, file: str, value: float):
    change_tensors(lambda t: t.update({"ln_post.bias": torch.full((32,), value)}))(broken / file)
    opened = SuiteFolder(broken)
    with pytest.raises(BenchmarkError, match=r"'ln_post\.bias'.*non-finite") as caught:
        dict(opened.vectors())
    assert file in str(caught.value)


def test_tasks_of_the_same_name_are_refused(broken: Path):
    task = {"name": "cats", "classes": ["tabby", "siamese"]}
    set_keys(tasks=[task, task])(broken / "suite.json")
    with pytest.raises(SuiteError, match="task names must differ"):
        SuiteFolder(broken)


def test_a_folder_without_files_is_refused(tmp_path: Path):
    with pytest.raises(BenchmarkError, match="no such file"):
        SuiteFolder(tmp_path)


@pytest.mark.parametrize("chosen", ["gpu", "cuda:x", "meta", "mps"])
def test_an_unknown_device_is_refused(monkeypatch: pytest.MonkeyPatch, chosen: str):
    monkeypatch.setenv("SAMERGING_DEVICE", chosen)
    with pytest.raises(BenchmarkError, match=f"SAMERGING_DEVICE='{chosen}': expected cpu"):
        device()


def test_a_missing_gpu_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SAMERGING_DEVICE", "cuda:1")
    monkeypatch.setattr(suites.torch.cuda, "is_available", lambda: False)
    with pytest.raises(BenchmarkError, match="no CUDA device; unset it or use cpu"):
        device()


def test_a_gpu_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SAMERGING_DEVICE", "cuda:2")
    monkeypatch.setattr(suites.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(suites.torch.cuda, "device_count", lambda: 2)
    with pytest.raises(BenchmarkError, match="'cuda:2': this machine has CUDA devices 0 to 1; use one of them"):
        device()


def test_to_device_keeps_values():
    weights = toy.weights(0)
    assert toy.same(to_device(weights, torch.device("cpu")), weights)
