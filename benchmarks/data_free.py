"""Data-free methods against reading the same files once: `python -m benchmarks.data_free --methods average,ties`.

read    every tensor of theta_0 and of the T experts, once, as the stages read them
merge   the same files to the weights of a merged model: the method's answer for one seed, added to theta_0

On the CPU, where the stage `merge` runs, on random weights of the backbone's size in a temporary folder. Read and merge
take turns, each in a process of its own, so that ratios hold when the machine drifts and no peak is inherited. Files
are mapped into memory: the peak of `read` is theirs and the interpreter's, and what a merge needs itself is how far it
goes beyond, told in models.
"""

import argparse
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.calibration_step import WIDTHS, configuration
from pipeline import methods, store
from pipeline.merges import data_free
from pipeline.model import FROZEN, build_clip, split_qkv
from pipeline.vectors import TaskVectors, add, merge

METHODS = tuple(name for name in methods.names() if hasattr(methods.load(name), "merge"))


def write(folder: Path, backbone: str, tasks: int) -> int:
    """Write base.safetensors and <t>.safetensors with random weights; the bytes of one model."""
    with torch.device("meta"):
        tower = build_clip(configuration(backbone)).visual
    shapes = {name: tensor.shape for name, tensor in split_qkv(dict(tower.named_parameters())).items()}
    rng = torch.Generator().manual_seed(0)
    base = {name: 0.02 * torch.randn(shape, generator=rng) for name, shape in shapes.items()}
    store.write_tensors(folder / "base.safetensors", base)
    for task in tqdm(range(tasks), desc="experts", unit="expert"):
        tuned = {name: tensor for name, tensor in base.items() if name not in FROZEN}
        moved = {name: tensor + 1e-3 * torch.randn(tensor.shape, generator=rng) for name, tensor in tuned.items()}
        store.write_tensors(folder / f"{task}.safetensors", moved)
    return sum(tensor.nbytes for tensor in base.values())


def measured(folder: Path, tasks: int, name: str | None, threads: int) -> tuple[float, int]:
    """(seconds, peak bytes of this process) of one merge by the method, or of `read` if there is none."""
    torch.set_num_threads(threads)
    base, *experts = (store.TensorFile(folder / f"{stem}.safetensors") for stem in ("base", *range(tasks)))
    start = time.perf_counter()
    if name is None:
        for file in (base, *experts):
            for tensor in file:
                file[tensor]
    else:
        merged(name, base, TaskVectors(base, experts, [*experts[0]]))
    seconds = time.perf_counter() - start
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text("utf-8").splitlines())
    return seconds, 1024 * int(status["VmHWM"].split()[0])


def merged(name: str, base: Mapping[str, Tensor], vectors: TaskVectors) -> None:
    """Make every model of the method's answer, its extras apart, one at a time."""
    method = methods.load(name)
    params = method.Params()
    if hasattr(params, "seeds"):
        params = params.model_copy(update={"seeds": params.seeds[:1]})
    (found,) = data_free(method, vectors, params, [str(task) for task in range(vectors.tasks)]).solutions
    if found.coefficients is None:
        add(base, found.delta)
        return
    for matrix in found.coefficients if found.coefficients.ndim == 3 else found.coefficients[None]:
        merge(base, vectors, matrix)


def summary(values: list[float]) -> dict[str, float]:
    """Median and spread."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def main() -> None:
    """Parse the command line, measure, print the table, write benchmarks/results/data_free-*.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", choices=WIDTHS, default="vit-b-32")
    parser.add_argument("--tasks", type=int, default=8)
    parser.add_argument("--methods", default=",".join(METHODS), help="comma between them; all data-free ones")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    names = arguments.methods.split(",")
    if unknown := sorted({*names} - {*METHODS}):
        raise SystemExit(f"--methods: {', '.join(unknown)}: no data-free method; there are {', '.join(METHODS)}")
    context = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory() as temporary,
        ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as apart,
    ):
        folder = Path(temporary)
        model = apart.submit(write, folder, arguments.backbone, arguments.tasks).result()

        def run(name: str | None) -> tuple[float, int]:
            return apart.submit(measured, folder, arguments.tasks, name, arguments.threads).result()

        run(None)  # brings the files into the page cache
        pairs = {
            name: [(run(None), run(name)) for _ in range(arguments.rounds)] for name in tqdm(names, desc="methods")
        }
    rows = {name: row(taken, model) for name, taken in pairs.items()}
    print(f"{'':16}{'seconds':>10}{'x read':>9}{'peak MiB':>11}{'x read':>9}{'models beyond':>15}")
    for name, one in rows.items():
        medians = {key: values["median"] for key, values in one.items()}
        print(
            f"{name:16}{medians['seconds']:10.2f}{medians['seconds_to_read']:9.1f}{medians['peak_mib']:11.0f}"
            f"{medians['peak_to_read']:9.2f}{medians['models_beyond_read']:15.1f}"
        )
    result = {
        "arguments": {**vars(arguments), "methods": names},
        "device": "cpu",
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "model_bytes": model,
        "rows": rows,
    }
    place = Path(__file__).parent / "results"
    store.write_json(place / f"data_free-cpu-{arguments.backbone}-{arguments.tasks}.json", result)


def row(pairs: list[tuple[tuple[float, int], tuple[float, int]]], model: int) -> dict[str, dict[str, float]]:
    """Medians and spreads from (read, merge) pairs of (seconds, peak bytes); `model`: bytes of one model."""
    return {
        "read_seconds": summary([read for (read, _), _ in pairs]),
        "seconds": summary([taken for _, (taken, _) in pairs]),
        "seconds_to_read": summary([taken / read for (read, _), (taken, _) in pairs]),
        "read_peak_mib": summary([floor / 2**20 for (_, floor), _ in pairs]),
        "peak_mib": summary([peak / 2**20 for _, (_, peak) in pairs]),
        "peak_to_read": summary([peak / floor for (_, floor), (_, peak) in pairs]),
        "models_beyond_read": summary([(peak - floor) / model for (_, floor), (_, peak) in pairs]),
    }


def processor() -> str:
    """The processor's name."""
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
