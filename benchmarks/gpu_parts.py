"""The parts of `benchmarks.on_gpu`: each yields (name, row), one row at a time.

`measure` writes a row down before it asks for the next. Weights, images and teachers are random.
"""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import calibration_step, data_free
from benchmarks import measure as measuring
from benchmarks.calibration_step import OBJECTIVE
from benchmarks.gpu_rows import GB, MIB, PRECISIONS, Row, Run, Sizes, computing, format_row, goal, peak, start_peak
from benchmarks.synthetic import HALF, SHAPES, config, moved, problem, weights
from pipeline.calibration.descent import coefficient_gradient
from pipeline.calibration.problem import Problem
from pipeline.methods import samerging
from pipeline.models.examples import BATCH, encode
from pipeline.models.vit import VisionTransformer
from pipeline.runtime import store
from pipeline.runtime.device import device
from pipeline.runtime.machine import read_driver_version
from pipeline.runtime.schema import Schedule

Part = Callable[[Run], Iterator[tuple[str, Row]]]
CPU = torch.device("cpu")


def measure(part: str, out: Path, sizes: Sizes, deadline: float) -> None:
    """Measure a part until the deadline, a time of `time.monotonic`; write <out>/on_gpu-<part>.json after every row.

    `finished` in that file says whether the part came to its end.
    """
    run = Run(sizes, device(), deadline)
    rows: dict[str, Row] = {}
    start, measured, finished = time.monotonic(), PARTS[part](run), False
    while not finished and run.left() > 0:
        named = next(measured, None)
        finished = named is None
        if named is not None:
            rows[named[0]] = named[1]
            print(f"  {named[0]}: {format_row(named[1])}", flush=True)
        seconds = round(time.monotonic() - start, 1)
        content = {"part": part, "rows": rows, "finished": finished, "seconds": seconds, **describe_gpu(run.target)}
        measuring.write(f"on_gpu-{part}", asdict(sizes), run.target, content, out)


def describe_gpu(target: torch.device) -> dict[str, Any]:
    """Return what `measure.machine` leaves out; nothing on a CPU."""
    if target.type == "cpu":
        return {}
    memory = torch.cuda.get_device_properties(target).total_memory
    return {"gpu_memory_gb": round(memory / GB, 1), "cuda": torch.version.cuda, "driver": read_driver_version()}


def measure_steps(run: Run, backbone: str) -> Iterator[tuple[str, Row]]:
    """One step of calibration, plain and SAM, against its floor and the graph, see `benchmarks.calibration_step`."""
    for tasks in (run.sizes.few, run.sizes.many):
        made = problem(backbone, tasks, run.sizes.batch, run.target, torch.float32)
        for precision in PRECISIONS:
            yield f"{backbone}, {tasks} x {run.sizes.batch}, {precision}", _step(run, backbone, made, precision)
        del made  # before the larger one is made


def _step(run: Run, backbone: str, made: Problem, precision: str) -> Row:
    start_peak(run.target)
    with computing(precision):
        timed = calibration_step.contestants(replace(made, precision=PRECISIONS[precision]))
        taken = measuring.alternated(timed, run.sizes.rounds[backbone], run.target)
    to_floor, to_plain = measuring.rows(taken, "floor"), measuring.rows(taken, "plain")
    return {
        "targets": [
            goal("plain / floor", to_floor["plain"]["ratio"], "at most", 1.05),
            goal("SAM / plain", to_plain["sam"]["ratio"], "at most", 2.1),
            goal("graph / plain", to_plain["graph"]["ratio"], "at least", 5),
        ],
        "seconds": {name: row["seconds"] for name, row in to_floor.items()},
        **peak(run.target),
    }


def measure_thousand(run: Run) -> Iterator[tuple[str, Row]]:
    """SAMerging from task vectors on the device to coefficients on the CPU; in float32, a tenth of the steps."""
    sizes = run.sizes
    made = problem(sizes.small, sizes.few, sizes.samples, run.target, torch.float32)
    for precision, dtype in PRECISIONS.items():
        steps = sizes.steps // 10 if precision == "float32" else sizes.steps
        with computing(precision):
            calibrated(replace(made, precision=dtype), sizes.batch, 1)
            start_peak(run.target)
            start = time.perf_counter()
            calibrated(replace(made, precision=dtype), sizes.batch, steps)
            seconds = time.perf_counter() - start
        title = f"seconds for {sizes.steps:,} steps" + (f", from {steps}" if steps < sizes.steps else "")
        target = goal(title, seconds * sizes.steps / steps, "at most", 30)
        yield precision, {"targets": [target], "steps": steps, "seconds": seconds, **peak(run.target)}


def measure_memory(run: Run) -> Iterator[tuple[str, Row]]:
    """The peak of a SAMerging step with everything that a calibration holds."""
    sizes = run.sizes
    made = problem(sizes.large, sizes.many, sizes.samples, run.target, torch.float32)
    for precision in ("bfloat16", "float32"):
        start_peak(run.target)
        with computing(precision):
            calibrated(replace(made, precision=PRECISIONS[precision]), sizes.batch, 1)
        peaks = peak(run.target)
        yield precision, {"targets": [goal("peak in GB", max(peaks.values()) * MIB / GB, "at most", 80)], **peaks}


def measure_agreement(run: Run) -> Iterator[tuple[str, Row]]:
    """Distances to what the CPU computes in float32: a step, twenty steps, and every data-free merge."""
    sizes = run.sizes
    yield from _agreement_of_a_step(run, problem(sizes.small, sizes.few, sizes.batch, CPU, torch.float32))
    here = problem(sizes.compared, sizes.few, sizes.samples, CPU, torch.float32)
    pairs = zip(*(calibrated(made, sizes.batch, 20) for made in (moved(here, run.target), here)), strict=True)
    losses, coefficients = (distance([close], [exact]) for close, exact in pairs)
    yield "20 steps of SAMerging", {"targets": [], "losses": losses, "coefficients": coefficients}
    experts = [{name: here.base[name] + tau[task] for name, tau in here.vectors.items()} for task in range(sizes.few)]
    for name in data_free.METHODS:
        close, exact = (
            [
                model[group] - here.base[group]
                for model in data_free.merged(name, here.base, experts, target)
                for group in here.vectors
            ]
            for target in (run.target, CPU)
        )
        yield f"merge, {name}", {"targets": [], "delta": distance(close, exact)}


def _agreement_of_a_step(run: Run, here: Problem) -> Iterator[tuple[str, Row]]:
    loss, slope = coefficient_gradient(here, OBJECTIVE, *calibration_step.start(here))
    there = moved(here, run.target)
    point, chosen = calibration_step.start(there)
    settings = [*((precision, True) for precision in PRECISIONS), ("float32", False)]
    for precision, convolutions in settings:
        using = replace(there, precision=PRECISIONS[precision])
        with computing(precision, convolutions):
            close_loss, close_slope = coefficient_gradient(using, OBJECTIVE, point, chosen)
            graph = calibration_step.through_the_graph(using, point, chosen)
        row = {
            "loss": distance([close_loss], [loss]),
            "gradient": distance([close_slope], [slope]),
            "gradient_to_graph": distance([close_slope], [graph]),
        }
        yield f"step, {precision}" + ("" if convolutions else ", convolutions too"), {"targets": [], **row}


def measure_evaluation(run: Run) -> Iterator[tuple[str, Row]]:
    """Images per second of evaluation, and of the same encoder on images that are on the device already."""
    for backbone in dict.fromkeys((run.sizes.small, run.sizes.large)):
        yield backbone, _evaluation(run, backbone)


def _evaluation(run: Run, backbone: str) -> Row:
    size, count = SHAPES[backbone][4], run.sizes.images[backbone]
    tower, base = VisionTransformer(config(backbone), HALF, HALF), weights(backbone, run.target)
    pixels = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    resident = torch.from_numpy(pixels).to(run.target).split(BATCH)

    def encode_resident() -> Tensor:
        with torch.inference_mode():
            return torch.cat([tower(base, images) for images in resident])

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.npy"
        store.write_array(path, pixels)
        images = store.read_array(path)
        timed = {"resident": encode_resident, "pipeline": lambda: encode(tower, base, images, run.target)}
        start_peak(run.target)
        taken = measuring.alternated(timed, run.sizes.rounds[backbone], run.target)
    rows = measuring.rows(taken, "resident")
    speeds = {name: round(count / row["seconds"]["median"], 1) for name, row in rows.items()}
    return {"targets": [], "images_per_second": speeds, "ratio": rows["pipeline"]["ratio"], **peak(run.target)}


def measure_data_free(run: Run) -> Iterator[tuple[str, Row]]:
    """Data-free merges against reading the same files once, see `benchmarks.data_free`: one block first, then all.

    Methods come in the order of their speed. One that would end after the deadline, to judge by a smaller size, is left
    out.
    """
    sizes, seconds = run.sizes, dict.fromkeys(data_free.METHODS, 0.0)  # per task and block
    whole = SHAPES[sizes.small][1]
    torch.linalg.svd(torch.eye(2, device=run.target))  # starts cuSOLVER
    for blocks in dict.fromkeys((1, whole)):
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            data_free.write(folder, sizes.small, blocks, sizes.many)
            for tasks in (sizes.few, sizes.many):
                for name in sorted(seconds, key=seconds.__getitem__):
                    if seconds[name] * tasks * blocks > run.left():
                        continue
                    start_peak(run.target)
                    taken = _repeated(folder, tasks, name, 3 if blocks == 1 else 1, sizes.slow)
                    row = measuring.rows(taken, data_free.READ)[name]
                    seconds[name] = row["seconds"]["median"] / (tasks * blocks)
                    title = f"{name}, T = {tasks}, {blocks} of {whole} blocks"
                    yield title, {"targets": [], **row, **peak(run.target)}


def _repeated(folder: Path, tasks: int, name: str, rounds: int, slow: float) -> dict[str, list[float]]:
    """Return the seconds of reading and of merging, in turn; a merge of more than `slow` seconds is not repeated."""
    taken: dict[str, list[float]] = {data_free.READ: [], name: []}
    for _ in range(rounds):
        for work, seconds in taken.items():
            seconds.append(data_free.measured(folder, tasks, work))
        if taken[name][-1] > slow:
            break
    return taken


def calibrated(made: Problem, batch: int, steps: int) -> tuple[Tensor, Tensor]:
    """Return the losses and the coefficients of SAMerging with its own parameters, on the CPU."""
    schedule = Schedule(lr=1e-3, steps=steps, batch_size=batch)
    solution = samerging.calibrate(made, schedule, 0, samerging.Params()).cpu()
    assert solution.losses is not None and solution.coefficients is not None
    return solution.losses, solution.coefficients


def distance(close: Sequence[Tensor], exact: Sequence[Tensor]) -> float:
    """Return the Euclidean distance of two lists of tensors relative to the length of the second; 0 if equal."""
    differences = [first.cpu() - second.cpu() for first, second in zip(close, exact, strict=True)]
    length, away = (
        torch.stack([tensor.double().square().sum() for tensor in tensors]).sum().sqrt().item()
        for tensors in (exact, differences)
    )
    return away / length if away else 0.0


PARTS: dict[str, Part] = {
    "step-b32": lambda run: measure_steps(run, run.sizes.small),
    "thousand": measure_thousand,
    "memory": measure_memory,
    "agreement": measure_agreement,
    "evaluation": measure_evaluation,
    "step-l14": lambda run: measure_steps(run, run.sizes.large),
    "data-free": measure_data_free,
}
