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
from tests.support import toy

RANK = 3


def by_hand(images: int = 1) -> int:
    """Two operations per multiply-add of the toy CLIP: patches, a block with attention over all tokens, projection."""
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


def artefact(suite: SuiteFolder, folder: Path, extras: Extras | None = None) -> Path:
    """The artefact of a merge of two seeds whose coefficients are all 0.3, with extras."""
    tasks, groups = suite.suite.task_names, suite.suite.groups
    solution = Solution(torch.full((len(tasks), len(groups)), 0.3), extras=extras)
    storage.save(Merges((0, 1), dict.fromkeys(tasks, 4), groups, [solution, solution]), folder)
    return folder


def image(count: int = 1) -> Tensor:
    """Grey images of the tiny suite's size."""
    return torch.full((count, 14, 14, 3), 128, dtype=torch.uint8)


@pytest.mark.parametrize("count", [1, 3])
def test_operations_of_the_plain_encoder(suite: SuiteFolder, count: int):
    assert count_flops(suite.suite.encoder(), dict(suite.base()), image(count)) == by_hand(count)


def test_operations_block_by_block_are_those_of_the_whole(suite: SuiteFolder):
    tower, base = suite.suite.encoder(), dict(suite.base())

    def opened(weights: Mapping[str, Tensor], images: Tensor) -> Tensor:
        tokens = tower.embed(weights, images)
        for index in range(tower.depth):
            multiply = lambda name, x: linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])  # noqa: E731
            tokens = tower.block_by(weights, index, tokens, multiply)
        return tower.finish(weights, tokens)

    encoder: Encoder = opened
    assert count_flops(encoder, base, image()) == by_hand()


@pytest.mark.parametrize(("name", "encoders"), [("zeroshot", 1), ("individual", 3), ("average", 1), ("ties", 1)])
def test_a_merge_without_extras_costs_its_encoders(suite: SuiteFolder, tmp_path: Path, name: str, encoders: int):
    module = methods.load(name)
    found = merge_step.merge_data_free(module, suite.vectors(), module.Params(), suite.suite.task_names)
    storage.save(found, tmp_path)
    assert count_costs(suite.folder, tmp_path) == {
        "encoder_bytes": 4 * sum(tensor.numel() for tensor in suite.base().values()),
        "encoders": encoders,
        "extra_bytes": 0,
        "extra_file_bytes": 0,
        "plain_flops": by_hand(),
        "flops": dict.fromkeys(suite.suite.task_names, by_hand()),
    }


def test_adapters_cost_two_small_products(suite: SuiteFolder, tmp_path: Path):
    tensors = {f"{task}/down": torch.ones(RANK, 16) for task in suite.suite.task_names}
    tensors |= {f"{task}/up": torch.ones(16, RANK) for task in suite.suite.task_names}
    found = count_costs(suite.folder, artefact(suite, tmp_path, Extras("adapters", tensors)))
    assert found["encoders"] == 1
    assert found["extra_bytes"] == 3 * 2 * RANK * 16 * 4
    assert found["extra_file_bytes"] == (tmp_path / "extras-0.safetensors").stat().st_size > found["extra_bytes"]
    assert found["flops"] == dict.fromkeys(suite.suite.task_names, by_hand() + 2 * 2 * RANK * 16)
    assert found["plain_flops"] == by_hand()


def test_masks_cost_a_bit_per_weight_and_task_and_a_model_per_task(suite: SuiteFolder, tmp_path: Path):
    base, tasks, groups = suite.base(), suite.suite.task_names, suite.suite.groups
    bits = {
        f"{task}/{name}": pack_mask(torch.ones(base[name].shape, dtype=torch.bool)) for task in tasks for name in groups
    }
    scales = {f"{task}/scale": torch.tensor(1.0) for task in tasks}
    found = count_costs(suite.folder, artefact(suite, tmp_path, Extras("masks", bits | scales)))
    assert found["encoders"] == 3
    assert found["extra_bytes"] == 3 * (4 + sum((base[name].numel() + 7) // 8 for name in groups))
    assert found["flops"] == dict.fromkeys(tasks, by_hand())


def test_heads_cost_their_bytes(suite: SuiteFolder, tmp_path: Path):
    found = count_costs(suite.folder, artefact(suite, tmp_path, Extras("heads", dict(suite.heads()))))
    assert found["encoders"] == 1
    assert found["extra_bytes"] == 4 * 16 * sum(len(classes) for classes in toy.TASKS.values())
    assert found["flops"] == dict.fromkeys(suite.suite.task_names, by_hand())


def test_the_same_artefact_gives_the_same_bytes(suite: SuiteFolder, tmp_path: Path):
    made = artefact(suite, tmp_path / "merge")
    for name in ("one", "two"):
        store.write_json(tmp_path / f"{name}.json", count_costs(suite.folder, made))
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()
