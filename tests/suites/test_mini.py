"""The embedded suites have disjoint splits, sizes known in advance, and reproducible images and training."""

from collections.abc import Callable
from functools import cache
from itertools import combinations
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch

from pipeline import suites
from pipeline.embedded import images, training
from pipeline.models.suite import SPLITS, SuiteFolder
from pipeline.models.weights import fuse_qkv
from pipeline.params import load
from pipeline.runtime import store
from pipeline.runtime.errors import BenchmarkError
from pipeline.suites import mini

pytestmark = pytest.mark.long

SIZES = {"train": 300, "validation": 100, "test": 150}
PAIRS = [*combinations(SPLITS, 2)]


@cache
def draw_splits(task: str, seed: int = 0) -> dict[str, images.Drawn]:
    """Draw the splits of a task."""
    return images.draw(task, SIZES, seed)


@pytest.mark.parametrize("task", images.TASKS)
def test_splits_share_no_image(task: str):
    contents = {split: {image.tobytes() for image in pixels} for split, (pixels, *_) in draw_splits(task).items()}
    assert {*contents} == {*SPLITS}
    for first, second in PAIRS:
        assert contents[first].isdisjoint(contents[second]), f"{first} and {second} share an image"


@pytest.mark.parametrize("task", images.TASKS)
def test_images_and_labels_are_as_declared(task: str):
    classes = images.TASKS[task].classes
    assert len({*classes}) == len(classes)
    for split, (pixels, labels, _) in draw_splits(task).items():
        size = images.capped(task, SIZES)[split]
        assert pixels.shape == (size, images.SIDE, images.SIDE, 3)
        assert pixels.dtype == np.uint8
        assert labels.shape == (size,)
        assert labels.dtype == np.int64
        assert {*labels.tolist()} == {*range(len(classes))}, f"{split}: not every class occurs"
        assert pixels.std(axis=(1, 2, 3)).min() > 1, f"{split}: an image shows nothing"


@pytest.mark.parametrize("task", sorted(images.TASKS.keys() - images.COLLECTIONS.keys()))
def test_drawn_tasks_are_balanced(task: str):
    for _, labels, _ in draw_splits(task).values():
        counts = np.bincount(labels, minlength=len(images.TASKS[task].classes))
        assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize("task", images.TASKS)
def test_draws_depend_on_the_seed_alone(task: str):
    few = dict.fromkeys(SPLITS, 30)
    first, again, other = (images.draw(task, few, seed) for seed in (0, 0, 1))
    for split in SPLITS:
        assert (first[split][0] == again[split][0]).all()
        assert (first[split][1] == again[split][1]).all()
        assert (first[split][0] != other[split][0]).any()


@pytest.mark.parametrize("task", images.TASKS)
def test_classes_look_different(task: str):
    """The mean image of a class differs from that of the task: labels belong to their images."""
    pixels, labels, _ = draw_splits(task)["train"]
    pixels = pixels.astype(float)
    means = np.stack([pixels[labels == label].mean(0) for label in range(len(images.TASKS[task].classes))])
    spread = ((means - means.mean(0)) ** 2).mean()
    shuffled = np.random.default_rng(0).permutation(labels)
    chance = np.stack([pixels[shuffled == label].mean(0) for label in range(len(means))])
    assert spread > 1.2 * ((chance - chance.mean(0)) ** 2).mean()


@pytest.mark.parametrize(
    ("task", "numbers"),
    [("letters", [1, 7]), ("greek", [1, 7]), ("street", [1, 7, 72]), ("textures", [3, 18]), ("scenes", [12, 72])],
)
def test_clusters_are_fonts_and_blocks(task: str, numbers: list[int]):
    """A split has the fonts or blocks that belong to it, and photographs as strata where they are the classes."""
    clusters = images.draw(task, {"test": 1200}, 0)["test"].clusters
    assert [len(np.unique(column)) for column in clusters.T] == numbers


@pytest.mark.parametrize(("task", "alone"), [("letters", [1, 1]), ("street", [1, 1, 12]), ("textures", [3, 3])])
def test_images_of_one_font_and_one_block_are_one_cluster(task: str, alone: list[int], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(images, "_blocks", lambda *_: ((0, 0, 60, 60),))
    monkeypatch.setattr(images, "FONTS", {"test": images.FONTS["test"][:1]})
    clusters = images.draw(task, {"test": 200}, 0)["test"].clusters
    assert [len(np.unique(column)) for column in clusters.T] == alone


@pytest.mark.parametrize("task", ["textures", "scenes"])
def test_a_block_belongs_to_one_photograph_and_that_to_one_class(task: str):
    _, labels, clusters = draw_splits(task)["test"]
    for column in clusters.T:
        assert all(len(np.unique(labels[column == number])) == 1 for number in np.unique(column))


@pytest.mark.parametrize("task", images.COLLECTIONS)
def test_images_of_a_collection_are_independent(task: str):
    for _, labels, clusters in draw_splits(task).values():
        assert [len(np.unique(column)) for column in clusters.T] == [1, len(labels)]


def test_fonts_of_the_splits_are_disjoint_files():
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    contents = {split: {(folder / f"{name}.ttf").read_bytes() for name in images.FONTS[split]} for split in SPLITS}
    assert all(len(contents[split]) == len(images.FONTS[split]) for split in SPLITS)
    assert all(contents[first].isdisjoint(contents[second]) for first, second in PAIRS)


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
    requested = dict.fromkeys(SPLITS, 10**6)
    sizes = images.capped(task, requested)
    assert sum(sizes.values()) <= images.COLLECTIONS[task]
    assert min(sizes.values()) > 0
    splits = images.draw(task, requested, 0)
    assert {split: len(labels) for split, (_, labels, _) in splits.items()} == sizes


@pytest.mark.parametrize("name", ["mini-8", "nano-3"])
def test_sizes_are_known_before_anything_is_drawn(name: str, at_root: Path):
    family, definition = suites.load(name)
    assert family is mini
    recipe = load([f"recipe.{name}"])[f"recipe.{name}"]
    task_sizes = family.sizes(definition, recipe)
    assert [*task_sizes] == definition.tasks
    for task, sizes in task_sizes.items():
        assert sizes == images.capped(task, recipe.sizes())
        assert {*sizes} == {*SPLITS}


def test_a_broken_definition_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(suites, "FOLDER", tmp_path)
    (tmp_path / "mini.py").touch()
    for text, message in (
        ("family: minni", "expected a mapping with the key family, one of mini"),
        ("- mnist", "expected a mapping"),
        ("family: mini\ntasks: [minst]", "tasks: 0 = 'minst': .*did you mean 'mnist'"),
        ("family: [", "not valid YAML"),
    ):
        (tmp_path / "mine.yaml").write_text(text)
        with pytest.raises(BenchmarkError, match=message):
            suites.load("mine")


def test_every_caption_fits():
    for task in images.TASKS:
        tokens = training.captions(task)
        classes, templates, *_ = images.TASKS[task]
        assert tokens.shape == (len(classes), len(templates), training.CONTEXT)
        assert len({tuple(caption.tolist()) for caption in tokens.flatten(0, 1)}) == len(classes) * len(templates)
        assert (tokens.argmax(-1) == (tokens != 0).sum(-1) - 1).all()  # the end token, the largest, was not cut off


def test_jitter_shifts_by_at_most_one_pixel():
    pixels = torch.randint(256, (64, 28, 28, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    jittered = training.jitter(pixels, torch.Generator().manual_seed(1))
    assert jittered.shape == pixels.shape
    inner = pixels[:, 1:-1, 1:-1]
    shifts = {
        (dy, dx)
        for index in range(64)
        for dy in (-1, 0, 1)
        for dx in (-1, 0, 1)
        if torch.equal(jittered[index, 1 - dy : 27 - dy, 1 - dx : 27 - dx], inner[index])
    }
    assert len(shifts) == 9


RECIPE = training.Recipe(
    seed=0, train_images=24, validation_images=16, test_images=16, width=32, layers=1, caption_noise=0.5,
    pretrain_steps=3, pretrain_batch=8, pretrain_lr=0.002, expert_steps=2, expert_batch=8, expert_lr=0.001,
)  # fmt: skip
DEFINITION = mini.Definition(tasks=["optdigits", "signs"])


def train_tiny(seed: int = 0, recipe: training.Recipe = RECIPE) -> dict[str, training.Weights]:
    """Train the weights of a tiny suite."""
    train_splits = {task: images.draw(task, recipe.sizes(), recipe.seed)["train"][:2] for task in DEFINITION.tasks}
    return training.train(DEFINITION.tasks, train_splits, recipe, seed)


def have_equal_weights(weights: dict[str, training.Weights], others: dict[str, training.Weights]) -> bool:
    """Whether all tensors have the same values."""
    return all(
        torch.equal(tensor, others[file][name]) for file, tensors in weights.items() for name, tensor in tensors.items()
    )


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of stage train for the tiny suite."""
    folder = tmp_path_factory.mktemp("checkpoints")
    mini.train(DEFINITION, RECIPE, folder)
    return folder


def test_training_depends_on_its_seed_and_not_on_the_threads():
    threads = torch.get_num_threads()
    first = train_tiny()
    torch.set_num_threads(threads + 1)
    again = train_tiny()
    torch.set_num_threads(threads)
    assert first.keys() == {"base", "heads", "experts/optdigits", "experts/signs"}
    assert have_equal_weights(first, again)
    assert not have_equal_weights(first, train_tiny(seed=1))


def test_training_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    train_tiny()
    assert torch.equal(torch.get_rng_state(), before)


def test_an_expert_is_the_base_moved_everywhere_but_in_the_projection():
    weights = train_tiny()
    for task in DEFINITION.tasks:
        expert = weights[f"experts/{task}"]
        assert weights["base"].keys() - expert.keys() == {"proj"}
        still = [name for name, tensor in expert.items() if torch.equal(tensor, weights["base"][name])]
        assert not still
        assert {tensor.dtype for tensor in expert.values()} == {torch.float16}


def test_the_rows_of_a_head_have_equal_length():
    for head in train_tiny()["heads"].values():
        lengths = head.norm(dim=1)
        assert torch.allclose(lengths, lengths[0], rtol=1e-5)


def test_a_diverging_recipe_is_the_users_error(tmp_path: Path):
    recipe = RECIPE.model_copy(update={"pretrain_lr": 1e30})
    with pytest.raises(BenchmarkError, match=r"pre-training diverged at step \d; lower pretrain_lr"):
        mini.train(DEFINITION, recipe, tmp_path)


def test_the_suite_has_the_rounded_weights_of_its_checkpoints(checkpoints: Path, tmp_path: Path):
    mini.prepare("tiny", DEFINITION, RECIPE, checkpoints, tmp_path)
    suite, weights = SuiteFolder(tmp_path), train_tiny()
    base = fuse_qkv(dict(suite.base()))
    assert all(torch.equal(base[name], tensor.float()) for name, tensor in weights["base"].items())
    for task in DEFINITION.tasks:
        expert = fuse_qkv(dict(suite.expert(task)))
        assert expert.keys() == weights[f"experts/{task}"].keys()
        assert all(torch.equal(expert[name], tensor.float()) for name, tensor in weights[f"experts/{task}"].items())
        assert torch.equal(suite.heads()[task], weights["heads"][task])


def draw_with(change: Callable[[np.ndarray, np.ndarray], object]) -> Callable[..., dict[str, images.Drawn]]:
    """Return `images.draw` with a change to the test images and labels of signs."""

    def draw(task: str, sizes: dict[str, int], seed: int) -> dict[str, images.Drawn]:
        splits = {split: images.Drawn(*map(np.copy, drawn)) for split, drawn in ORIGINAL(task, sizes, seed).items()}
        if task == "signs":
            change(*splits["test"][:2])
        return splits

    return draw


ORIGINAL = images.draw


def grey(pixels: np.ndarray, _: np.ndarray) -> None:
    pixels.fill(7)


def of_one_class(_: np.ndarray, labels: np.ndarray) -> None:
    labels.fill(0)


def change_one_pixel(pixels: np.ndarray, _: np.ndarray) -> None:
    pixels[3, 0, 0] = np.where(pixels[3, 0, 0] < 255, pixels[3, 0, 0] + 1, 254)


def test_images_that_differ_by_rounding_are_counted(
    checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.setenv("SAMERGING_WORKERS", "1")
    monkeypatch.setattr(images, "draw", draw_with(change_one_pixel))
    mini.prepare("tiny", DEFINITION, RECIPE, checkpoints, tmp_path)
    warnings = [line for line in capsys.readouterr().out.splitlines() if "warning" in line]
    assert len(warnings) == 1
    assert "signs: its test images" in warnings[0]
    assert "1 of 16 differ, by no more than rounding" in warnings[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (grey, r"signs: its test images .* pillow .*: 16 of 16 differ, by up to \d+"),
        (of_one_class, r"signs: its test images .* pillow [\d.]+ \(there [\d.]+\).*make env"),
    ],
)
def test_other_images_are_refused(
    change: Callable, message: str, checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SAMERGING_WORKERS", "1")
    monkeypatch.setattr(images, "draw", draw_with(change))
    with pytest.raises(BenchmarkError, match=message):
        mini.prepare("tiny", DEFINITION, RECIPE, checkpoints, tmp_path)


def test_a_sketch_sums_cells():
    pixels = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 3), np.uint8)
    sketched = images.sketch(pixels)
    assert sketched[1, 2, 3] == int(pixels[1, 14:21, 21:28].astype(int).sum())
    assert images.sketch(np.full((1, 28, 28, 3), 255, np.uint8)).max() == 49 * 3 * 255  # fits into 16 bits
    changed = pixels.copy()
    changed[2, :7, :7] //= 2
    differing, change = images.shift(images.sketch(changed), sketched)
    assert differing == 1
    assert change == pytest.approx((pixels[2, :7, :7].astype(float) - changed[2, :7, :7]).mean(), abs=1e-12)


@pytest.mark.parametrize("name", ["mini-8", "nano-3"])
def test_committed_checkpoints_follow_the_recipe_and_are_small(name: str, at_root: Path):
    folder = Path("data/checkpoints") / name
    family, definition = suites.load(name)
    recipe = load([f"recipe.{name}"])[f"recipe.{name}"]
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) <= 10 * 2**20
    shapes = store.TensorFile(folder / "base.safetensors").shapes()
    assert shapes["positional_embedding"] == (17, recipe.width)
    assert store.read_json(folder / "images.json")["arrays"].keys() == {*definition.tasks}
    arrays = store.read_arrays(folder / "sketches.npz")
    sizes = family.sizes(definition, recipe)
    assert {key: len(sketched) for key, sketched in arrays.items()} == {
        f"{task}/{split}": sizes[task][split] for task in definition.tasks for split in SPLITS
    }
