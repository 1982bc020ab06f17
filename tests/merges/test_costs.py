"""What a merge needs at inference: bytes, encoders and floating-point operations, counted by hand."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear

from pipeline import methods
from pipeline.merges import storage
from pipeline.merges.costs import count_costs, count_flops
from pipeline.merges.serving.masks import pack_mask
from pipeline.merges.solution import Extras, Solution
from pipeline.merges.storage import Merges
from pipeline.models.suite import SuiteFolder
from pipeline.models.weights import Encoder
from pipeline.runtime import store
from pipeline.steps import merge as merge_step
from tests.support import toy, toy_texts

RANK = 3


def expected_flops(images: int = 1) -> int:
    """Count two operations per multiply-add of the toy CLIP: patches, a block with attention, the projection."""
    vision, features = toy.CLIP["vision_cfg"], toy.CLIP["embed_dim"]
    width, patch = vision["width"], vision["patch_size"]
    patches = (vision["image_size"] // patch) ** 2
    tokens = patches + 1
    embed = patches * 3 * patch**2 * width
    projections = 4 * tokens * width**2  # q, k, v and out
    attention = 2 * tokens**2 * width
    hidden = 2 * tokens * width * 4 * width
    block = projections + attention + hidden
    return 2 * images * (embed + vision["layers"] * block + width * features)


def save_artefact(suite: SuiteFolder, folder: Path, extras: Extras | None = None) -> Path:
    """Save a merge of two seeds whose coefficients are all 0.3, with extras, and return its folder."""
    tasks, groups = suite.suite.task_names, suite.suite.groups
    solution = Solution(torch.full((len(tasks), len(groups)), 0.3), extras=extras)
    storage.save(Merges((0, 1), dict.fromkeys(tasks, 4), groups, [solution, solution]), folder)
    return folder


def grey_images(count: int = 1) -> Tensor:
    """Return grey images of the tiny suite's size."""
    return torch.full((count, 14, 14, 3), 128, dtype=torch.uint8)


@pytest.mark.parametrize("count", [1, 3])
def test_operations_of_the_plain_encoder(suite: SuiteFolder, count: int):
    assert count_flops(suite.suite.encoder(), dict(suite.base()), grey_images(count)) == expected_flops(count)


def test_a_text_costs_as_much_as_the_longest(text_suite: Path, tmp_path: Path):
    """Embeddings are looked up, and a causal mask saves no product."""
    suite = SuiteFolder(text_suite)
    model, tokens = suite.suite.model, toy_texts.LENGTH
    width, inner = model["width"], model.get("hidden", 4 * model["width"])
    block = 4 * tokens * width**2 + 2 * tokens**2 * width + 2 * tokens * width * inner
    costs = count_costs(text_suite, save_artefact(suite, tmp_path))
    assert costs["plain_flops"] == 2 * model["layers"] * block
    assert costs["flops"] == dict.fromkeys(suite.suite.task_names, costs["plain_flops"])
    assert costs["encoder_bytes"] == sum(tensor.nbytes for tensor in suite.base().values())


def test_operations_are_the_same_block_by_block(suite: SuiteFolder):
    tower, base = suite.suite.encoder(), dict(suite.base())

    def encode_by_block(weights: Mapping[str, Tensor], images: Tensor) -> Tensor:
        tokens = tower.embed(weights, images)
        for index in range(tower.depth):
            multiply = lambda name, x: linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])  # noqa: E731
            tokens = tower.block_by(weights, index, tokens, multiply)
        return tower.finish(weights, tokens)

    encoder: Encoder = encode_by_block
    assert count_flops(encoder, base, grey_images()) == expected_flops()


@pytest.mark.parametrize(("name", "encoders"), [("zeroshot", 1), ("individual", 3), ("average", 1), ("ties", 1)])
def test_a_merge_without_extras_costs_its_encoders(suite: SuiteFolder, tmp_path: Path, name: str, encoders: int):
    module = methods.load(name)
    merges = merge_step.merge_data_free(module, suite.vectors(), module.Params(), suite.suite.task_names)
    storage.save(merges, tmp_path)
    assert count_costs(suite.folder, tmp_path) == {
        "encoder_bytes": 4 * sum(tensor.numel() for tensor in suite.base().values()),
        "encoders": encoders,
        "extra_bytes": 0,
        "extra_file_bytes": 0,
        "plain_flops": expected_flops(),
        "flops": dict.fromkeys(suite.suite.task_names, expected_flops()),
    }


def test_adapters_cost_two_small_products(suite: SuiteFolder, tmp_path: Path):
    tensors = {f"{task}/down": torch.ones(RANK, 16) for task in suite.suite.task_names}
    tensors |= {f"{task}/up": torch.ones(16, RANK) for task in suite.suite.task_names}
    costs = count_costs(suite.folder, save_artefact(suite, tmp_path, Extras("adapters", tensors)))
    assert costs["encoders"] == 1
    assert costs["extra_bytes"] == 3 * 2 * RANK * 16 * 4
    assert costs["extra_file_bytes"] == (tmp_path / "extras-0.safetensors").stat().st_size > costs["extra_bytes"]
    assert costs["flops"] == dict.fromkeys(suite.suite.task_names, expected_flops() + 2 * 2 * RANK * 16)
    assert costs["plain_flops"] == expected_flops()


def test_masks_cost_a_bit_per_weight_and_task_and_a_model_per_task(suite: SuiteFolder, tmp_path: Path):
    base, tasks, groups = suite.base(), suite.suite.task_names, suite.suite.groups
    bits = {
        f"{task}/{name}": pack_mask(torch.ones(base[name].shape, dtype=torch.bool)) for task in tasks for name in groups
    }
    scales = {f"{task}/scale": torch.tensor(1.0) for task in tasks}
    costs = count_costs(suite.folder, save_artefact(suite, tmp_path, Extras("masks", bits | scales)))
    assert costs["encoders"] == 3
    assert costs["extra_bytes"] == 3 * (4 + sum((base[name].numel() + 7) // 8 for name in groups))
    assert costs["flops"] == dict.fromkeys(tasks, expected_flops())


def test_heads_cost_their_bytes(suite: SuiteFolder, tmp_path: Path):
    costs = count_costs(suite.folder, save_artefact(suite, tmp_path, Extras("heads", dict(suite.heads()))))
    assert costs["encoders"] == 1
    assert costs["extra_bytes"] == 4 * 16 * sum(len(classes) for classes in toy.TASKS.values())
    assert costs["flops"] == dict.fromkeys(suite.suite.task_names, expected_flops())


def test_the_same_artefact_gives_the_same_bytes(suite: SuiteFolder, tmp_path: Path):
    artefact = save_artefact(suite, tmp_path / "merge")
    for name in ("one", "two"):
        store.write_json(tmp_path / f"{name}.json", count_costs(suite.folder, artefact))
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()
