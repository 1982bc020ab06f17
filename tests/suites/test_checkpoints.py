"""Checkpoint files are read whatever wrapped them, and refused where they hold no weights."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipeline.runtime.errors import BenchmarkError
from pipeline.suites._checkpoints import Checkpoint

RNG = torch.Generator().manual_seed(0)
WEIGHTS = {"conv.weight": torch.randn(2, 3, generator=RNG), "norm.bias": torch.randn(2, generator=RNG)}
FORMATS = ("model.safetensors", "pytorch_model.bin", "expert.pt")


def write(path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    """Write a checkpoint in the format of its suffix."""
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path)
    return path


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("prefix", ["", "_orig_mod.", "module.", "model.", "module._orig_mod.model."])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_tensors_are_read_without_prefixes_in_float32(tmp_path: Path, name: str, prefix: str, dtype: torch.dtype):
    path = write(tmp_path / name, {f"{prefix}{key}": tensor.to(dtype) for key, tensor in WEIGHTS.items()})
    checkpoint, skeleton = Checkpoint(path, "task pets"), Checkpoint(path, "task pets", "meta")
    assert sorted(checkpoint) == sorted(skeleton) == sorted(WEIGHTS)
    for key, tensor in WEIGHTS.items():
        assert checkpoint[key].dtype == torch.float32
        assert checkpoint[key].equal(tensor.to(dtype).float())
        assert skeleton[key].is_meta
        assert skeleton[key].shape == tensor.shape


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    ("tensor", "kind"),
    [
        (torch.ones(2, dtype=torch.int8), "int8|I8"),
        (torch.ones(2, dtype=torch.uint8), "uint8|U8"),
        (torch.ones(2).to(torch.float8_e4m3fn), "float8_e4m3fn|F8_E4M3"),
        (torch.ones(2, dtype=torch.complex64), "complex64|C64"),
    ],
)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_tensors_of_other_types_are_no_weights(tmp_path: Path, name: str, tensor: torch.Tensor, kind: str, device: str):
    checkpoint = Checkpoint(write(tmp_path / name, {"conv.weight": tensor}), "task pets", device)
    with pytest.raises(
        BenchmarkError, match=rf"task pets: .*{name}: conv.weight is ({kind}), expected float32, .*quant"
    ):
        checkpoint["conv.weight"]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_refused(tmp_path: Path, name: str, value: float):
    checkpoint = Checkpoint(write(tmp_path / name, {"conv.weight": torch.tensor([1.0, value])}), "task pets")
    with pytest.raises(BenchmarkError, match=rf"task pets: .*{name}: conv.weight holds values that are not finite"):
        checkpoint["conv.weight"]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_damaged_file_is_named_with_the_cure(tmp_path: Path, name: str, device: str):
    path = write(tmp_path / name, {"conv.weight": torch.zeros(2000)})
    path.write_bytes(path.read_bytes()[:1000])
    for _ in range(2):
        with pytest.raises(BenchmarkError, match=rf"task pets: .*{name}: cannot be read .*export or fetch it again"):
            Checkpoint(path, "task pets", device)
        path.unlink(missing_ok=True)


def test_two_copies_of_a_tensor_are_refused(tmp_path: Path):
    tensors = {"module.conv.weight": torch.zeros(1), "conv.weight": torch.ones(1)}
    with pytest.raises(BenchmarkError, match="holds tensors twice"):
        Checkpoint(write(tmp_path / "expert.pt", tensors), "task pets")
