"""The device that stages compute on. Stages that need no torch import this file too: it imports torch when asked."""

import os
from typing import TYPE_CHECKING

from pipeline.runtime.errors import BenchmarkError

if TYPE_CHECKING:
    import torch


def device() -> "torch.device":
    """Return the device to compute on: SAMERGING_DEVICE if set, else CUDA if available, else the CPU.

    On the CPU, torch gets one thread: results then do not depend on the number of cores, and stages use the cores with
    one process each (`pipeline.runtime.parallel`). Raises BenchmarkError if SAMERGING_DEVICE is no device of this
    machine.
    """
    import torch

    name = os.environ.get("SAMERGING_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        target = torch.device(name)
    except RuntimeError as error:
        raise BenchmarkError(f"SAMERGING_DEVICE={name!r}: expected cpu, cuda or cuda:<index>") from error
    if target.type not in ("cpu", "cuda"):
        raise BenchmarkError(f"SAMERGING_DEVICE={name!r}: expected cpu, cuda or cuda:<index>")
    if target.type == "cuda" and not torch.cuda.is_available():
        raise BenchmarkError(f"SAMERGING_DEVICE={name!r}: this machine has no CUDA device; unset it or use cpu")
    if target.type == "cuda" and (target.index or 0) >= (count := torch.cuda.device_count() or 1):
        raise BenchmarkError(
            f"SAMERGING_DEVICE={name!r}: this machine has CUDA devices 0 to {count - 1}; use one of them"
        )
    if target.type == "cpu":
        torch.set_num_threads(1)
    return target


def is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether an error says that the memory of the device is full."""
    import torch

    return isinstance(error, torch.OutOfMemoryError)
