"""What a calibration is said to take, against what torch keeps, and the refusal of what does not fit."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch

from pipeline import memory
from pipeline.model import FROZEN, build_clip, split_qkv
from pipeline.suite import Suite, SuiteFolder, Task
from pipeline.suites.mini import MEAN, STD
from tests import toy

CPU = torch.device("cpu")


def suite(width: int, layers: int, patch: int, size: int) -> Suite:
    """A suite of one task on a tower of these dimensions."""
    vision = {"layers": layers, "width": width, "head_width": 32, "patch_size": patch, "image_size": size}
    model = {**toy.CLIP, "vision_cfg": vision}
    return Suite(name="one", tasks=(Task(name="a", classes=("b",)),), model=model, mean=MEAN, std=STD, groups=())


def kept(found: Suite, count: int) -> int:
    """Bytes that autograd keeps of `count` images until the backward pass, the weights apart."""
    clip = build_clip(found.model)
    weights = split_qkv({name: value.detach() for name, value in clip.visual.named_parameters()})
    leaves = {name: tensor.requires_grad_(name not in FROZEN) for name, tensor in weights.items()}
    size = found.model["vision_cfg"]["image_size"]
    seen: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        features = found.encoder()(leaves, torch.zeros(count, size, size, 3, dtype=torch.uint8))
    assert features.requires_grad
    return sum(seen.values())


@pytest.mark.parametrize("shape", [(64, 2, 7, 28), (96, 4, 7, 28), (128, 3, 8, 64)])
def test_activations_are_estimated_within_15_percent(shape: tuple[int, int, int, int]):
    found = suite(*shape)
    measured = (kept(found, 12) - kept(found, 4)) / 8
    assert 0.85 * measured <= memory.activations(found) <= 1.15 * measured


def test_a_pass_holds_at_least_one_image_and_no_more_than_fit():
    small, large = suite(96, 4, 7, 28), suite(4096, 100, 4, 224)
    for found in (small, large):
        count = memory.images_per_pass(found, CPU)
        assert count >= 1
        assert count == 1 or count * memory.activations(found) <= memory.ACTIVATIONS["cpu"]
    assert memory.images_per_pass(large, CPU) == 1
    assert memory.images_per_pass(small, torch.device("cuda")) > memory.images_per_pass(small, CPU)


def with_free(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=free))


def test_need_is_the_sum_of_its_parts(pristine_suite: Path):
    folder = SuiteFolder(pristine_suite)
    model = 4 * sum(folder.base()[name].numel() for name in folder.suite.groups)
    images = 3 * 5 * 14 * 14 * 3
    through = memory.images_per_pass(folder.suite, CPU) * memory.activations(folder.suite)
    expected = (3 + memory.COPIES) * model + through + images + memory.RUNTIME
    assert memory.calibration(folder, "train", 5, CPU) == expected
    whole = sum(int(np.prod(folder.images("train", task).shape)) for task in folder.suite.task_names)
    assert memory.calibration(folder, "train", 10**6, CPU) == expected - images + whole


def test_what_does_not_fit_is_refused_with_what_to_do(pristine_suite: Path, monkeypatch: pytest.MonkeyPatch):
    folder = SuiteFolder(pristine_suite)
    need = memory.calibration(folder, "train", 5, CPU)
    with_free(monkeypatch, need)
    assert memory.calibration(folder, "train", 5, CPU) == need
    with_free(monkeypatch, need - 1)
    with pytest.raises(
        memory.NoRoom, match=r"calibrating tiny takes about .* GiB .* on cpu .*samples_per_task"
    ) as error:
        memory.calibration(folder, "train", 5, CPU)
    assert "3 task vectors" in str(error.value)
