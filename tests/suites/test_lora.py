"""Suites of low-rank experts: the base of another embedded suite, and factors that are the experts."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline import suites
from pipeline.embedded import images, training
from pipeline.embedded import lora as low_rank
from pipeline.models.suite import SPLITS, SuiteFolder
from pipeline.models.vit import VisionTransformer
from pipeline.models.weights import Weights, fuse_qkv, split_qkv
from pipeline.params import load
from pipeline.runtime import store
from pipeline.runtime.errors import BenchmarkError
from pipeline.suites import lora, mini
from pipeline.toolbox.spectra import is_matrix
from tests.support import toy

pytestmark = pytest.mark.long

RANK = 3
BASE = toy.ROOT / "data/checkpoints/nano-3"
RECIPE = low_rank.Recipe(
    seed=0, train_images=48, validation_images=24, test_images=32, width=32, layers=2, rank=RANK,
    expert_steps=3, expert_batch=16, expert_lr=0.01,
)  # fmt: skip


def definition(**changes: object) -> lora.Definition:
    """Return the definition of two low-rank experts on the base of nano-3."""
    sha256 = hashlib.sha256((BASE / "base.safetensors").read_bytes()).hexdigest()
    return lora.Definition(**{"base": "nano-3", "base_sha256": sha256, "tasks": ["optdigits", "signs"], **changes})


def read(folder: Path, file: str) -> Weights:
    """Read a file of tensors."""
    return dict(store.TensorFile(folder / f"{file}.safetensors"))


@pytest.fixture(autouse=True)
def alone(at_root: Path, monkeypatch: pytest.MonkeyPatch):
    """Run in the root, in one process."""
    monkeypatch.setenv("SAMERGING_WORKERS", "1")


@pytest.fixture
def checkpoints(tmp_path: Path) -> Path:
    """The output of stage train."""
    lora.train(definition(), RECIPE, tmp_path / "checkpoints")
    return tmp_path / "checkpoints"


def test_a_suite_is_its_base_moved_in_matrices_by_products_of_its_factors(checkpoints: Path, tmp_path: Path):
    lora.prepare("tiny", definition(), RECIPE, checkpoints, tmp_path / "suite")
    suite, original = SuiteFolder(tmp_path / "suite"), read(BASE, "base")
    base = fuse_qkv(dict(suite.base()))
    assert all(torch.equal(base[name], tensor.float()) for name, tensor in original.items())
    for task in definition().tasks:
        factors, expert = read(checkpoints, f"experts/{task}"), fuse_qkv(dict(suite.expert(task)))
        assert {tensor.dtype for tensor in factors.values()} == {torch.float16}
        for name, tensor in expert.items():
            change = np.zeros(tensor.shape)
            if f"{name}/A" in factors:
                products = zip(factors.pop(f"{name}/B").numpy(), factors.pop(f"{name}/A").numpy(), strict=True)
                change = np.vstack([np.float64(b) @ np.float64(a) for b, a in products])
                assert change.any()
            assert np.array_equal(tensor.numpy(), np.float32(original[name].numpy() + change))
        assert not factors
        for name, stacked in suite.vectors().items():
            moved = stacked[definition().tasks.index(task)]
            assert int(torch.linalg.matrix_rank(moved, rtol=1e-4)) == RANK if is_matrix(name) else not moved.any()
        assert torch.equal(suite.heads()[task], read(BASE, "heads")[task])
        for split in SPLITS:
            pixels, labels, _ = images.draw(task, RECIPE.sizes(), RECIPE.seed)[split]
            assert np.array_equal(suite.examples(split, task), pixels)
            assert np.array_equal(suite.labels(split, task), labels)


def fine_tuned(recipe: low_rank.Recipe) -> Weights:
    """Fine-tune an expert."""
    drawn = images.draw("signs", recipe.sizes(), 0)["train"][:2]
    return low_rank.fine_tune(read(BASE, "base"), read(BASE, "heads")["signs"], "signs", drawn, recipe)


def test_fine_tuning_depends_on_its_seed_and_not_on_threads_or_the_global_generator():
    threads, before = torch.get_num_threads(), torch.get_rng_state()
    first = fine_tuned(RECIPE)
    assert torch.equal(torch.get_rng_state(), before)
    torch.set_num_threads(threads + 1)
    torch.manual_seed(5)
    again = fine_tuned(RECIPE)
    torch.set_num_threads(threads)
    assert toy.same(first, again)
    assert not toy.same(first, fine_tuned(RECIPE.model_copy(update={"seed": 1})))


def test_an_expert_learns_its_task():
    def loss(factors: Mapping[str, torch.Tensor]) -> float:
        pixels, labels = (torch.from_numpy(part) for part in images.draw("signs", RECIPE.sizes(), 0)["train"][:2])
        base = read(BASE, "base")
        weights = split_qkv({"proj": base["proj"].float(), **low_rank.expand(base, dict(factors))})
        features = VisionTransformer(training.config(RECIPE), training.MEAN, training.STD)(weights, pixels)
        return float(torch.nn.functional.cross_entropy(features @ read(BASE, "heads")["signs"].T, labels))

    assert loss(fine_tuned(RECIPE.model_copy(update={"expert_steps": 40}))) < 0.8 * loss({})


@pytest.mark.parametrize(
    ("changes", "recipe", "message"),
    [
        ({"base_sha256": "0" * 64}, {}, r"nano-3/base\.safetensors has the SHA-256 .*; write the new one into"),
        (
            {},
            {"width": 64},
            r"width 32 and 2 layers, the recipe has width 64 and 2 layers; copy those of recipe\.nano-3",
        ),
        ({}, {"layers": 3}, r"width 32 and 2 layers, the recipe has width 32 and 3 layers"),
        ({"tasks": ["signs", "greek", "mnist"]}, {}, r"no head of greek, mnist; expected tasks of nano-3"),
        ({"base": "nano-4"}, {}, r"nano-4/base\.safetensors: cannot be read"),
        ({}, {"seed": 1}, r"optdigits: its train images are not those that .*nano-3 was trained for"),
    ],
)
def test_a_base_that_does_not_fit_is_the_users_error(changes: dict, recipe: dict, message: str, tmp_path: Path):
    with pytest.raises(BenchmarkError, match=message):
        lora.train(definition(**changes), RECIPE.model_copy(update=recipe), tmp_path)
    assert not [*tmp_path.iterdir()]


def test_the_committed_experts_are_small_and_belong_to_the_base_of_mini_8():
    folder, source = Path("data/checkpoints/mini-8-lora"), Path("data/checkpoints/mini-8")
    family, named = suites.load("mini-8-lora")
    values = load(["recipe.mini-8-lora", "recipe.mini-8"])
    recipe, theirs = values["recipe.mini-8-lora"], values["recipe.mini-8"]
    assert family is lora
    for name in lora.COPIED:
        assert (folder / name).read_bytes() == (source / name).read_bytes()
    assert hashlib.sha256((folder / "base.safetensors").read_bytes()).hexdigest() == named.base_sha256
    assert (recipe.seed, recipe.sizes(), recipe.width, recipe.layers) == (
        theirs.seed, theirs.sizes(), theirs.width, theirs.layers,
    )  # fmt: skip
    assert named.tasks == suites.load("mini-8")[1].tasks
    assert family.sizes(named, recipe) == mini.sizes(mini.Definition(tasks=named.tasks), theirs)
    files = [folder / f"experts/{task}.safetensors" for task in named.tasks]
    assert sum(path.stat().st_size for path in files) < 2**20
    for path in files:
        for name, shape in store.TensorFile(path).shapes().items():
            assert shape[-1 if name.endswith("/B") else -2] == recipe.rank
