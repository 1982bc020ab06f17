"""Everything that needs a GPU, in one run of at most eight minutes: `benchmarks/on_gpu.sh`.

The parts of PARTS run in that order, the most valuable first, each in a process of its own: a part that fails or runs
out of memory costs no other part anything, and no peak is inherited. A part writes on_gpu-<part>.json after every row,
so that a run that is cut keeps what it has measured. After `--budget` seconds no further part or row starts, and what
still runs `GRACE` seconds later is ended. Weights and images are random: times and memory mean something, accuracies
do not.

This file needs the standard library alone, so that it can say which packages are missing. `--wheels` takes them from a
folder, without the network and without changing the environment. `--device cpu --tiny` runs all parts in seconds.
"""

import argparse
import json
import multiprocessing
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks import RESULTS

PARTS = {
    "step-b32": "a calibration step of ViT-B/32, 8 and 20 tasks",
    "thousand": "1,000 SAMerging steps of TA-8 on ViT-B/32, end to end",
    "memory": "peak memory of SAMerging on TALL-20, ViT-L/14",
    "agreement": "losses, gradients and merges against those of the CPU",
    "evaluation": "images per second while a merged model is scored",
    "step-l14": "a calibration step of ViT-L/14, 8 and 20 tasks",
    "data-free": "every data-free method, 8 and 20 tasks on ViT-B/32",
}
PACKAGES = {
    "numpy": "numpy",
    "psutil": "psutil",
    "pydantic": "pydantic",
    "ruamel": "ruamel.yaml",
    "safetensors": "safetensors",
    "scipy": "scipy",
    "tqdm": "tqdm",
}
"""{module: package} of everything that the measured code imports besides torch."""
TORCH = (2, 9)
"""The oldest version of torch."""
BUDGET, GRACE = 410, 60
"""Seconds; together less than eight minutes."""


def missing_packages() -> list[str]:
    """Return the packages of PACKAGES that cannot be imported."""
    return [package for module, package in PACKAGES.items() if find_spec(module) is None]


def torch_problem() -> str | None:
    """Return what is wrong with torch, or None."""
    wanted = f"torch {'.'.join(map(str, TORCH))} or later is needed"
    if find_spec("torch") is None:
        return f"{wanted}, {sys.executable} has none; name another interpreter: PYTHON=/path/to/python"
    installed = version("torch")
    numbers = tuple(map(int, re.findall(r"\d+", installed)[:2]))
    return None if numbers >= TORCH else f"{wanted}, {sys.executable} has {installed}"


def explain(missing: list[str]) -> str:
    """Return which packages are missing and how to bring them to a machine without a network."""
    python = ".".join(platform.python_version_tuple()[:2])
    return (
        f"{sys.executable} lacks {', '.join(missing)}. On a machine with a network run\n"
        f"    python -m pip download --only-binary=:all: --python-version {python} \\\n"
        f"      --platform manylinux_2_28_{platform.machine()} --platform manylinux2014_{platform.machine()} \\\n"
        f"      --dest wheels {' '.join(missing)}\n"
        f"carry the folder wheels here, and add --wheels wheels"
    )


def install(missing: list[str], wheels: Path, folder: Path) -> None:
    """Install packages from a folder of wheels into `folder`, and let this and every later process import them."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
    command += ["--no-index", "--find-links", str(wheels), "--target", str(folder), *missing]
    if subprocess.run(command, check=False).returncode:
        raise SystemExit(f"on_gpu: --wheels {wheels}: pip could not install {', '.join(missing)} from this folder")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
    sys.path.insert(0, str(folder))


def run_apart(function: Callable[..., None], *arguments: object, until: float | None = None) -> int | None:
    """Run `function(*arguments)` in a new process; its exit code, or None if it was ended at `until`.

    A server forks the processes after it has imported what they need, before CUDA has started; torch's optimisers
    import torch._dynamo when they are first used, which takes seconds.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.gpu_parts", "torch._dynamo"])
    process = context.Process(target=function, args=arguments, daemon=True)
    process.start()
    process.join(None if until is None else max(0, until - time.monotonic()))
    if process.exitcode is None:
        process.kill()
        process.join()
        return None
    return process.exitcode


def print_machine() -> None:
    """Print the device and the versions; exit with a message if there is no such device."""
    from benchmarks import gpu_parts, measure
    from pipeline.runtime.device import device
    from pipeline.runtime.errors import BenchmarkError

    try:
        target = device()
    except BenchmarkError as error:
        raise SystemExit(f"on_gpu: --device: {error}") from error
    about = measure.machine(target) | gpu_parts.describe_gpu(target)
    print(", ".join(f"{key} {value}" for key, value in about.items()), flush=True)


def measure_part(part: str, out: Path, tiny: bool, deadline: float) -> None:
    """Measure a part, see `gpu_parts.measure`."""
    from benchmarks import gpu_parts, gpu_rows
    from pipeline.runtime.processes import begin_worker

    begin_worker()
    gpu_parts.measure(part, out, gpu_rows.TINY if tiny else gpu_rows.FULL, deadline)


def verdicts(out: Path, parts: list[str], since: float) -> Iterator[str]:
    """Yield a line per target that has been measured `since` this time."""
    for path in (out / f"on_gpu-{part}.json" for part in parts):
        if path.is_file() and path.stat().st_mtime >= since:
            content: dict[str, Any] = json.loads(path.read_text("utf-8"))
            for name, row in content["rows"].items():
                yield from (f"{content['part']}, {name}: {goal['text']}" for goal in row["targets"])


def parse() -> argparse.Namespace:
    """Read the command line and check it."""
    parser = argparse.ArgumentParser(prog="benchmarks/on_gpu.sh", description=__doc__.splitlines()[0])
    parser.add_argument("--parts", default=",".join(PARTS), help=f"comma between them; default: {','.join(PARTS)}")
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds after which no part or row starts")
    parser.add_argument("--out", type=Path, help="folder of the results; default: benchmarks/results")
    parser.add_argument("--wheels", type=Path, help="folder of wheels of the packages that are missing")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:<index> or cpu")
    parser.add_argument("--tiny", action="store_true", help="a dry run at toy sizes")
    arguments = parser.parse_args()
    arguments.parts = arguments.parts.split(",")
    if unknown := [part for part in arguments.parts if part not in PARTS]:
        parser.error(f"--parts {','.join(unknown)}: expected some of {', '.join(PARTS)}")
    if arguments.tiny and arguments.out is None:
        parser.error("--tiny measures nothing worth keeping: name a folder for its results with --out")
    if arguments.wheels and not arguments.wheels.is_dir():
        parser.error(f"--wheels {arguments.wheels}: no such folder")
    arguments.out = (arguments.out or RESULTS).resolve()
    return arguments


def run(arguments: argparse.Namespace) -> int:
    """Run the parts; the exit status: 1 if a part failed."""
    start, since = time.monotonic(), time.time()
    deadline, failed = start + arguments.budget, []
    if run_apart(print_machine):
        return 1
    for part in arguments.parts:
        elapsed = time.monotonic() - start
        if elapsed >= arguments.budget:
            print(f"{part}: not started, {elapsed:.0f} of {arguments.budget:g} s are over", flush=True)
            continue
        print(f"{part}: {PARTS[part]}", flush=True)
        code = run_apart(measure_part, part, arguments.out, arguments.tiny, deadline, until=deadline + GRACE)
        if code is None:
            print(f"{part}: ended {GRACE} s after the budget; the rows it had written stay", flush=True)
        elif code:
            failed.append(part)
            print(f"{part}: failed; the rows it had written stay", flush=True)
    print(f"\nResults in {arguments.out}, after {time.monotonic() - start:.0f} s. Targets:")
    for line in verdicts(arguments.out, arguments.parts, since):
        print(f"  {line}")
    if failed:
        print(f"Failed: {', '.join(failed)}")
    return bool(failed)


def main() -> None:
    """Parse the command line, check the packages, measure, print the targets."""
    arguments = parse()
    os.environ["SAMERGING_DEVICE"] = arguments.device
    if wrong := torch_problem():
        raise SystemExit(f"on_gpu: {wrong}")
    missing = missing_packages()
    if missing and arguments.wheels is None:
        raise SystemExit(f"on_gpu: {explain(missing)}")
    with tempfile.TemporaryDirectory() as folder:
        if missing:
            install(missing, arguments.wheels, Path(folder))
        raise SystemExit(run(arguments))


if __name__ == "__main__":
    main()
