"""Checkpoint files: tensors by name, from safetensors or a pickled state dict.

Prefixes that torch.compile and wrappers put before every name (`_orig_mod.`, `module.`, `model.`) are dropped.
"""

import pickle
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pipeline.runtime.errors import BenchmarkError

WRAPPED = re.compile(r"^(?:(?:_orig_mod|module|model)\.)+")
TYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}
"""Types of weights that are supported, as safetensors and as torch call them."""
PICKLES = (".bin", ".pt", ".pth")


class Checkpoint(Mapping[str, Tensor]):
    """The tensors of a checkpoint file by name, without the prefixes of wrappers, in float32.

    On the device "meta", tensors have shapes and no values, and of safetensors only the header is read. Elsewhere the
    file is mapped into memory only while a tensor is read.
    """

    def __init__(self, path: Path, owner: str, device: Literal["cpu", "meta"] = "cpu") -> None:
        """Open `path`; `owner` names the file in messages, such as "task dtd".

        Raises BenchmarkError for a file that is missing, damaged or of another format.
        """
        self.title = f"{owner}: {path}"
        self._path, self._device = path, device
        self._pickled = read_pickle(path, self.title, device) if path.suffix in PICKLES else None
        self._header = self._read_header()
        self._stored = {WRAPPED.sub("", name): name for name in self._header}
        if len(self._stored) != len(self._header):
            raise BenchmarkError(f"{self.title}: holds tensors twice; save the state dict of one module")

    def __getitem__(self, name: str) -> Tensor:
        """Return a tensor; BenchmarkError if it is no weight: of an unsupported type, or not finite."""
        stored = self._stored[name]
        kind, shape = self._header[stored]
        if kind not in TYPES.values():
            raise BenchmarkError(
                f"{self.title}: {stored} is {kind}, expected {', '.join(TYPES.values())}; save the weights before they "
                "are quantised"
            )
        if self._device == "meta":
            return torch.empty(shape, device="meta")
        tensor = self._read(stored) if self._pickled is None else self._pickled[stored].detach()
        if not bool(torch.isfinite(tensor).all()):
            raise BenchmarkError(f"{self.title}: {stored} holds values that are not finite; export it again")
        return tensor.float()

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)

    def _read_header(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        if self._pickled is not None:
            return {
                name: (str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))
                for name, tensor in self._pickled.items()
            }
        with self._open() as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            return {
                name: (TYPES.get(part.get_dtype(), part.get_dtype()), tuple(part.get_shape()))
                for name, part in slices.items()
            }

    def _read(self, name: str) -> Tensor:
        with self._open() as file:
            return file.get_tensor(name).clone()

    def _open(self) -> safe_open:
        try:
            return safe_open(self._path, "pt")
        except (OSError, SafetensorError) as error:
            raise BenchmarkError(
                f"{self.title}: cannot be read as safetensors ({error}); export or fetch it again"
            ) from error


def read_pickle(path: Path, title: str, device: str = "cpu") -> dict[str, Tensor]:
    """Read the state dict that `torch.save` wrote to `path` without running code; BenchmarkError for anything else.

    title: names the file in messages.
    """
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        raise BenchmarkError(
            f"{title}: refused, it is no file of tensors alone: opening a pickled module runs the code it names. If "
            "you trust the file, open it where it was made and save its state: torch.save(module.state_dict(), path)"
        ) from error
    except (OSError, EOFError, RuntimeError, ValueError, LookupError, AttributeError, TypeError) as error:
        raise BenchmarkError(
            f"{title}: cannot be read as a state dict, {type(error).__name__}; export or fetch it again"
        ) from error
    if not isinstance(content, dict) or not all(isinstance(tensor, Tensor) for tensor in content.values()):
        raise BenchmarkError(f"{title}: expected a state dict, names and tensors; save module.state_dict() alone")
    return content
