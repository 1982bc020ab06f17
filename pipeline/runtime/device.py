"""The device that stages compute on."""

import os

import torch

from pipeline.runtime.errors import BenchmarkError


def device() -> torch.device:
    """The device stages compute on: SAMERGING_DEVICE if set, else CUDA if there is one, else the CPU.

    On the CPU torch gets one thread: results then do not depend on the number of cores, and stages use the cores with
    one process each (`pipeline.runtime.parallel`).
    """
    chosen = os.environ.get("SAMERGING_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(chosen)
    except RuntimeError as error:
        raise BenchmarkError(f"SAMERGING_DEVICE={chosen!r}: expected cpu, cuda or cuda:<index>") from error
    if found.type == "cuda" and not torch.cuda.is_available():
        raise BenchmarkError(f"SAMERGING_DEVICE={chosen!r}: this machine has no CUDA device; unset it or use cpu")
    if found.type == "cpu":
        torch.set_num_threads(1)
    return found
