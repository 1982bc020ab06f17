"""The paper's suites on replicas of every repository: all nine prepare, a suite of one's own does, faults are named."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load

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
from pipeline.suites import _clip_tasks, clip
from tests.support import hub_server, replicas

pytestmark = pytest.mark.long

hub = hub_server.hub
NINE = [f"{group}-{backbone}" for group in ("ta8", "tall14", "tall20") for backbone in _clip_tasks.BACKBONES]
TRAIN, TEST = 12, 6
RECIPE = clip.Recipe(seed=0, pool=8)
UNUSED = Path("no checkpoints")
"""What stage train writes: this family trains nothing."""


@pytest.fixture(scope="module")
def repositories() -> dict[str, dict]:
    """{kind: {repository: files}} of everything that the nine suites name."""
    models = {
        repo: files for backbone in _clip_tasks.BACKBONES for repo, files in replicas.checkpoints(backbone).items()
    }
    return {"model": models, "dataset": replicas.datasets(TRAIN, TEST)}


@pytest.fixture
def filled(hub: hub_server.Hub, repositories: dict[str, dict], monkeypatch: pytest.MonkeyPatch) -> hub_server.Hub:
    """A hub with all replicas; the table expects their test sizes; one process."""
    for kind, contents in repositories.items():
        for repo, files in contents.items():
            hub.push(kind, repo, files)
    tiny = {
        name: about.model_copy(update={"test_size": TEST, "revision": "main"})
        for name, about in _clip_tasks.CLIP_TASKS.items()
    }
    monkeypatch.setattr(_clip_tasks, "TASKS", tiny)
    monkeypatch.setenv("SAMERGING_WORKERS", "1")
    return hub


def prepared(name: str, folder: Path) -> SuiteFolder:
    family, definition = suites.load(name)
    family.prepare(name, definition, RECIPE, UNUSED, folder)
    return SuiteFolder(folder)


@pytest.mark.parametrize("name", NINE)
def test_every_suite_of_the_paper_prepares(name: str, filled: hub_server.Hub, tmp_path: Path):
    found = prepared(name, tmp_path / name)
    group, backbone = name.split("-", 1)
    expected = _clip_tasks.SUITES[{"ta8": "ta-8", "tall14": "tall-14", "tall20": "tall-20"}[group]]
    assert found.suite.task_names == expected
    origin = found.suite.provenance
    assert len(origin["fetched"]) == 1 + 2 * len(expected)
    assert all(len(one["commit"]) == 40 and one["files"] for one in origin["fetched"])
    assert {*origin["anchors"]} == {*expected}
    assert {len(rows) for rows in (origin["overlap"],)} == {len(expected)}
    for row in origin["published"]:
        assert row["task"] in expected
    for task in expected:
        assert len(found.images("test", task)) == TEST
        assert len(found.images("train", task)) == RECIPE.pool
        assert len(found.images("validation", task)) == TRAIN // 10
        assert found.images("test", task).shape[1:] == (224, 224, 3)
        expert = found.expert(task)
        assert any(not expert[key].equal(found.base()[key]) for key in expert)
    encoder = found.suite.encoder()

    images = torch.from_numpy(np.array(found.images("test", expected[0])))
    features = encoder(dict(found.base()), images)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(TEST))
    assert backbone in _clip_tasks.BACKBONES
    accepts_every_method(found, tmp_path)


def accepts_every_method(found: SuiteFolder, root: Path) -> None:
    """Every method merges the suite, and one artefact of every form is scored on every task."""
    folder, tasks, teachers = found.folder, found.suite.task_names, root / "teachers"
    for task in tasks:
        store.write_array(teachers / f"{task}.npy", compute_teacher_logits(folder, task, "train").numpy())
    scored: set[tuple[str | None, int | None]] = set()
    quick = {"prodistill": {"epochs": 1}, "wudi": {"steps": 2}, "opcm": {"seeds": [0]}, "dare": {"seeds": [0]}}
    for name in methods.names():
        module, artefact = methods.load(name), root / "merges" / name
        params = module.Params(**quick.get(name, {}))
        if hasattr(module, "merge"):
            made = merge_step.merge_data_free(module, found.vectors(), params, tasks)
        else:
            schedule = Schedule(lr=0.01, steps=1, batch_size=2)
            asked = Setting(folder, teachers, name, params, schedule, "train", "float32")
            made = calibrate_seeds(asked, 2, [0], Resumable(root / "cells", ()))
        storage.save(made, artefact)
        about, coefficients = storage.load(artefact)
        form = (about["extras"], None if coefficients is None else coefficients.shape[1])
        if form in scored:
            continue
        scored.add(form)
        counts = predict_seed(folder, artefact, 0, "test").counts(0)
        assert {task: total for task, (_, total) in counts.items()} == dict.fromkeys(tasks, TEST), name


def test_a_larger_suite_fetches_and_decodes_only_what_is_new(filled: hub_server.Hub, tmp_path: Path):
    first = prepared("ta8-vit-b-32", tmp_path / "first")
    seen = len(filled.requests)
    second = prepared("tall14-vit-b-32", tmp_path / "second")
    bodies = [request.path for request in filled.requests[seen:] if request.method == "GET" and "/cdn/" in request.path]
    assert (
        len(bodies)
        == len({*bodies})
        == sum(
            len(one["files"]) - (one["kind"] == "model" and one["repo"].startswith("openai"))
            for one in second.suite.provenance["fetched"]
            if one not in first.suite.provenance["fetched"]
        )
    )
    for split in SPLITS:
        one, other = (folder / f"images/{split}/dtd.npy" for folder in (tmp_path / "first", tmp_path / "second"))
        assert one.stat().st_ino == other.stat().st_ino


def test_a_second_preparation_gives_the_same_bytes(filled: hub_server.Hub, tmp_path: Path):
    for name in ("first", "second"):
        prepared("ta8-vit-b-16", tmp_path / name)
    contents = [
        {
            path.relative_to(tmp_path / name): path.read_bytes()
            for path in sorted((tmp_path / name).rglob("*"))
            if path.is_file()
        }
        for name in ("first", "second")
    ]
    assert contents[0] == contents[1]


def own(tmp_path: Path, repositories: dict[str, dict], **changes: object) -> clip.Definition:
    """A suite of local files: a base, an expert and a data set of one task."""
    for place, kind, repo in (
        ("base", "model", _clip_tasks.BACKBONES["vit-b-32"]),
        ("expert", "model", _clip_tasks.CLIP_TASKS["dtd"].anchors["vit-b-32"].checkpoint),
        ("images", "dataset", _clip_tasks.CLIP_TASKS["cifar10"].dataset),
    ):
        for name, content in repositories[kind][repo].items():
            path = tmp_path / place / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    about = _clip_tasks.CLIP_TASKS["cifar10"]
    mine = {
        "name": "mine",
        "expert": str(tmp_path / "expert"),
        "dataset": str(tmp_path / "images"),
        "image_column": about.image_column[0],
        "label_column": about.label_column[0],
        "test_size": TEST,
        "classes": [*about.classes],
    }
    return clip.Definition.model_validate({"base": str(tmp_path / "base"), "tasks": [{**mine, **changes}]})


def test_a_suite_of_local_files_needs_no_hub(
    hub: hub_server.Hub, repositories: dict[str, dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SAMERGING_WORKERS", "1")
    clip.prepare("mine", own(tmp_path, repositories), RECIPE, UNUSED, tmp_path / "suite")
    found = SuiteFolder(tmp_path / "suite").suite
    assert found.task_names == ("mine",)
    assert (found.provenance["fetched"], found.provenance["anchors"]) == ([], {})
    assert not hub.requests


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_size": 7}, "the test split .* has 6 images, expected 7"),
        ({"dataset": "./nowhere"}, "nowhere: no such file or folder"),
        ({"expert": "./nowhere"}, "nowhere: no such file or folder"),
        ({"test_split": "tset"}, r"mine.*no parquet file of split 'tset'"),
        ({"classes": ["a", "b"]}, "classes"),
        ({"image_column": "picture"}, "no column picture"),
    ],
)
def test_what_is_wrong_with_a_suite_of_ones_own_is_named(
    changes: dict[str, object],
    message: str,
    hub: hub_server.Hub,
    repositories: dict[str, dict],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("SAMERGING_WORKERS", "1")
    with pytest.raises(BenchmarkError, match=message):
        clip.prepare("mine", own(tmp_path, repositories, **changes), RECIPE, UNUSED, tmp_path / "suite")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"tasks": ["dtd"]}, "need a backbone"),
        ({"backbone": "vit-b-8", "tasks": ["dtd"]}, "vit-b-8"),
        ({"backbone": "vit-b-32", "tasks": []}, "tasks"),
        ({"backbone": "vit-b-32", "tasks": ["dtd", "dtd"]}, "twice"),
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


def test_a_missing_expert_leaves_nothing_half_done(filled: hub_server.Hub, tmp_path: Path):
    filled.fail("clip-vit-base-patch32_gtsrb", status=404, times=100, headers={"X-Error-Code": "RepoNotFound"})
    with pytest.raises(BenchmarkError, match="clip-vit-base-patch32_gtsrb"):
        prepared("ta8-vit-b-32", tmp_path / "suite")
    assert not (tmp_path / "suite").exists()


def test_no_room_for_the_decoded_images_is_said_before_fetching(
    filled: hub_server.Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=20 * 2**20))
    with pytest.raises(BenchmarkError, match=r"GiB free|GiB are free"):
        prepared("ta8-vit-b-32", tmp_path / "suite")
    assert not any("/cdn/" in request.path for request in filled.requests)


def test_the_pickled_weights_of_a_base_are_read(hub: hub_server.Hub, repositories, tmp_path, monkeypatch):

    monkeypatch.setenv("SAMERGING_WORKERS", "1")
    definition = own(tmp_path, repositories)
    safe = tmp_path / "base" / "model.safetensors"
    tensors = load(safe.read_bytes())
    clip.prepare("mine", definition, RECIPE, UNUSED, tmp_path / "safe")
    safe.unlink()
    torch.save(tensors, tmp_path / "base" / "pytorch_model.bin")
    clip.prepare("mine", definition, RECIPE, UNUSED, tmp_path / "pickled")
    for name in ("base.safetensors", "heads.safetensors"):
        assert (tmp_path / "safe" / name).read_bytes() == (tmp_path / "pickled" / name).read_bytes()
    assert json.loads((tmp_path / "safe/suite.json").read_text())["groups"]


def test_an_expert_of_the_older_line_is_read_from_its_pickle(
    hub: hub_server.Hub, repositories: dict[str, dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SAMERGING_WORKERS", "1")
    clip.prepare("mine", own(tmp_path, repositories), RECIPE, UNUSED, tmp_path / "new")
    tower = fuse_qkv({**SuiteFolder(tmp_path / "new").base(), **SuiteFolder(tmp_path / "new").expert("mine")})
    torch.save({f"model.visual.{name}": tensor for name, tensor in tower.items()}, tmp_path / "expert.pt")
    definition = own(tmp_path, repositories, expert=str(tmp_path / "expert.pt"))
    clip.prepare("mine", definition, RECIPE, UNUSED, tmp_path / "old")
    new, old = (SuiteFolder(tmp_path / name).expert("mine") for name in ("new", "old"))
    assert new.keys() == old.keys()
    assert all(new[name].equal(old[name]) for name in new)
