"""What all benchmarks share: alternated timings, peak memory of a process of its own, results with their hardware."""

import json
import multiprocessing
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from tqdm import trange

from benchmarks import RESULTS
from pipeline.runtime import store
from pipeline.runtime.machine import read_processor_name

Timed = Mapping[str, Callable[[], object]]


def alternated(timed: Timed, rounds: int, target: torch.device) -> dict[str, list[float]]:
    """Seconds of every function, called in turn (a, b, a, b, ...) so that ratios hold when the machine drifts.

    One round that is not counted goes first.
    """
    taken: dict[str, list[float]] = {name: [] for name in timed}
    for counted in trange(-1, rounds, desc="rounds"):
        for name, function in timed.items():
            start = time.perf_counter()
            function()
            if target.type == "cuda":
                torch.cuda.synchronize(target)
            if counted >= 0:
                taken[name].append(time.perf_counter() - start)
    return taken


def rows(taken: Mapping[str, list[float]], floor: str) -> dict[str, dict[str, Any]]:
    """Per function the median, smallest and largest seconds, and the same of its ratio to `floor`, round by round."""
    found = {}
    for name, seconds in taken.items():
        ratios = [one / other for one, other in zip(seconds, taken[floor], strict=True)]
        found[name] = {"seconds": spread(seconds), "ratio": spread(ratios)}
    return found


def spread(values: list[float]) -> dict[str, float]:
    """Median, minimum and maximum."""
    return {
        "median": round(statistics.median(values), 5), "min": round(min(values), 5), "max": round(max(values), 5),
    }  # fmt: skip


def apart(function: Callable[..., Any], *arguments: object) -> Any:
    """`function(*arguments)` in a new process: (its result, peak MiB of the GPU, or of RAM if it took none there)."""
    receiving, sending = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(target=_send, args=(sending, function, arguments))
    process.start()
    sending.close()
    try:
        found = receiving.recv()
    except EOFError as error:
        raise SystemExit(f"{function.__name__}: the process that measures it ended early") from error
    process.join()
    return found


def _send(sending: Connection, function: Callable[..., Any], arguments: tuple[object, ...]) -> None:
    result = function(*arguments)
    taken = torch.cuda.max_memory_allocated() if torch.cuda.is_initialized() else 0
    sending.send((result, taken >> 20 or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10))


def write(
    name: str,
    arguments: Mapping[str, Any],
    target: torch.device,
    content: Mapping[str, Any],
    folder: Path | None = None,
) -> None:
    """Write <name>.json into `folder`, by default RESULTS: what was measured, with what, on what; atomically."""
    store.write_json((folder or RESULTS) / f"{name}.json", {"arguments": dict(arguments), **machine(target), **content})


def earlier(name: str, target: torch.device, content: Mapping[str, Any]) -> dict[str, Any]:
    """What `write` wrote under this name on the same kind of machine and with this among its content; {} otherwise."""
    path = RESULTS / f"{name}.json"
    found = json.loads(path.read_text("utf-8")) if path.exists() else {}
    same = {**machine(target), **content}
    return found if same.items() <= found.items() else {}


def machine(target: torch.device) -> dict[str, Any]:
    """What results depend on beside the code."""
    return {
        "device": torch.cuda.get_device_name(target) if target.type == "cuda" else read_processor_name(),
        "cores": len(os.sched_getaffinity(0)),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
    }
