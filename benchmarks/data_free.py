"""Data-free methods against reading the same files once: `python -m benchmarks.data_free --methods average,ties`.

read    every tensor of theta_0 and of the T experts, once, as the stages read them: one thread
merge   the same files to the weights of a merged model: the method's answer for one seed, added to theta_0

On the device and with the threads of the stage `merge`, on random weights of the backbone's size in a temporary folder.
Read and merge take turns, each in a process of its own, so that ratios hold when the machine drifts and no peak is
inherited. Rows of other methods that an earlier call measured on the same kind of machine stay. With `--blocks 1` the
backbone has one transformer block of its own width: methods work tensor by tensor, so that seconds grow with the number
of blocks, and of a peak what belongs to one model (the answer, a task's whole vector), not what belongs to all tasks.
"""

import argparse
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks import measure
from benchmarks.synthetic import SHAPES, tensor_shapes
from pipeline import methods
from pipeline.models.task_vectors import TaskVectors, add_delta, merge_experts
from pipeline.models.weights import FROZEN, Weights
from pipeline.runtime import store
from pipeline.runtime.device import device
from pipeline.runtime.parallel import count_workers
from pipeline.runtime.threads import MAX_THREADS
from pipeline.steps.merge import merge_data_free

METHODS = tuple(name for name in methods.names() if hasattr(methods.load(name), "merge"))
READ = "read"


def write(folder: Path, backbone: str, blocks: int, tasks: int) -> int:
    """Write base.safetensors and <t>.safetensors with random weights; the bytes of all experts."""
    rng = torch.Generator().manual_seed(0)
    base = {name: 0.02 * torch.randn(shape, generator=rng) for name, shape in tensor_shapes(backbone, blocks).items()}
    store.write_tensors(folder / "base.safetensors", base)
    tuned = {name: tensor for name, tensor in base.items() if name not in FROZEN}
    for task in tqdm(range(tasks), desc="experts", unit="expert"):
        moved = {name: tensor + 1e-3 * torch.randn(tensor.shape, generator=rng) for name, tensor in tuned.items()}
        store.write_tensors(folder / f"{task}.safetensors", moved)
    return tasks * sum(tensor.nbytes for tensor in tuned.values())


def measured(folder: Path, tasks: int, name: str) -> float:
    """Seconds of one merge by the method, or of READ."""
    target = device()
    base, *experts = (store.TensorFile(folder / f"{stem}.safetensors") for stem in ("base", *range(tasks)))
    torch.zeros((), device=target)  # starts CUDA, which is no part of a merge
    start = time.perf_counter()
    if name == READ:
        for file in (base, *experts):
            for tensor in file:
                file[tensor]
    else:
        deque(merged(name, base, experts, target), maxlen=0)
    return time.perf_counter() - start


def merged(
    name: str, base: Mapping[str, Tensor], experts: Sequence[Mapping[str, Tensor]], target: torch.device
) -> Iterator[Weights]:
    """Yield every model of the method's answer, its extras apart, one at a time, as the stages do it.

    The answer is found on `target`; models are formed on the CPU.
    """
    groups = [group for group in base if group not in FROZEN]
    vectors, method = TaskVectors(base, experts, groups, device=target), methods.load(name)
    params = method.Params()
    if hasattr(params, "seeds"):
        params = params.model_copy(update={"seeds": params.seeds[:1]})
    (solution,) = merge_data_free(method, vectors, params, [str(task) for task in range(vectors.tasks)]).solutions
    solution = solution.cpu()
    if solution.delta is not None:
        yield add_delta(base, solution.delta)
    for matrix in (
        () if solution.coefficients is None else solution.coefficients.reshape(-1, vectors.tasks, len(groups))
    ):
        yield merge_experts(base, experts, groups, matrix)


def main() -> None:
    """Parse the command line, measure, print the table, write benchmarks/results/data_free-*.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", choices=SHAPES, default="vit-b-32")
    parser.add_argument("--blocks", type=int, help="transformer blocks; all of the backbone's")
    parser.add_argument("--tasks", type=int, default=8)
    parser.add_argument("--methods", default=",".join(METHODS), help="comma between them; all data-free ones")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    names = arguments.methods.split(",")
    if unknown := [name for name in names if name not in METHODS]:
        parser.error(f"--methods {','.join(unknown)}: expected some of {', '.join(METHODS)}")
    whole = SHAPES[arguments.backbone][1]
    blocks = whole if arguments.blocks is None else arguments.blocks
    if not 1 <= blocks <= whole:
        parser.error(f"--blocks {blocks}: expected 1 to {whole}, the blocks of {arguments.backbone}")
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        size = measure.apart(write, folder, arguments.backbone, blocks, arguments.tasks)[0] / 2**20
        for name in names:
            taken: dict[str, list[float]] = {READ: [], name: []}
            peaks: dict[str, list[int]] = {READ: [], name: []}
            for _ in range(arguments.rounds):
                for work in (READ, name):
                    seconds, peak = measure.apart(measured, folder, arguments.tasks, work)
                    taken[work].append(seconds)
                    peaks[work].append(peak)
            rows[name] = {**measure.rows(taken, READ)[name], "peak_mib": max(peaks[name])}
            rows[name] |= {"reading_peak_mib": max(peaks[READ]), "rounds": arguments.rounds}
            ratio = rows[name]["ratio"]["median"]
            print(f"{name:16} {taken[name][-1]:8.1f} s  {ratio:6.1f} x reading  {max(peaks[name]):7,} MiB", flush=True)
    target = device()
    threads = min(count_workers(), MAX_THREADS) if target.type == "cpu" else 1
    size_of_tower = arguments.backbone if blocks == whole else f"{arguments.backbone}-blocks-{blocks}"
    stem = f"data_free-{target.type}-{size_of_tower}-{arguments.tasks}"
    size_and_threads = {"experts_mib": round(size), "threads": threads}
    rows = measure.earlier(stem, target, size_and_threads).get("rows", {}) | rows
    about = {"backbone": arguments.backbone, "blocks": blocks, "of_blocks": whole, "tasks": arguments.tasks}
    measure.write(stem, about, target, {"rows": rows, **size_and_threads})


if __name__ == "__main__":
    main()
