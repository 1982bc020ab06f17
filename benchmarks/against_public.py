"""Data-free merges against public programs: `python -m benchmarks.against_public mergekit mergekit-env/bin/python`.

A program is installed in an environment of its own:

    python3 -m venv mergekit-env && mergekit-env/bin/pip install mergekit==0.1.5
    python3 -m venv fusion-bench-env && fusion-bench-env/bin/pip install fusion_bench==0.2.33

Both it and ours, `python -m benchmarks.merge_once`, are started as commands, in turn and with the same number of
threads. Each reads the same folders, a CLIP image tower of the backbone's size and its experts with random weights, and
writes a merged model. `start` is the average of towers of half a million weights: what a command costs before the size
of the models matters. Memory is the largest resident set, mapped files included. `benchmarks.programs` says what is
equal.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm, trange

from benchmarks import measure
from benchmarks.agreement import (
    compare_draws,
    compare_models,
    thresholds_of_one_more,
    undecided_by_one,
    undecided_by_ties,
)
from benchmarks.merge_once import KEEP, open_models
from benchmarks.programs import PROGRAMS, Program, last_line
from benchmarks.synthetic import SHAPES
from pipeline.models.task_vectors import TaskVectors
from pipeline.runtime import store
from pipeline.runtime.errors import BenchmarkError

ROOT = Path(__file__).parent.parent
START = "start"
THEIRS = "theirs"


@dataclass(frozen=True)
class Cost:
    """What one command took."""

    seconds: float
    cpu_seconds: float
    peak_mib: int


def write_models(folder: Path, backbone: str, tasks: int) -> None:
    """Write base/, 0/, ... with a random CLIP image tower and experts, as transformers saves them."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    width, blocks, patch, features, pixels, head = SHAPES[backbone]
    config = CLIPVisionConfig(
        hidden_size=width, intermediate_size=4 * width, num_hidden_layers=blocks, num_attention_heads=width // head,
        patch_size=patch, image_size=pixels, projection_dim=features, architectures=["CLIPVisionModel"],
    )  # fmt: skip
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in CLIPVisionModel(config).state_dict().items()}
    rng = torch.Generator().manual_seed(0)
    base = {name: 0.02 * torch.randn(shape, generator=rng) for name, shape in shapes.items()}
    for model in tqdm(("base", *map(str, range(tasks))), desc=backbone, unit="model"):
        step = 0 if model == "base" else 1e-3
        weights = {name: tensor + step * torch.randn(tensor.shape, generator=rng) for name, tensor in base.items()}
        store.write_tensors(folder / model / "model.safetensors", weights)
        config.save_pretrained(folder / model)


def run(command: Sequence[str | Path], threads: int) -> Cost:
    """Run a command; BenchmarkError, with the last line of its errors, if it fails."""
    variables = {"SAMERGING_WORKERS": str(threads), "SAMERGING_DEVICE": "cpu", "HF_HUB_OFFLINE": "1"}
    variables |= {"OMP_NUM_THREADS": str(threads), "CUDA_VISIBLE_DEVICES": ""}
    with tempfile.TemporaryFile("w+") as errors:
        start = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, **variables}, stdout=subprocess.DEVNULL, stderr=errors
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            errors.seek(0)
            raise BenchmarkError(
                f"{' '.join(map(str, command))}: exit status {process.returncode}: {last_line(errors.read())}"
            )
    return Cost(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss >> 10)


def merge_ours(variant: str, models: Path, merged: Path, seed: int, threads: int) -> Cost:
    """Let `benchmarks.merge_once` merge the models of a folder into the folder `merged`."""
    module = [sys.executable, "-m", "benchmarks.merge_once"]
    return run([*module, variant, models, merged / "model.safetensors", "--seed", str(seed)], threads)


def take_turns(
    folder: Path, program: Program, python: Path, recipes: Sequence[str], rounds: int, threads: int
) -> dict[tuple[str, str], list[Cost]]:
    """Return the costs, round by round, of every (recipe, THEIRS or variant), START first.

    One start of both programs that is not counted goes first. Merged models that `compare` needs stay in
    folder/<recipe>-<THEIRS or variant>-<round>.
    """
    taken: dict[tuple[str, str], list[Cost]] = {}
    first, variant = program.start
    for counted in trange(-1, rounds, desc="rounds"):
        turns = [(START, first, (variant,)), *((name, name, program.recipes[name].ours) for name in recipes)]
        for title, recipe, variants in turns[: 1 if counted < 0 else None]:
            models = folder / (START if title == START else "models")
            kept = title != START and counted < (2 if program.recipes[recipe].random else 1)
            for side in (THEIRS, *variants):
                merged, seed = folder / f"{title}-{side}-{counted}", max(counted, 0)
                if side == THEIRS:
                    cost = run(program.command(python, recipe, models, merged, seed, threads), threads)
                else:
                    cost = merge_ours(side, models, merged, seed, threads)
                if counted >= 0:
                    taken.setdefault((title, side), []).append(cost)
                if not kept:
                    shutil.rmtree(merged)
    return taken


def compare(folder: Path, program: str, recipe: str, variant: str) -> dict[str, Any] | None:
    """Compare the kept models of a variant with the program's; None if its definition is another."""
    made, (base, experts) = PROGRAMS[program].recipes[recipe], open_models(folder / "models")
    names = [name for name in base if made.compared.search(name)]

    def merged(side: str, number: int) -> dict[str, Tensor]:
        file = store.TensorFile(folder / f"{recipe}-{side}-{number}" / "model.safetensors")
        return {name: file[name] for name in names}

    if made.random:
        return compare_draws(base, *([merged(side, number) for number in (0, 1)] for side in (variant, THEIRS)))
    if made.equal not in (None, variant):
        return None

    vectors = TaskVectors(base, experts, [*base])
    lower = thresholds_of_one_more(vectors, KEEP) if variant == "ties" else None

    def undecided(name: str) -> Tensor:
        if lower is not None:
            return undecided_by_one(vectors[name], lower)
        if variant == "ties_by_tensor":
            return undecided_by_ties(vectors[name], KEEP)
        return torch.zeros(base.shapes()[name], dtype=torch.bool)

    return compare_models(merged(variant, 0), merged(THEIRS, 0), undecided)


def summarise(costs: Sequence[Cost], theirs: Sequence[Cost]) -> dict[str, Any]:
    """The spreads of seconds and CPU seconds, those of their ratios to the program's round by round, and the peak."""
    summary: dict[str, Any] = {"peak_mib": max(cost.peak_mib for cost in costs)}
    for field in ("seconds", "cpu_seconds"):
        ours, public = ([asdict(cost)[field] for cost in side] for side in (costs, theirs))
        summary[field] = measure.spread(ours)
        ratios = [numerator / denominator for numerator, denominator in zip(ours, public, strict=True)]
        summary[f"{field}_ratio"] = measure.spread(ratios)
    return summary


def measure_all(
    program: Program, python: Path, backbone: str, tasks: int, recipes: Sequence[str], rounds: int, threads: int
) -> dict[str, dict[str, Any]]:
    """Return {recipe or START: {THEIRS or variant: summary}}, with the agreement of each of ours."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        # In processes of their own: Linux hands the peak memory of a process down to the programs that it starts.
        measure.apart(write_models, folder / START, "mini", tasks)
        measure.apart(write_models, folder / "models", backbone, tasks)
        taken = take_turns(folder, program, python, recipes, rounds, threads)
        rows: dict[str, dict[str, Any]] = {}
        for (title, side), costs in taken.items():
            row = summarise(costs, taken[title, THEIRS])
            if side != THEIRS and title != START:
                row["agreement"] = measure.apart(compare, folder, program.package, title, side)[0]
            rows.setdefault(title, {})[side] = row
    return rows


def main(words: Sequence[str] | None = None) -> None:
    """Parse the command line, measure, print, write benchmarks/results/against_public-<package>-<backbone>-<T>.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("package", choices=PROGRAMS)
    parser.add_argument("python", type=Path, help="of the environment with the package")
    parser.add_argument("--backbone", choices=SHAPES, default="vit-b-32")
    parser.add_argument("--tasks", type=int, default=8)
    parser.add_argument("--recipes", help="comma between them; all of the program")
    parser.add_argument("--rounds", type=int, default=3, help="two at least: random merges are compared in two draws")
    parser.add_argument("--threads", type=int, default=2, help="of each program")
    arguments = parser.parse_args(words)
    program, python = PROGRAMS[arguments.package], arguments.python.absolute()  # not resolved: it may be a link
    recipes = arguments.recipes.split(",") if arguments.recipes else [*program.recipes]
    if unknown := [name for name in recipes if name not in program.recipes]:
        parser.error(f"--recipes {','.join(unknown)}: expected some of {', '.join(program.recipes)}")
    for name, least in (("tasks", 1), ("rounds", 2), ("threads", 1)):
        if getattr(arguments, name) < least:
            parser.error(f"--{name} {getattr(arguments, name)}: expected {least} at least")
    about = {name: getattr(arguments, name) for name in ("backbone", "tasks", "rounds", "threads")}
    try:
        versions = program.find(python)
        before = os.getloadavg()[0]
        rows = measure_all(program, python, recipes=recipes, **about)
    except BenchmarkError as error:
        raise SystemExit(str(error)) from error
    load = {"before": round(before, 2), "after": round(os.getloadavg()[0], 2)}
    content = {"rows": rows, "load": load, "public": versions, "start_backbone": "mini"}
    stem = f"against_public-{program.package}-{arguments.backbone}-{arguments.tasks}"
    measure.write(stem, {"package": program.package, **about}, torch.device("cpu"), content)
    for title, sides in rows.items():
        for side, row in sides.items():
            ratios = [f"{row[field]['median']:5.2f}" for field in ("seconds_ratio", "cpu_seconds_ratio")]
            print(f"{title:20} {side:20} {row['seconds']['median']:7.1f} s", *ratios, f"{row['peak_mib']:7,} MiB")


if __name__ == "__main__":
    main()
