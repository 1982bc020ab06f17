"""The embedded suites' images: splits that share nothing, sizes known beforehand, the same draw every time."""

from functools import cache
from itertools import combinations
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch

from pipeline import suites
from pipeline.errors import BenchmarkError
from pipeline.params import load
from pipeline.suite import SPLITS
from pipeline.suites import _mini_images as images
from pipeline.suites import mini

SIZES = {"train": 300, "validation": 100, "test": 150}
PAIRS = [*combinations(SPLITS, 2)]


@cache
def drawn(task: str, seed: int = 0) -> dict[str, images.Images]:
    """The splits of a task."""
    return images.draw(task, SIZES, seed)


@pytest.mark.parametrize("task", images.TASKS)
def test_splits_share_no_image(task: str):
    contents = {split: {image.tobytes() for image in pixels} for split, (pixels, _) in drawn(task).items()}
    assert {*contents} == {*SPLITS}
    for one, other in PAIRS:
        assert contents[one].isdisjoint(contents[other]), f"{one} and {other} share an image"


@pytest.mark.parametrize("task", images.TASKS)
def test_images_and_labels_are_as_declared(task: str):
    classes = images.TASKS[task].classes
    assert len({*classes}) == len(classes)
    for split, (pixels, labels) in drawn(task).items():
        size = images.capped(task, SIZES)[split]
        assert pixels.shape == (size, images.SIDE, images.SIDE, 3)
        assert pixels.dtype == np.uint8
        assert labels.shape == (size,)
        assert labels.dtype == np.int64
        assert {*labels.tolist()} == {*range(len(classes))}, f"{split}: not every class occurs"
        assert pixels.std(axis=(1, 2, 3)).min() > 1, f"{split}: an image shows nothing"


@pytest.mark.parametrize("task", sorted(images.TASKS.keys() - images.COLLECTIONS.keys()))
def test_drawn_tasks_are_balanced(task: str):
    for _, labels in drawn(task).values():
        counts = np.bincount(labels, minlength=len(images.TASKS[task].classes))
        assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize("task", images.TASKS)
def test_draws_depend_on_the_seed_alone(task: str):
    few = dict.fromkeys(SPLITS, 30)
    one, again, other = (images.draw(task, few, seed) for seed in (0, 0, 1))
    for split in SPLITS:
        assert (one[split][0] == again[split][0]).all()
        assert (one[split][1] == again[split][1]).all()
        assert (one[split][0] != other[split][0]).any()


@pytest.mark.parametrize("task", images.TASKS)
def test_classes_look_different(task: str):
    """The mean image of a class differs from that of the task: labels belong to their images."""
    pixels, labels = drawn(task)["train"]
    pixels = pixels.astype(float)
    means = np.stack([pixels[labels == label].mean(0) for label in range(len(images.TASKS[task].classes))])
    spread = ((means - means.mean(0)) ** 2).mean()
    shuffled = np.random.default_rng(0).permutation(labels)
    chance = np.stack([pixels[shuffled == label].mean(0) for label in range(len(means))])
    assert spread > 1.2 * ((chance - chance.mean(0)) ** 2).mean()


def test_fonts_of_the_splits_are_disjoint_files():
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    contents = {split: {(folder / f"{name}.ttf").read_bytes() for name in images.FONTS[split]} for split in SPLITS}
    assert all(len(contents[split]) == len(images.FONTS[split]) for split in SPLITS)
    assert all(contents[one].isdisjoint(contents[other]) for one, other in PAIRS)


@pytest.mark.parametrize("name", sorted({*images.SCENE_PHOTOGRAPHS, *images.TEXTURE_PHOTOGRAPHS}))
def test_blocks_of_the_splits_do_not_overlap(name: str):
    width, height = images._photograph(name).size
    cover = np.zeros((height, width), dtype=int)
    for split in SPLITS:
        for left, top, right, bottom in images._blocks(name, split):
            assert 0 <= left < right <= width
            assert 0 <= top < bottom <= height
            cover[top:bottom, left:right] += 1
    assert cover.max() == 1
    assert cover.mean() > 0.95


@pytest.mark.parametrize("task", images.COLLECTIONS)
def test_collections_give_no_more_than_they_hold(task: str):
    wanted = dict.fromkeys(SPLITS, 10**6)
    sizes = images.capped(task, wanted)
    assert sum(sizes.values()) <= images.COLLECTIONS[task]
    assert min(sizes.values()) > 0
    found = images.draw(task, wanted, 0)
    assert {split: len(labels) for split, (_, labels) in found.items()} == sizes


@pytest.mark.parametrize("name", ["mini-8", "nano-3"])
def test_sizes_are_known_before_anything_is_made(name: str, at_root: Path):
    family, definition = suites.load(name)
    assert family is mini
    recipe = load([f"recipe.{name}"])[f"recipe.{name}"]
    found = family.sizes(definition, recipe)
    assert [*found] == definition.tasks
    for task, sizes in found.items():
        assert sizes == images.capped(task, recipe.wanted())
        assert {*sizes} == {*SPLITS}


def test_a_broken_definition_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(suites, "FOLDER", tmp_path)
    (tmp_path / "mini.py").touch()
    for text, message in (
        ("family: minni", "expected a mapping with the key family, one of mini"),
        ("- mnist", "expected a mapping"),
        ("family: mini\ntasks: [minst]", "tasks.0 = 'minst'"),
        ("family: [", "not valid YAML"),
    ):
        (tmp_path / "mine.yaml").write_text(text)
        with pytest.raises(BenchmarkError, match=message):
            suites.load("mine")


def test_every_caption_fits():
    for task in images.TASKS:
        tokens = mini._captions(task)
        classes, templates, _ = images.TASKS[task]
        assert tokens.shape == (len(classes), len(templates), mini.CONTEXT)
        assert len({tuple(caption.tolist()) for caption in tokens.flatten(0, 1)}) == len(classes) * len(templates)
        assert (tokens.argmax(-1) == (tokens != 0).sum(-1) - 1).all()  # the end token, the largest, was not cut off


def test_jitter_shifts_by_at_most_one_pixel():
    pixels = torch.randint(256, (64, 28, 28, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    found = mini._jitter(pixels, torch.Generator().manual_seed(1))
    assert found.shape == pixels.shape
    inner = pixels[:, 1:-1, 1:-1]
    shifts = {
        (dy, dx)
        for index in range(64)
        for dy in (-1, 0, 1)
        for dx in (-1, 0, 1)
        if torch.equal(found[index, 1 - dy : 27 - dy, 1 - dx : 27 - dx], inner[index])
    }
    assert len(shifts) == 9
