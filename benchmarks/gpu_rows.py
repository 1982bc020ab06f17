"""What the rows of `benchmarks.gpu_parts` share: sizes, precisions, time left, peaks of memory, targets."""

import resource
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

Row = dict[str, Any]
"""What was measured; `targets` has a `goal` per number that should reach something."""

PRECISIONS = {"bfloat16": torch.bfloat16, "tf32": torch.float32, "float32": torch.float32}
"""{name: precision of a problem}, from the fastest to the slowest, see `computing`."""
GB = 10**9
MIB = 1 << 20


@dataclass(frozen=True)
class Sizes:
    """How large everything is that is measured."""

    small: str
    large: str
    compared: str
    """The backbone whose merges are compared with the CPU's."""
    few: int
    many: int
    """Numbers of tasks."""
    batch: int
    samples: int
    """Images per task that wait in memory."""
    steps: int
    images: Mapping[str, int]
    """{backbone: images that are scored}."""
    rounds: Mapping[str, int]
    """{backbone: rounds of alternated timings}."""
    slow: float
    """Seconds after which a merge is not repeated."""


FULL = Sizes(
    small="vit-b-32",
    large="vit-l-14",
    compared="mini",
    few=8,
    many=20,
    batch=16,
    samples=400,
    steps=1000,
    images={"vit-b-32": 2048, "vit-l-14": 512},
    rounds={"vit-b-32": 10, "vit-l-14": 3},
    slow=5.0,
)
TINY = Sizes(
    small="tiny",
    large="tiny",
    compared="tiny",
    few=2,
    many=3,
    batch=2,
    samples=4,
    steps=10,
    images={"tiny": 8},
    rounds={"tiny": 2},
    slow=0.0,
)


@dataclass(frozen=True)
class Run:
    """What every part gets."""

    sizes: Sizes
    target: torch.device
    deadline: float
    """On the clock of `time.monotonic`."""

    def left(self) -> float:
        """Return the seconds until the deadline."""
        return self.deadline - time.monotonic()


def goal(name: str, value: float | Mapping[str, float], bound: str, limit: float) -> Row:
    """Return a number with its target, `bound` ("at most" or "at least") a limit. Of a spread, the median counts."""
    number = value["median"] if isinstance(value, Mapping) else value
    met = number <= limit if bound == "at most" else number >= limit
    target = f"{bound} {limit:g}"
    text = f"{name} {format_value(value)}, target {target}: {'met' if met else 'NOT MET'}"
    return {"name": name, "value": value, "target": target, "met": met, "text": text}


def format_row(row: Row) -> str:
    """Return a row as a line of text."""
    values = [f"{key} {format_value(value)}" for key, value in row.items() if key != "targets"]
    return "; ".join([*(target["text"] for target in row["targets"]), *values])


def format_value(value: Any) -> str:
    """Return a number, a spread or a mapping of them as text."""
    if isinstance(value, Mapping) and "median" in value:
        return f"{value['median']:.4g} ({value['min']:.4g} to {value['max']:.4g})"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {format_value(item)}" for key, item in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@contextmanager
def computing(precision: str, convolutions: bool = True) -> Generator[None, None, None]:
    """Compute products in TF32 if that is the `precision`; `convolutions` in TF32 too, which is torch's default.

    "float32" is what the pipeline does: the encoder has one convolution. Nothing of this applies on a CPU.
    """
    products, allowed = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = convolutions
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = allowed


def start_peak(target: torch.device) -> None:
    """Forget earlier peaks of the GPU's memory."""
    if target.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(target)


def peak(target: torch.device) -> Row:
    """Return what tensors took at most since `start_peak`, and what torch reserved; without a GPU, the peak of RAM."""
    if target.type == "cpu":
        return {"peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10}
    allocated, reserved = torch.cuda.max_memory_allocated(target), torch.cuda.max_memory_reserved(target)
    return {"peak_mib": allocated // MIB, "reserved_mib": reserved // MIB}
