"""The tables of the CLIP suites are complete and consistent, and their published numbers add up."""

import csv
import json
import shutil
from pathlib import Path

import pytest

from pipeline.runtime.errors import BenchmarkError
from pipeline.suites import _clip_tasks as clip
from pipeline.suites._glue_tasks import GLUE_TASKS
from pipeline.suites._labels import plain_name
from pipeline.suites._parquet import find_parquet_files
from pipeline.suites._tables import TABLE_FOLDER, read_published
from tests.support import replicas

TEMPLATES = dict(zip(clip.CLIP_TASKS, (2, 8, 18, 3, 1, 3, 1, 8, 1, 1, 6, 1, 2, 18, 18, 1, 2, 1, 1, 1), strict=True))
ZEROSHOT = {"vit-b-32": (48.08, 56.94, 55.65), "vit-b-16": (55.36, 61.97, 59.85), "vit-l-14": (64.93, 69.10, 65.61)}
EXPERT = {"vit-b-32": (90.38, 89.25, 89.77), "vit-b-16": (92.38, 91.33, 91.62), "vit-l-14": (94.30, 93.37, 93.52)}
"""Published averages over ta-8, tall-14, tall-20."""


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    """A copy of the tables."""
    return Path(shutil.copytree(TABLE_FOLDER, tmp_path / "tables"))


def test_suites_are_the_papers():
    assert [(suite, len(tasks)) for suite, tasks in clip.SUITES.items()] == [
        ("ta-8", 8),
        ("tall-14", 14),
        ("tall-20", 20),
    ]
    assert clip.SUITES["tall-20"] == tuple(clip.CLIP_TASKS)
    assert clip.SUITES["tall-14"] == tuple(clip.CLIP_TASKS)[:14]
    assert clip.SUITES["ta-8"] == (
        "sun397", "stanford-cars", "resisc45", "eurosat", "svhn", "gtsrb", "mnist", "dtd"
    )  # fmt: skip


@pytest.mark.parametrize("name", clip.CLIP_TASKS)
def test_a_task_is_complete(name: str):
    task = clip.find_task(name)
    with (TABLE_FOLDER / "tasks.csv").open(encoding="utf-8") as file:
        (row,) = (row for row in csv.DictReader(file) if row["task"] == name)
    assert task.name == name
    assert len(task.classes) == len({*task.classes}) == int(row["classes"])
    assert len(task.templates) == TEMPLATES[name]
    for backbone, anchor in task.anchors.items():
        size = clip.BACKBONES[backbone].removeprefix("openai/")
        assert anchor.checkpoint == f"tanganke/{size}_{name}"
        for percent in (anchor.zeroshot, anchor.expert):  # a count of test images, to two decimals
            correct = round(percent / 100 * task.test_size)
            assert 100 * correct / task.test_size == pytest.approx(percent, abs=0.0051)


def test_test_sizes_are_the_published_ones():
    sizes = [task.test_size for task in clip.CLIP_TASKS.values()]
    assert sizes[:8] == [19850, 8041, 6300, 2700, 26032, 12630, 10000, 1880]
    assert sizes[8:14] == [6149, 32768, 7178, 3669, 8000, 10000]
    assert sizes[14:] == [10000, 25250, 10000, 20800, 10000, 1821]


@pytest.mark.parametrize("backbone", clip.BACKBONES)
def test_anchors_average_to_the_published_averages(backbone: str):
    for suite, zeroshot, expert in zip(clip.SUITES, ZEROSHOT[backbone], EXPERT[backbone], strict=True):
        anchors = [clip.find_task(name).anchors[backbone] for name in clip.SUITES[suite]]
        assert sum(anchor.zeroshot for anchor in anchors) / len(anchors) == pytest.approx(zeroshot, abs=0.01)
        assert sum(anchor.expert for anchor in anchors) / len(anchors) == pytest.approx(expert, abs=0.01)


def test_published_results_cover_every_task_once():
    tables: dict[tuple[str, ...], dict[str, float]] = {}
    for row in read_published():
        accuracies = tables.setdefault((row.suite, row.backbone, row.method, row.hyperparameters), {})
        assert row.task not in accuracies
        accuracies[row.task] = row.accuracy
    for (suite, backbone, *_), accuracies in tables.items():
        assert backbone in ({"gpt2"} if suite == "glue-7" else clip.BACKBONES)
        assert tuple(accuracies) == (tuple(GLUE_TASKS) if suite == "glue-7" else clip.SUITES[suite])
    for backbone in clip.BACKBONES:
        for method, field in (("zero-shot", "zeroshot"), ("individual", "expert")):
            accuracies = tables["tall-20", backbone, method, ""]
            for name, task in clip.CLIP_TASKS.items():
                assert accuracies[name] == pytest.approx(getattr(task.anchors[backbone], field), abs=0.0051)
    merged = tables["ta-8", "vit-b-32", "AdaMerging (layer-wise)", "init 0.3"]
    assert sum(merged.values()) / 8 == pytest.approx(82.6, abs=0.05)


def test_food101_is_stored_with_two_classes_exchanged():
    task = clip.find_task("food101")
    exchanged = [
        index for index in range(101) if plain_name(task.classes[index]) != plain_name(task.stored_classes[index])
    ]
    assert exchanged == [16, 17]
    assert (task.classes[16], task.stored_classes[16]) == ("cheese plate", "cheesecake")
    assert {*map(plain_name, task.classes)} == {*map(plain_name, task.stored_classes)}
    assert [name for name, other in clip.CLIP_TASKS.items() if other.stored_classes] == ["food101"]


def test_an_unknown_task_is_named_with_its_nearest():
    with pytest.raises(BenchmarkError, match=r"unknown task 'standford_cars'; did you mean 'stanford-cars'\?"):
        clip.find_task("standford_cars")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (",26032,", ",26032.5,", "tasks.csv: svhn: test_size: .*integer.*, got '26032.5'"),
        (",31.63,", ",131.63,", r"svhn: anchors.vit-b-32.zeroshot: .*less than or equal to 100, got '131.63'"),
        (",no,10,26032,", ",no,11,26032,", "svhn: 11 classes, but prompts.json names 10"),
        ("\nsvhn,", "\nsvhm,", "do not list the same tasks: svhm, svhn"),
        (",cropped_digits,main,", ",cropped_digits,,", "svhn: revision.*at least 1 character"),
        ("ufldl-stanford/svhn", "svhn", "svhn: dataset: .*pattern"),
        ("checkpoint_vit-l-14", "checkpoint_vit-h-14", "sun397: .*vit-"),
    ],
)
def test_a_wrong_table_is_refused(tables: Path, old: str, new: str, message: str):
    path = tables / "tasks.csv"
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), "utf-8")
    with pytest.raises(BenchmarkError, match=message):
        clip.read_tasks(tables)


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ({"classes": ["0"] * 10}, "svhn: .*class names must differ"),
        ({"templates": ["a number"]}, r"svhn: templates.0: .*pattern"),
        ({"templates": []}, "svhn: templates: .*at least 1"),
        ({"stored_classes": ["0"]}, "svhn: .*1 stored class names for 10 classes"),
    ],
)
def test_wrong_prompts_are_refused(tables: Path, prompts: dict[str, list[str]], message: str):
    path = tables / "prompts.json"
    content = json.loads(path.read_text("utf-8"))
    content["svhn"] |= prompts
    path.write_text(json.dumps(content), "utf-8")
    with pytest.raises(BenchmarkError, match=message):
        clip.read_tasks(tables)


def test_every_repository_has_its_splits():
    repositories = replicas.datasets(2, 1)
    assert {*repositories} == {task.dataset for task in clip.CLIP_TASKS.values()}
    for name, task in clip.CLIP_TASKS.items():
        for split in (task.train_split, task.test_split):
            files = find_parquet_files(list(repositories[task.dataset]), task.config, split)
            assert len(files) == replicas.SHARDS.get(name, 1)
            assert all(file.startswith(f"{replicas.FOLDERS.get(name, 'data')}/{split}") for file in files)
    with pytest.raises(BenchmarkError, match="several folders"):
        find_parquet_files(list(repositories["ufldl-stanford/svhn"]), None, "test")


@pytest.mark.parametrize("backbone", clip.BACKBONES)
def test_checkpoint_replicas_are_deterministic_and_loadable(backbone: str):
    from safetensors.torch import load
    from transformers import CLIPConfig, CLIPModel

    tasks = ("svhn", "mnist")
    repositories = replicas.checkpoints(backbone, tasks)
    assert repositories == replicas.checkpoints(backbone, tasks)
    base = repositories.pop(clip.BACKBONES[backbone])
    weights = load(base["model.safetensors"])
    mismatch = CLIPModel(CLIPConfig(**json.loads(base["config.json"]))).load_state_dict(weights, strict=False)
    assert not mismatch.missing_keys
    assert all(key.endswith("position_ids") for key in mismatch.unexpected_keys)
    assert [*repositories] == [clip.find_task(name).anchors[backbone].checkpoint for name in tasks]
    for files in repositories.values():
        expert = load(files["model.safetensors"])
        assert {*expert} == {key for key in weights if key.startswith("vision_model.")} - {
            "vision_model.embeddings.position_ids"
        }
        assert all(0 < (expert[key] - weights[key]).abs().max() < 0.1 for key in expert)
