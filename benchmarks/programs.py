"""The public programs that `benchmarks.against_public` compares, how they are started, and what equals what.

Both read the folders of `write_models` and write a folder with a merged model. Settings make the definitions equal:

- mergekit trims TIES tensor by tensor, so that ours does too in `ties_by_tensor`; `ties` trims over the whole model, as
  the paper does. Its DARE-TIES drops and does not trim, so that ours keeps all entries. Its DARE rescales a tensor to
  its L1 norm, ours divides by the probability, which is equal in expectation.
- FusionBench decomposes every 2-D tensor; `exclude_keys` leaves the positional embedding out, as ours does. Its WUDI
  averages what is no matrix, where the authors' code and ours keep the base; its SVC calibrates the positional
  embedding. What is defined otherwise is not compared. Its TIES keeps one entry more of each task.
"""

import json
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.merge_once import ALPHA, KEEP, STEPS
from pipeline.runtime import store
from pipeline.runtime.errors import BenchmarkError

Word = str | Path
OPTIONS = ("--no-copy-tokenizer", "--no-write-model-card", "--quiet")
POSITIONS = "embeddings.position_embedding.weight"
FUSION = Path(__file__).with_name("fusion_bench_once.py")
PRINT_VERSIONS = "import sys; from importlib.metadata import version as v; print(*map(v, sys.argv[1:]))"


@dataclass(frozen=True)
class Recipe:
    """A method of a public program, its settings, and the variants of `benchmarks.merge_once` that it is timed with."""

    settings: Mapping[str, Any]
    ours: Sequence[str]
    equal: str | None = None
    """The variant whose definition is the same; None: all."""
    expert: Mapping[str, float] | None = None
    """mergekit's settings of every expert."""
    random: bool = False
    compared: re.Pattern[str] = re.compile("")
    """The tensors whose definition is the same."""


@dataclass(frozen=True)
class Program:
    """A public program, and the command that makes it merge."""

    package: str
    version: str
    """The version that was compared."""
    recipes: Mapping[str, Recipe]
    start: tuple[str, str]
    """The recipe and the variant that show what starting takes, on small models."""
    command: Callable[[Path, str, Path, Path, int, int], Sequence[Word]]
    """(python, recipe, models, merged, seed, threads) -> words."""

    @property
    def environment(self) -> str:
        """The environment of the instructions."""
        return f"{self.package.replace('_', '-')}-env"

    def find(self, python: Path) -> dict[str, str]:
        """Return the versions of the packages next to `python`; BenchmarkError if the program is not there."""
        install = f"`python3 -m venv {self.environment} && {self.environment}/bin/pip install "
        install += f"{self.package}=={self.version}` and name {self.environment}/bin/python"
        if not python.is_file():
            raise BenchmarkError(f"{python}: there is no such file; install it with {install}")
        packages = (self.package, "torch", "transformers")
        printed = subprocess.run([python, "-c", PRINT_VERSIONS, *packages], capture_output=True, text=True, check=False)
        if printed.returncode:
            raise BenchmarkError(
                f"{python}: {last_line(printed.stderr)}: it has no {self.package}; install it with {install}"
            )
        return dict(zip(packages, printed.stdout.split(), strict=True))


def last_line(text: str) -> str:
    """Return the last line of what a program printed."""
    return next(reversed(text.strip().splitlines()), "it printed nothing")


def start_mergekit(python: Path, recipe: str, models: Path, merged: Path, seed: int, threads: int) -> Sequence[Word]:
    """Write mergekit's configuration next to `merged`; return the command that reads it."""
    made, config = MERGEKIT.recipes[recipe], merged.with_suffix(".yaml")
    experts = sorted((child for child in models.iterdir() if child.name.isdigit()), key=lambda child: int(child.name))
    content = {
        "merge_method": recipe,
        "dtype": "float32",
        "models": [{"model": str(expert), "parameters": dict(made.expert or {})} for expert in experts],
        "parameters": dict(made.settings),
    }
    if recipe != "linear":
        content["base_model"] = str(models / "base")
    store.write_json(config, content)  # JSON is YAML
    command = python.absolute().parent / "mergekit-yaml"  # absolute, not resolved: an environment's python is a link
    return [command, config, merged, "--random-seed", str(seed), "-j", str(threads), *OPTIONS]


def start_fusion_bench(python: Path, recipe: str, models: Path, merged: Path, _: int, __: int) -> Sequence[Word]:
    """Return the command that lets FusionBench merge."""
    return [python, FUSION, ALGORITHMS[recipe], json.dumps(dict(FUSION_BENCH.recipes[recipe].settings)), models, merged]


MERGEKIT = Program(
    "mergekit",
    "0.1.5",
    {
        "linear": Recipe({"normalize": True}, ("average",), expert={"weight": 1.0}),
        "task_arithmetic": Recipe({}, ("task_arithmetic",), expert={"weight": 0.3}),
        "ties": Recipe(
            {"normalize": False, "lambda": 0.3},
            ("ties_by_tensor", "ties"),
            "ties_by_tensor",
            expert={"weight": 1.0, "density": KEEP},
        ),
        "dare_linear": Recipe({"lambda": 0.3}, ("dare",), expert={"weight": 1.0, "density": 0.5}, random=True),
        "dare_ties": Recipe(
            {"lambda": 0.5}, ("dare_untrimmed_ties",), expert={"weight": 1.0, "density": 0.5}, random=True
        ),
    },
    ("linear", "average"),
    start_mergekit,
)
FUSION_BENCH = Program(
    "fusion_bench",
    "0.2.33",
    {
        "simple_average": Recipe({}, ("average",)),
        "task_arithmetic": Recipe({"scaling_factor": 0.3}, ("task_arithmetic",)),
        "ties": Recipe(
            {"scaling_factor": 0.3, "threshold": 100 * KEEP, "remove_keys": [], "merge_func": "sum"}, ("ties",)
        ),
        "iso_c": Recipe({"scaling_factor": 1.5, "exclude_keys": [POSITIONS]}, ("iso_c",)),
        "iso_cts": Recipe(
            {"scaling_factor": 1.5, "common_space_fraction": 0.8, "exclude_keys": [POSITIONS]}, ("iso_cts",)
        ),
        "tsv_m": Recipe({"exclude_keys": [POSITIONS]}, ("tsv_m",)),
        "wudi": Recipe(
            {"iter_num": STEPS, "exclude_keys": [POSITIONS]}, ("wudi",), compared=re.compile(r"(proj|fc[12])\.weight$")
        ),
        "task_arithmetic_svc": Recipe(
            {"scaling_factor": 0.3, "alpha": ALPHA}, ("task_arithmetic_svc",), compared=re.compile(f"^(?!{POSITIONS})")
        ),
    },
    ("simple_average", "average"),
    start_fusion_bench,
)
ALGORITHMS = {
    "simple_average": "fusion_bench.method.SimpleAverageAlgorithm",
    "task_arithmetic": "fusion_bench.method.TaskArithmeticAlgorithm",
    "ties": "fusion_bench.method.TiesMergingAlgorithm",
    "iso_c": "fusion_bench.method.ISO_C_Merge",
    "iso_cts": "fusion_bench.method.ISO_CTS_Merge",
    "tsv_m": "fusion_bench.method.TaskSingularVectorMerging",
    "wudi": "fusion_bench.method.WUDIMerging",
    "task_arithmetic_svc": (
        "fusion_bench.method.singular_value_calibration.task_arithmetic.SingularValueCalibrationArithmeticTask"
    ),
}
PROGRAMS = {program.package: program for program in (MERGEKIT, FUSION_BENCH)}
