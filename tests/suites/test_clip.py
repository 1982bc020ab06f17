"""The paper's nine suites and a custom one are prepared from replicas of the repositories; faults are named."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load, save

from pipeline import methods, suites
from pipeline.merges import storage
from pipeline.models.suite import SPLITS, SuiteFolder
from pipeline.models.weights import fuse_qkv
from pipeline.runtime import store
from pipeline.runtime.errors import BenchmarkError
from pipeline.runtime.resumable import Resumable
from pipeline.runtime.schema import Schedule
from pipeline.steps import merge as merge_step
from pipeline.steps.calibrate import Setting, calibrate_seeds
from pipeline.steps.evaluate import predict_seed
from pipeline.steps.teach import compute_teacher_logits
from pipeline.suites import _clip_tasks, _hub, clip
from tests.support import hub_server, replicas

pytestmark = pytest.mark.long

hub = hub_server.hub
CUSTOM = {"name": "mine", "expert": "./expert", "dataset": "./images", "classes": ["a", "b"]}
SIZED = {**CUSTOM, "test_size": 9}
NINE = [f"{group}-{backbone}" for group in ("ta8", "tall14", "tall20") for backbone in _clip_tasks.BACKBONES]
TASKS = _clip_tasks.CLIP_TASKS
TRAIN, TEST = 12, 6
RECIPE = clip.Recipe(seed=0, pool=8)
UNUSED = Path("no checkpoints")
"""In place of the output of stage train: this family trains nothing."""


@pytest.fixture(scope="module")
def repositories() -> dict[str, dict]:
    """{kind: {repository: files}} of the nine suites."""
    models = {
        repo: files for backbone in _clip_tasks.BACKBONES for repo, files in replicas.checkpoints(backbone).items()
    }
    return {"model": models, "dataset": replicas.datasets(TRAIN, TEST)}


def unpin(task: _clip_tasks.ClipTask) -> _clip_tasks.ClipTask:
    """Return a task whose repositories are taken at main, with as many test images as the replicas have."""
    anchors = {name: anchor.model_copy(update={"revision": "main"}) for name, anchor in task.anchors.items()}
    return task.model_copy(update={"test_size": TEST, "revision": ("main",), "anchors": anchors})


@pytest.fixture
def filled(hub: hub_server.Hub, repositories: dict[str, dict], monkeypatch: pytest.MonkeyPatch) -> hub_server.Hub:
    """A hub with all replicas, whose test sizes the table expects; one process."""
    for kind, contents in repositories.items():
        for repo, files in contents.items():
            hub.push(kind, repo, files)
    monkeypatch.setattr(_clip_tasks, "CLIP_TASKS", {name: unpin(task) for name, task in TASKS.items()})
    monkeypatch.setenv("SAMERGING_WORKERS", "1")
    return hub


def prepare_suite(name: str, folder: Path) -> SuiteFolder:
    """Prepare a suite of the paper in a folder."""
    family, definition = suites.load(name)
    family.prepare(name, definition, RECIPE, UNUSED, folder)
    return SuiteFolder(folder)


@pytest.mark.parametrize("name", NINE)
def test_every_suite_of_the_paper_prepares(name: str, filled: hub_server.Hub, tmp_path: Path):
    prepared = prepare_suite(name, tmp_path / name)
    group, backbone = name.split("-", 1)
    expected = _clip_tasks.SUITES[{"ta8": "ta-8", "tall14": "tall-14", "tall20": "tall-20"}[group]]
    assert prepared.suite.task_names == expected
    provenance = prepared.suite.provenance
    assert len(provenance["fetched"]) == 1 + 2 * len(expected)
    assert all(len(download["commit"]) == 40 and download["files"] for download in provenance["fetched"])
    assert {*provenance["anchors"]} == {*expected}
    assert len(provenance["overlap"]) == len(expected)
    for row in provenance["published"]:
        assert row["task"] in expected
    for task in expected:
        assert len(prepared.examples("test", task)) == TEST
        assert len(prepared.examples("train", task)) == RECIPE.pool
        assert len(prepared.examples("validation", task)) == TRAIN // 10
        assert prepared.examples("test", task).shape[1:] == (224, 224, 3)
        expert = prepared.expert(task)
        assert any(not expert[key].equal(prepared.base()[key]) for key in expert)
    encoder = prepared.suite.encoder()
    images = torch.from_numpy(np.array(prepared.examples("test", expected[0])))
    features = encoder(dict(prepared.base()), images)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(TEST))
    assert backbone in _clip_tasks.BACKBONES


def test_every_method_merges_and_serves_a_public_suite(filled: hub_server.Hub, tmp_path: Path):
    prepared, root = prepare_suite("ta8-vit-b-32", tmp_path / "suite"), tmp_path
    folder, tasks, teachers = prepared.folder, prepared.suite.task_names, root / "teachers"
    for task in tasks:
        store.write_array(teachers / f"{task}.npy", compute_teacher_logits(folder, task, "train").numpy())
    scored: set[tuple[str | None, int | None]] = set()
    quick = {"prodistill": {"epochs": 1}, "wudi": {"steps": 2}, "opcm": {"seeds": [0]}, "dare": {"seeds": [0]}}
    for name in methods.names():
        module, artefact = methods.load(name), root / "merges" / name
        params = module.Params(**quick.get(name, {}))
        if hasattr(module, "merge"):
            merged = merge_step.merge_data_free(module, prepared.vectors(), params, tasks)
        else:
            schedule = Schedule(lr=0.01, steps=1, batch_size=2)
            setting = Setting(folder, teachers, name, params, schedule, "train", "float32")
            merged = calibrate_seeds(setting, 2, [0], Resumable(root / "cells", ()))
        storage.save(merged, artefact)
        description, coefficients = storage.load(artefact)
        form = (description["extras"], None if coefficients is None else coefficients.shape[1])
        if form in scored:
            continue
        scored.add(form)
        counts = predict_seed(folder, artefact, 0, "test").counts(0)
        assert {task: total for task, (_, total) in counts.items()} == dict.fromkeys(tasks, TEST), name


def test_a_larger_suite_fetches_and_decodes_only_what_is_new(filled: hub_server.Hub, tmp_path: Path):
    first = prepare_suite("ta8-vit-b-32", tmp_path / "first")
    request_count = len(filled.requests)
    second = prepare_suite("tall14-vit-b-32", tmp_path / "second")
    bodies = [
        request.path
        for request in filled.requests[request_count:]
        if request.method == "GET" and "/cdn/" in request.path and not request.range
    ]
    assert (
        len(bodies)
        == len({*bodies})
        == sum(
            len(download["files"]) - (download["kind"] == "model" and download["repo"].startswith("openai"))
            for download in second.suite.provenance["fetched"]
            if download not in first.suite.provenance["fetched"]
        )
    )
    for split in SPLITS:
        earlier, later = (folder / f"images/{split}/dtd.npy" for folder in (tmp_path / "first", tmp_path / "second"))
        assert earlier.stat().st_ino == later.stat().st_ino


def test_a_second_preparation_gives_the_same_bytes(filled: hub_server.Hub, tmp_path: Path):
    for name in ("first", "second"):
        prepare_suite("ta8-vit-b-16", tmp_path / name)
    contents = [
        {
            path.relative_to(tmp_path / name): path.read_bytes()
            for path in sorted((tmp_path / name).rglob("*"))
            if path.is_file()
        }
        for name in ("first", "second")
    ]
    assert contents[0] == contents[1]


def define_custom_suite(tmp_path: Path, repositories: dict[str, dict], **changes: object) -> clip.Definition:
    """Define a suite of local files: a base, an expert and a data set for two tasks; `changes`: of the first."""
    for place, kind, repo in (
        ("base", "model", _clip_tasks.BACKBONES["vit-b-32"]),
        ("expert", "model", _clip_tasks.CLIP_TASKS["dtd"].anchors["vit-b-32"].checkpoint),
        ("images", "dataset", _clip_tasks.CLIP_TASKS["cifar10"].dataset),
    ):
        for name, content in repositories[kind][repo].items():
            path = tmp_path / place / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    task = _clip_tasks.CLIP_TASKS["cifar10"]
    custom_task = {
        "name": "mine",
        "expert": str(tmp_path / "expert"),
        "dataset": str(tmp_path / "images"),
        "image_column": task.image_column[0],
        "label_column": task.label_column[0],
        "test_size": TEST,
        "classes": [*task.classes],
    }
    entries = [{**custom_task, **changes}, {**custom_task, "name": "other"}]
    return clip.Definition.model_validate({"base": str(tmp_path / "base"), "tasks": entries})


def test_a_suite_of_local_files_needs_no_hub(
    hub: hub_server.Hub, repositories: dict[str, dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SAMERGING_WORKERS", "1")
    clip.prepare("mine", define_custom_suite(tmp_path, repositories), RECIPE, UNUSED, tmp_path / "suite")
    suite = SuiteFolder(tmp_path / "suite").suite
    assert suite.task_names == ("mine", "other")
    assert (suite.provenance["fetched"], suite.provenance["anchors"]) == ([], {})
    assert not hub.requests


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_size": 7}, "the test split .* has 6 images, expected 7"),
        ({"dataset": "./nowhere"}, "nowhere: no such file or folder"),
        ({"expert": "./nowhere"}, "nowhere: no such file or folder"),
        ({"test_split": "tset"}, r"mine.*no parquet file of split 'tset'"),
        ({"classes": ["a", "b"]}, "label has 10 classes"),
        ({"image_column": "picture"}, "no column picture"),
        (
            {"templates": ["a photo of " * 40 + "{}"]},
            "mine: the caption 'a photo of .* tokens, the text encoder takes 75",
        ),
    ],
)
def test_faults_of_a_custom_suite_are_named(
    changes: dict[str, object],
    message: str,
    hub: hub_server.Hub,
    repositories: dict[str, dict],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("SAMERGING_WORKERS", "1")
    with pytest.raises(BenchmarkError, match=message):
        clip.prepare("mine", define_custom_suite(tmp_path, repositories, **changes), RECIPE, UNUSED, tmp_path / "suite")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"tasks": ["dtd", "mnist"]}, "need a backbone"),
        ({"backbone": "vit-b-8", "tasks": ["dtd"]}, "vit-b-8"),
        ({"backbone": "vit-b-32", "tasks": []}, "0 tasks, expected at least two"),
        ({"backbone": "vit-b-32", "tasks": ["dtd"]}, "1 tasks, expected at least two"),
        (
            {"backbone": "vit-b-32", "tasks": ["dtd", {**CUSTOM, "expret": "./e"}]},
            "mine: expret = './e': no such key; did you mean 'expert'",
        ),
        ({"backbone": "vit-b-32", "tasks": ["dtd", CUSTOM]}, "tasks: mine: test_size: missing"),
        (
            {"backbone": "vit-b-32", "tasks": ["dtd", {**CUSTOM, "test_size": "9"}]},
            "mine: test_size = '9': Input should be a valid integer",
        ),
        (
            {"backbone": "vit-b-32", "tasks": ["dtd", {**SIZED, "expert": "hello"}]},
            "mine: expert = 'hello': expected a path",
        ),
        (
            {"backbone": "vit-b-32", "tasks": ["dtd", {**SIZED, "dataset": "tests/suites"}]},
            "write ./tests/suites for that",
        ),
        (
            {"backbone": "vit-b-32", "tasks": ["dtd", {**SIZED, "classes": ["a", "a"]}]},
            "'a' is listed twice",
        ),
        (
            {"backbone": "vit-b-32", "tasks": ["dtd", {**SIZED, "templates": ["a cat"]}]},
            "templates: 0 = 'a cat': expected a caption with one",
        ),
        ({"backbone": "vit-b-32", "tasks": ["dtd", 3]}, "tasks: 1 = 3: Input should be"),
        (
            {"backbone": "vit-b-32", "tasks": ["dtd", "dtd"]},
            "is not valid:\n  dtd: listed twice; names of tasks must differ",
        ),
        (
            {"backbone": "vit-b-32", "tasks": ["dtd", {**SIZED, "classes": ["", "a"]}]},
            "mine: classes: 0 = '': String should have",
        ),
        (
            {"backbone": "vit-b-32", "tasks": ["dtd", {**SIZED, "image_column": ""}]},
            "image_column '': String should have",
        ),
        (
            {"backbone": "vit-b-32", "tasks": ["dtd", {**SIZED, "name": "Mine"}]},
            "name = 'Mine': expected lower-case letters",
        ),
        ({"backbone": "vit-b-32", "tasks": ["dtdd"]}, "did you mean 'dtd'"),
    ],
)
def test_a_definition_is_checked_before_anything_is_fetched(
    content: dict, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(suites, "FOLDER", tmp_path)
    shutil.copy(Path(clip.__file__), tmp_path)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"family": "clip", **content}))
    with pytest.raises(BenchmarkError, match=message):
        suites.load("mine")


def test_the_name_of_a_suite_is_checked():
    with pytest.raises(BenchmarkError, match=r"Garden.yaml: expected a name of lower-case letters"):
        suites.load("Garden")


def test_no_image_is_decoded_before_all_folders_are_known_to_fit(
    hub: hub_server.Hub, repositories: dict[str, dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SAMERGING_WORKERS", "1")
    photograph(tmp_path / "photos", 12, "train/airplane", "test/airplain")
    definition = define_custom_suite(tmp_path, repositories)
    (first, second) = definition.tasks
    wrong = second.model_copy(update={"dataset": str(tmp_path / "photos")})
    broken = definition.model_copy(update={"tasks": [first, wrong]})
    with pytest.raises(BenchmarkError, match=r"other: .*'airplain' is no class of the suite; did you mean 'airplane'"):
        clip.prepare("mine", broken, RECIPE, UNUSED, tmp_path / "suite")
    assert not list(Path(_hub.constants.HF_ASSETS_CACHE).rglob("*.npy"))
    assert not (tmp_path / "suite").exists()


def test_a_missing_expert_leaves_nothing_half_done(filled: hub_server.Hub, tmp_path: Path):
    filled.fail("clip-vit-base-patch32_gtsrb", status=404, times=100, headers={"X-Error-Code": "RepoNotFound"})
    with pytest.raises(BenchmarkError, match="clip-vit-base-patch32_gtsrb"):
        prepare_suite("ta8-vit-b-32", tmp_path / "suite")
    assert not (tmp_path / "suite").exists()


def test_missing_room_for_decoded_images_is_reported_before_fetching(
    filled: hub_server.Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=20 * 2**20))
    with pytest.raises(BenchmarkError, match=r"GiB free|GiB are free"):
        prepare_suite("ta8-vit-b-32", tmp_path / "suite")
    assert not any("/cdn/" in request.path and not request.range for request in filled.requests)


def test_a_wrong_dataset_is_refused_before_weights_and_images_are_fetched(
    filled: hub_server.Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    task = unpin(TASKS["dtd"])
    second = task.classes[1]
    exchanged = task.model_copy(update={"stored_classes": (second, task.classes[0], *task.classes[2:])})
    monkeypatch.setattr(_clip_tasks, "CLIP_TASKS", {**_clip_tasks.CLIP_TASKS, "dtd": exchanged})
    with pytest.raises(
        BenchmarkError, match=r"datasets/tanganke/dtd: data/train-.*'banded' is 0 in the file, 1 in the"
    ):
        prepare_suite("ta8-vit-b-32", tmp_path / "suite")
    assert not any("/cdn/" in request.path and not request.range for request in filled.requests)


def test_a_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    tasks = [{**SIZED, "expert": "~/checkpoints/x"}, {**SIZED, "name": "other"}]
    definition = clip.Definition.model_validate({"base": "~/clip", "tasks": tasks})
    assert definition.base == str(tmp_path / "clip")
    assert definition.describe()[0][1] == str(tmp_path / "checkpoints/x")


def test_revisions_are_tried_in_their_order(filled: hub_server.Hub):
    task = unpin(TASKS["dtd"]).model_copy(update={"revision": ("refs/convert/parquet", "main")})
    assert clip.locate_dataset(task).revision == "main"
    filled.push("dataset", task.dataset, {"partial-train/0000.parquet": b"", "README.md": b""})
    with pytest.raises(BenchmarkError, match=r"task dtd: .*no revision .*; .* at 'main': only a part of split 'train'"):
        clip.locate_dataset(task)
    filled.push("dataset", task.dataset, {"train/0.tar": b"", "test/0.tar": b""})
    assert clip.locate_dataset(task).names == ("train/0.tar", "test/0.tar")


def test_a_pinned_repository_that_moved_on_is_named(filled: hub_server.Hub):
    repo, files = "me/pinned", {"model.safetensors": b"1"}
    first = filled.push("model", repo, files)
    request = _hub.Request(repo, "model", first, ("model.safetensors",))
    assert _hub.describe_moved(_hub.plan_downloads([request])) == []
    second = filled.push("model", repo, {"model.safetensors": b"2"})
    (line,) = _hub.describe_moved(_hub.plan_downloads([request]))
    assert line == f"{filled.url}/{repo} is pinned to {first[:12]}; its main is {second[:12]}"


def photograph(root: Path, count: int, *folders: str) -> None:
    """Write `count` noisy images into each folder below `root`."""
    rng = np.random.default_rng(0)
    for folder in folders:
        (root / folder).mkdir(parents=True)
        for index in range(count):
            Image.fromarray(rng.integers(0, 256, (40, 30, 3), dtype=np.uint8)).save(root / folder / f"{index}.png")


def test_images_without_labels_are_judged_by_the_expert(
    hub: hub_server.Hub, repositories: dict[str, dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SAMERGING_WORKERS", "1")
    photograph(tmp_path, 16, "photos")
    definition = define_custom_suite(tmp_path, repositories, dataset=str(tmp_path / "photos"))
    clip.prepare("mine", definition, RECIPE, UNUSED, tmp_path / "suite")
    prepared = SuiteFolder(tmp_path / "suite")
    assert prepared.suite.provenance["unlabelled"] == {"mine": ["train", "validation", "test"]}
    assert [len(prepared.examples(split, "mine")) for split in SPLITS] == [8, 1, TEST]
    expert = {**prepared.base(), **prepared.expert("mine")}
    for split in SPLITS:
        pixels = torch.from_numpy(np.array(prepared.examples(split, "mine")))
        answers = (prepared.suite.encoder()(expert, pixels) @ prepared.heads()["mine"].T).argmax(1)
        assert prepared.labels(split, "mine").tolist() == answers.tolist()


def test_what_a_folder_holds_besides_images_is_refused_unless_hidden(hub: hub_server.Hub, tmp_path: Path):
    task = unpin(TASKS["dtd"]).model_copy(update={"dataset": str(tmp_path / "photos")})
    photograph(tmp_path, 2, "photos")
    (tmp_path / "photos/.DS_Store").touch()
    assert clip.locate_dataset(task).names == ("0.png", "1.png")
    (tmp_path / "photos/2.heic").touch()
    with pytest.raises(BenchmarkError, match=r"task dtd: .*photos: 2.heic is no image that Pillow opens"):
        clip.locate_dataset(task)


def test_a_base_of_another_resolution_gets_images_of_its_size(
    hub: hub_server.Hub, repositories: dict[str, dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SAMERGING_WORKERS", "1")
    definition = define_custom_suite(tmp_path, repositories)
    config = json.loads((tmp_path / "base/config.json").read_text())
    config["vision_config"]["image_size"] = 64
    (tmp_path / "base/config.json").write_text(json.dumps(config))
    with pytest.raises(
        BenchmarkError, match=r"positional_embedding: the weights have \[50, 32\], config.json asks for \[5, 32\]"
    ):
        clip.prepare("mine", definition, RECIPE, UNUSED, tmp_path / "suite")
    for place in ("base", "expert"):
        path = tmp_path / place / "model.safetensors"
        tensors = load(path.read_bytes())
        key = "vision_model.embeddings.position_embedding.weight"
        tensors[key] = tensors[key][:5].contiguous()
        path.write_bytes(save(tensors))
    clip.prepare("mine", definition, RECIPE, UNUSED, tmp_path / "suite")
    prepared = SuiteFolder(tmp_path / "suite")
    assert prepared.examples("test", "mine").shape == (TEST, 64, 64, 3)
    features = prepared.suite.encoder()(
        dict(prepared.base()), torch.from_numpy(np.array(prepared.examples("test", "mine")))
    )
    torch.testing.assert_close(features.norm(dim=1), torch.ones(TEST))


def test_the_pickled_weights_of_a_base_are_read(hub: hub_server.Hub, repositories, tmp_path, monkeypatch):
    monkeypatch.setenv("SAMERGING_WORKERS", "1")
    definition = define_custom_suite(tmp_path, repositories)
    safe = tmp_path / "base" / "model.safetensors"
    tensors = load(safe.read_bytes())
    clip.prepare("mine", definition, RECIPE, UNUSED, tmp_path / "safe")
    safe.unlink()
    torch.save(tensors, tmp_path / "base" / "pytorch_model.bin")
    clip.prepare("mine", definition, RECIPE, UNUSED, tmp_path / "pickled")
    for name in ("base.safetensors", "heads.safetensors"):
        assert (tmp_path / "safe" / name).read_bytes() == (tmp_path / "pickled" / name).read_bytes()
    assert json.loads((tmp_path / "safe/suite.json").read_text())["groups"]


def test_an_older_expert_is_read_from_its_pickle(
    hub: hub_server.Hub, repositories: dict[str, dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SAMERGING_WORKERS", "1")
    clip.prepare("mine", define_custom_suite(tmp_path, repositories), RECIPE, UNUSED, tmp_path / "new")
    tower = fuse_qkv({**SuiteFolder(tmp_path / "new").base(), **SuiteFolder(tmp_path / "new").expert("mine")})
    torch.save({f"model.visual.{name}": tensor for name, tensor in tower.items()}, tmp_path / "expert.pt")
    definition = define_custom_suite(tmp_path, repositories, expert=str(tmp_path / "expert.pt"))
    clip.prepare("mine", definition, RECIPE, UNUSED, tmp_path / "old")
    new, old = (SuiteFolder(tmp_path / name).expert("mine") for name in ("new", "old"))
    assert new.keys() == old.keys()
    assert all(new[name].equal(old[name]) for name in new)
