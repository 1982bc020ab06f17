"""Data-free merges against mergekit: `python -m benchmarks.against_public --mergekit-python mergekit-env/bin/python`.

mergekit is installed in an environment of its own:

    python3 -m venv mergekit-env && mergekit-env/bin/pip install mergekit==0.1.5

Both programs are started as commands, `mergekit-yaml` and `python -m benchmarks.merge_once`, in turn and with the same
number of threads. Each reads the same folders, a CLIP image tower of the backbone's size and its experts with random
weights, and writes a merged model. `start` is the average of towers of half a million weights: what a command costs
before the size of the models matters. Memory is the largest resident set, mapped files included.

Settings make the definitions equal. mergekit trims TIES tensor by tensor, so that ours does too in `ties_by_tensor`;
`ties` trims over the whole model, as the paper does. mergekit's DARE-TIES drops and does not trim, so that ours keeps
all entries. Its DARE rescales a tensor to its L1 norm, ours divides by the probability, which is equal in expectation.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm, trange

from benchmarks import measure
from benchmarks.agreement import compare_draws, compare_models, undecided_by_ties
from benchmarks.merge_once import KEEP, open_models
from benchmarks.synthetic import SHAPES
from pipeline.models.task_vectors import TaskVectors
from pipeline.runtime import store
from pipeline.runtime.errors import BenchmarkError

ROOT = Path(__file__).parent.parent
MERGEKIT = "0.1.5"
"""The version that was compared."""
OPTIONS = ("--no-copy-tokenizer", "--no-write-model-card", "--quiet")
PRINT_VERSIONS = "from importlib.metadata import version as v; print(*map(v, ('mergekit', 'torch', 'transformers')))"


@dataclass(frozen=True)
class Recipe:
    """A method of mergekit, its settings, and the variants of `benchmarks.merge_once` that it is compared with."""

    expert: Mapping[str, float]
    shared: Mapping[str, Any]
    ours: Sequence[str]
    equal: str | None = None
    """The variant whose definition is the same; None: all."""
    random: bool = False


RECIPES = {
    "linear": Recipe({"weight": 1.0}, {"normalize": True}, ("average",)),
    "task_arithmetic": Recipe({"weight": 0.3}, {}, ("task_arithmetic",)),
    "ties": Recipe(
        {"weight": 1.0, "density": KEEP},
        {"normalize": False, "lambda": 0.3},
        ("ties_by_tensor", "ties"),
        "ties_by_tensor",
    ),
    "dare_linear": Recipe({"weight": 1.0, "density": 0.5}, {"lambda": 0.3}, ("dare",), random=True),
    "dare_ties": Recipe({"weight": 1.0, "density": 0.5}, {"lambda": 0.5}, ("dare_untrimmed_ties",), random=True),
}
START = "start"
THEIRS = "mergekit"


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


def find_mergekit(python: Path) -> tuple[Path, dict[str, str]]:
    """Return the command of the environment of `python` and its versions; BenchmarkError if mergekit is not there."""
    command = python.absolute().parent / "mergekit-yaml"  # absolute, not resolved: an environment's python is a link
    if not (python.is_file() and command.is_file()):
        raise BenchmarkError(
            f"--mergekit-python {python}: there is no mergekit-yaml next to it; install it with "
            f"`python3 -m venv mergekit-env && mergekit-env/bin/pip install mergekit=={MERGEKIT}` and name "
            f"mergekit-env/bin/python"
        )
    printed = subprocess.run([python, "-c", PRINT_VERSIONS], capture_output=True, text=True, check=False)
    if printed.returncode:
        raise BenchmarkError(f"--mergekit-python {python}: it does not start: {_last_line(printed.stderr)}")
    return command, dict(zip((THEIRS, "torch", "transformers"), printed.stdout.split(), strict=True))


def configure(recipe: str, models: Path, path: Path) -> None:
    """Write mergekit's configuration of a recipe for the models of a folder."""
    made = RECIPES[recipe]
    experts = sorted((child for child in models.iterdir() if child.name.isdigit()), key=lambda child: int(child.name))
    content = {
        "merge_method": recipe,
        "dtype": "float32",
        "models": [{"model": str(expert), "parameters": dict(made.expert)} for expert in experts],
        "parameters": dict(made.shared),
    }
    if recipe != "linear":
        content["base_model"] = str(models / "base")
    store.write_json(path, content)  # JSON is YAML


def run(command: Sequence[str | Path], threads: int) -> Cost:
    """Run a command; BenchmarkError, with the last line of its errors, if it fails."""
    variables = {"SAMERGING_WORKERS": str(threads), "SAMERGING_DEVICE": "cpu", "HF_HUB_OFFLINE": "1"}
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
                f"{' '.join(map(str, command))}: exit status {process.returncode}: {_last_line(errors.read())}"
            )
    return Cost(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss >> 10)


def _last_line(text: str) -> str:
    return next(reversed(text.strip().splitlines()), "it printed nothing")


def merge_public(command: Path, recipe: str, models: Path, merged: Path, seed: int, threads: int) -> Cost:
    """Let mergekit merge the models of a folder into the folder `merged`."""
    config = merged.with_suffix(".yaml")
    configure(recipe, models, config)
    return run([command, config, merged, "--random-seed", str(seed), "-j", str(threads), *OPTIONS], threads)


def merge_ours(variant: str, models: Path, merged: Path, seed: int, threads: int) -> Cost:
    """Let `benchmarks.merge_once` merge the models of a folder into the folder `merged`."""
    module = [sys.executable, "-m", "benchmarks.merge_once"]
    return run([*module, variant, models, merged / "model.safetensors", "--seed", str(seed)], threads)


def take_turns(
    folder: Path, command: Path, recipes: Sequence[str], rounds: int, threads: int
) -> dict[tuple[str, str], list[Cost]]:
    """Return the costs, round by round, of every (recipe, mergekit or variant), START first.

    One start of both programs that is not counted goes first. Merged models that `compare` needs stay in
    folder/<program>-<recipe or variant>-<round>.
    """
    taken: dict[tuple[str, str], list[Cost]] = {}
    for counted in trange(-1, rounds, desc="rounds"):
        turns = [(START, "linear", ("average",)), *((name, name, RECIPES[name].ours) for name in recipes)]
        for title, recipe, variants in turns[: 1 if counted < 0 else None]:
            models = folder / (START if title == START else "models")
            kept = title != START and counted < (2 if RECIPES[recipe].random else 1)
            for program in (THEIRS, *variants):
                merged = folder / f"{title}-{program}-{counted}"
                if program == THEIRS:
                    cost = merge_public(command, recipe, models, merged, max(counted, 0), threads)
                else:
                    cost = merge_ours(program, models, merged, max(counted, 0), threads)
                if counted >= 0:
                    taken.setdefault((title, program), []).append(cost)
                if not kept:
                    shutil.rmtree(merged)
    return taken


def compare(folder: Path, recipe: str, variant: str) -> dict[str, Any] | None:
    """Compare the kept models of a variant with mergekit's; None if its definition is another."""
    made, (base, experts) = RECIPES[recipe], open_models(folder / "models")

    def merged(program: str, number: int) -> store.TensorFile:
        return store.TensorFile(folder / f"{recipe}-{program}-{number}" / "model.safetensors")

    if made.random:
        return compare_draws(base, *([merged(program, number) for number in (0, 1)] for program in (variant, THEIRS)))
    if made.equal not in (None, variant):
        return None

    def undecided(name: str) -> Tensor:
        if recipe != "ties":
            return torch.zeros(base.shapes()[name], dtype=torch.bool)
        return undecided_by_ties(TaskVectors(base, experts, [name])[name], KEEP)

    return compare_models(merged(variant, 0), merged(THEIRS, 0), undecided)


def summarise(costs: Sequence[Cost], theirs: Sequence[Cost]) -> dict[str, Any]:
    """The spreads of seconds and CPU seconds, those of their ratios to mergekit's round by round, and the peak."""
    summary: dict[str, Any] = {"peak_mib": max(cost.peak_mib for cost in costs)}
    for field in ("seconds", "cpu_seconds"):
        ours, public = ([asdict(cost)[field] for cost in side] for side in (costs, theirs))
        summary[field] = measure.spread(ours)
        ratios = [numerator / denominator for numerator, denominator in zip(ours, public, strict=True)]
        summary[f"{field}_ratio"] = measure.spread(ratios)
    return summary


def measure_all(
    command: Path, backbone: str, tasks: int, recipes: Sequence[str], rounds: int, threads: int
) -> dict[str, dict[str, Any]]:
    """Return {recipe or START: {program: summary}}, with the agreement of each of ours."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        # In processes of their own: Linux hands the peak memory of a process down to the programs that it starts.
        measure.apart(write_models, folder / START, "mini", tasks)
        measure.apart(write_models, folder / "models", backbone, tasks)
        taken = take_turns(folder, command, recipes, rounds, threads)
        rows: dict[str, dict[str, Any]] = {}
        for (title, program), costs in taken.items():
            row = summarise(costs, taken[title, THEIRS])
            if program != THEIRS and title != START:
                row["agreement"] = measure.apart(compare, folder, title, program)[0]
            rows.setdefault(title, {})[program] = row
    return rows


def main(words: Sequence[str] | None = None) -> None:
    """Parse the command line, measure, print and write benchmarks/results/against_public-<backbone>-<T>.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mergekit-python", type=Path, required=True, help="of the environment with mergekit")
    parser.add_argument("--backbone", choices=SHAPES, default="vit-b-32")
    parser.add_argument("--tasks", type=int, default=8)
    parser.add_argument("--recipes", default=",".join(RECIPES), help="comma between them; all")
    parser.add_argument("--rounds", type=int, default=3, help="two at least: random merges are compared in two draws")
    parser.add_argument("--threads", type=int, default=2, help="of each program")
    arguments = parser.parse_args(words)
    recipes = arguments.recipes.split(",")
    if unknown := [name for name in recipes if name not in RECIPES]:
        parser.error(f"--recipes {','.join(unknown)}: expected some of {', '.join(RECIPES)}")
    for name, least in (("tasks", 1), ("rounds", 2), ("threads", 1)):
        if getattr(arguments, name) < least:
            parser.error(f"--{name} {getattr(arguments, name)}: expected {least} at least")
    about = {name: getattr(arguments, name) for name in ("backbone", "tasks", "rounds", "threads")}
    try:
        command, versions = find_mergekit(arguments.mergekit_python)
        before = os.getloadavg()[0]
        rows = measure_all(command, recipes=recipes, **about)
    except BenchmarkError as error:
        raise SystemExit(str(error)) from error
    load = {"before": round(before, 2), "after": round(os.getloadavg()[0], 2)}
    content = {"rows": rows, "load": load, "public": versions, "start_backbone": "mini"}
    measure.write(f"against_public-{arguments.backbone}-{arguments.tasks}", about, torch.device("cpu"), content)
    for title, programs in rows.items():
        for program, row in programs.items():
            ratios = [f"{row[field]['median']:5.2f}" for field in ("seconds_ratio", "cpu_seconds_ratio")]
            print(f"{title:16} {program:24} {row['seconds']['median']:7.1f} s", *ratios, f"{row['peak_mib']:7,} MiB")


if __name__ == "__main__":
    main()
