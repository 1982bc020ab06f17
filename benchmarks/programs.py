"""The public programs that `benchmarks.against_public` compares, how they are started, and what equals what.

Both read the folders of `write_models` and write a folder with a merged model. Settings make the definitions equal:

- mergekit trims TIES tensor by tensor, so that ours does too in `ties_by_tensor`; `ties` trims over the whole model, as
  the paper does. Its DARE-TIES drops and does not trim, so that ours keeps all entries. Its DARE rescales a tensor to
  its L1 norm, ours divides by the probability, which is equal in expectation.
- FusionBench decomposes every 2-D tensor; `exclude_keys` leaves the positional embedding out, as ours does. Its TIES
  keeps one entry more of each task. Its WUDI averages what is no matrix, where the authors' code and ours keep the
  base. Its SVC calibrates the positional embedding too, and computes in float64, ours in float32. Tensors that the two
  define differently are not compared.
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
PRINT = "import sys; from importlib.metadata import version as v; print(*map(v, sys.argv[1:]))"


@dataclass(frozen=True)
class Recipe:
    """A method of a public program, its settings, and the variants of `benchmarks.merge_once` that it is timed with."""

    algorithm: str
    """mergekit's merge_method, or FusionBench's class."""
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

    def find(self, python: Path) -> dict[str, str]:
        """Return the versions of the packages next to `python`; BenchmarkError if the program is not there."""
        packages, folder = (self.package, "torch", "transformers"), f"{self.package.replace('_', '-')}-env"
        try:
            printed = subprocess.run([python, "-c", PRINT, *packages], capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            problem = error.strerror if isinstance(error, OSError) else last_line(error.stderr)
            raise BenchmarkError(
                f"{python}: {problem}; install it with `python3 -m venv {folder} && {folder}/bin/pip install "
                f"{self.package}=={self.version}` and name {folder}/bin/python"
            ) from error
        return dict(zip(packages, printed.stdout.split(), strict=True))


def last_line(text: str) -> str:
    """Return the last line of what a program printed."""
    return next(reversed(text.strip().splitlines()), "it printed nothing")


def start_mergekit(python: Path, recipe: str, models: Path, merged: Path, seed: int, threads: int) -> Sequence[Word]:
    """Write mergekit's configuration next to `merged`; return the command that reads it."""
    made, config = MERGEKIT.recipes[recipe], merged.with_suffix(".yaml")
    experts = sorted((child for child in models.iterdir() if child.name.isdigit()), key=lambda child: int(child.name))
    content = {
        "merge_method": made.algorithm,
        "dtype": "float32",
        "models": [{"model": str(expert), "parameters": dict(made.expert or {})} for expert in experts],
        "parameters": dict(made.settings),
    }
    if made.algorithm != "linear":
        content["base_model"] = str(models / "base")
    store.write_json(config, content)  # JSON is YAML
    return [python.parent / "mergekit-yaml", config, merged, "--random-seed", str(seed), "-j", str(threads), *OPTIONS]


def start_fusion_bench(
    python: Path, recipe: str, models: Path, merged: Path, seed: int, threads: int
) -> Sequence[Word]:
    """Return the command that lets FusionBench merge, without chance; the environment sets its threads."""
    del seed, threads
    made = FUSION_BENCH.recipes[recipe]
    # -P: transformers would take benchmarks/kernels.py, in the script's folder, for a package of that name.
    return [python, "-P", FUSION, f"fusion_bench.method.{made.algorithm}", json.dumps(made.settings), models, merged]


TRIMMED = {"weight": 1.0, "density": KEEP}
DROPPED = {"weight": 1.0, "density": 0.5}
MERGEKIT = Program(
    "mergekit",
    "0.1.5",
    {
        "linear": Recipe("linear", {"normalize": True}, ("average",), expert={"weight": 1.0}),
        "task_arithmetic": Recipe("task_arithmetic", {}, ("task_arithmetic",), expert={"weight": 0.3}),
        "ties": Recipe(
            "ties", {"normalize": False, "lambda": 0.3}, ("ties_by_tensor", "ties"), "ties_by_tensor", TRIMMED
        ),
        "dare_linear": Recipe("dare_linear", {"lambda": 0.3}, ("dare",), expert=DROPPED, random=True),
        "dare_ties": Recipe("dare_ties", {"lambda": 0.5}, ("dare_untrimmed_ties",), expert=DROPPED, random=True),
    },
    ("linear", "average"),
    start_mergekit,
)
SCALED = {"scaling_factor": 1.5, "exclude_keys": [POSITIONS]}
WHOLE = {"scaling_factor": 0.3, "threshold": 100 * KEEP, "remove_keys": [], "merge_func": "sum"}
FUSION_BENCH = Program(
    "fusion_bench",
    "0.2.33",
    {
        "average": Recipe("SimpleAverageAlgorithm", {}, ("average",)),
        "task_arithmetic": Recipe("TaskArithmeticAlgorithm", {"scaling_factor": 0.3}, ("task_arithmetic",)),
        "ties": Recipe("TiesMergingAlgorithm", WHOLE, ("ties",)),
        "iso_c": Recipe("ISO_C_Merge", SCALED, ("iso_c",)),
        "iso_cts": Recipe("ISO_CTS_Merge", {**SCALED, "common_space_fraction": 0.8}, ("iso_cts",)),
        "tsv_m": Recipe("TaskSingularVectorMerging", {"exclude_keys": [POSITIONS]}, ("tsv_m",)),
        "wudi": Recipe(
            "WUDIMerging",
            {"iter_num": STEPS, "exclude_keys": [POSITIONS]},
            ("wudi",),
            compared=re.compile(r"(proj|fc[12])\.weight$"),
        ),
        "task_arithmetic_svc": Recipe(
            "singular_value_calibration.task_arithmetic.SingularValueCalibrationArithmeticTask",
            {"scaling_factor": 0.3, "alpha": ALPHA},
            ("task_arithmetic_svc",),
            compared=re.compile(f"^(?!{POSITIONS})"),
        ),
    },
    ("average", "average"),
    start_fusion_bench,
)
PROGRAMS = {program.package: program for program in (MERGEKIT, FUSION_BENCH)}
