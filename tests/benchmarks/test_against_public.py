"""The comparison with public programs runs, with stand-ins, compares what both wrote, and says what is missing."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import against_public, measure, programs, readme
from benchmarks.against_public import Cost, compare, main, merge_ours, summarise, write_models
from benchmarks.merge_once import KEEP, VARIANTS, merge_models, open_models
from pipeline.runtime import store
from pipeline.runtime.errors import BenchmarkError
from tests.support import toy

MERGEKIT = """#!{python}
import json, os, sys
from pathlib import Path
from safetensors.numpy import load_file, save_file

config, out, *options = sys.argv[1:]
assert options[:4] == ["--random-seed", options[1], "-j", "1"] and os.environ["HF_HUB_OFFLINE"] == "1"
config = json.loads(Path(config).read_text())
if config["merge_method"] != "linear":
    sys.exit("Traceback\\nunknown merge method " + config["merge_method"])
assert config["parameters"] == {{"normalize": True}} and config["dtype"] == "float32"
models = [load_file(Path(model["model"]) / "model.safetensors") for model in config["models"]]
weights = [model["parameters"]["weight"] / len(models) for model in config["models"]]
Path(out).mkdir()
merged = {{name: {factor} * sum(w * m[name] for w, m in zip(weights, models)) for name in models[0]}}
save_file(merged, Path(out) / "model.safetensors")
"""
FUSION_BENCH = """
import importlib.util, sys
assert importlib.util.find_spec("kernels") is None, "transformers would take benchmarks/kernels.py for a package"
from pathlib import Path
from safetensors.numpy import load_file, save_file

class BaseModelPool:
    def __init__(self, models):
        assert all(model["_target_"] == "transformers.CLIPVisionModel.from_pretrained" for model in models.values())
        self.paths = {name: Path(model["pretrained_model_name_or_path"]) for name, model in models.items()}

class SimpleAverageAlgorithm:
    def run(self, pool):
        assert [*pool.paths] == ["0", "1", "_pretrained_"] and pool.paths["_pretrained_"].name == "base"
        first, second = (load_file(pool.paths[name] / "model.safetensors") for name in "01")
        self.merged = {name: (first[name] + second[name]) / 2 for name in first}
        return self

    def save_pretrained(self, folder):
        Path(folder).mkdir()
        save_file(self.merged, Path(folder) / "model.safetensors")

sys.modules["fusion_bench.method"] = sys.modules["fusion_bench"]
"""


@pytest.fixture
def stand_in(tmp_path: Path) -> Callable[..., Path]:
    """Make an environment with stand-ins for the programs, which merge linearly; the path of its interpreter."""

    def make(factor: float = 1.0) -> Path:
        folder = tmp_path / "environment"
        for name in ("mergekit", "fusion_bench", "torch", "transformers"):
            metadata = folder / "site" / f"{name}-9.{len(name)}.dist-info" / "METADATA"
            metadata.parent.mkdir(parents=True)
            metadata.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 9.{len(name)}\n")
        (folder / "site" / "fusion_bench.py").write_text(FUSION_BENCH)
        (folder / "bin").mkdir()
        python = folder / "bin" / "python"
        python.write_text(f'#!/bin/sh\nPYTHONPATH={folder / "site"} exec {sys.executable} "$@"\n')
        command = folder / "bin" / "mergekit-yaml"
        command.write_text(MERGEKIT.format(python=sys.executable, factor=factor))
        for path in (python, command):
            path.chmod(0o755)
        return python

    return make


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of results; models are toys, and all but the stand-in's merges run in this process."""

    def write_toys(folder: Path, backbone: str, tasks: int) -> None:
        base, experts = toy.models(tasks, torch.float32)
        for name, weights in zip(("base", *range(tasks)), (base, *experts), strict=True):
            store.write_tensors(folder / str(name) / "model.safetensors", weights)

    def merge_here(variant: str, models: Path, merged: Path, seed: int, threads: int) -> Cost:
        weights = merge_models(VARIANTS[variant], *open_models(models), seed)
        store.write_tensors(merged / "model.safetensors", weights)
        return Cost(seconds=1.0, cpu_seconds=2.0, peak_mib=300)

    monkeypatch.setattr(measure, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(measure, "apart", lambda function, *arguments: (function(*arguments), 0))
    monkeypatch.setattr(against_public, "write_models", write_toys)
    monkeypatch.setattr(against_public, "merge_ours", merge_here)
    return tmp_path / "results"


def run_linear(package: str, recipe: str, python: Path, results: Path) -> dict[str, Any]:
    """Compare the linear merges of two experts; the content of the result."""
    words = ["--backbone", "mini", "--tasks", "2", "--rounds", "2", "--threads", "1", "--recipes", recipe]
    main([package, str(python), *words])
    return json.loads((results / f"against_public-{package}-mini-2.json").read_text("utf-8"))


@pytest.mark.parametrize(("package", "recipe"), [("mergekit", "linear"), ("fusion_bench", "average")])
def test_both_programs_are_measured_and_agree(
    stand_in: Callable[..., Path], results: Path, capsys: pytest.CaptureFixture[str], package: str, recipe: str
):
    found = run_linear(package, recipe, stand_in(), results)
    assert found["arguments"] == {"package": package, "backbone": "mini", "tasks": 2, "rounds": 2, "threads": 1}
    assert found["public"] == {package: f"9.{len(package)}", "torch": "9.5", "transformers": "9.12"}
    assert {"before", "after"} == found["load"].keys()
    assert {"device", "cores", "torch"} <= found.keys()
    linear = found["rows"][recipe]
    assert {*found["rows"]["start"]} == {"theirs", "average"}
    assert {*linear} == {"theirs", "average"}
    agreement = linear["average"]["agreement"]
    assert agreement["largest_relative_difference"] < 1e-6
    assert agreement["entries"] == 6 * 12 + 6 + 4 * 6
    assert linear["average"]["seconds"]["median"] == 1
    assert linear["average"]["peak_mib"] == 300
    theirs = linear["theirs"]
    assert theirs["seconds_ratio"] == {"median": 1, "min": 1, "max": 1}
    assert 0 < theirs["cpu_seconds"]["min"] <= theirs["cpu_seconds"]["max"]
    assert theirs["peak_mib"] > 10
    assert "average" in capsys.readouterr().out
    table = readme.performance(results)
    assert "Data-free merges as commands" in table
    assert table.count(f"| mini, T = 2 | {package} 9.{len(package)} | {recipe} | average") == 1


def test_a_difference_is_reported(stand_in: Callable[..., Path], results: Path):
    found = run_linear("mergekit", "linear", stand_in(factor=1.01), results)
    difference = found["rows"]["linear"]["average"]["agreement"]["largest_relative_difference"]
    assert difference == pytest.approx(0.01 / 1.01, rel=1e-3)


def test_ratios_are_taken_round_by_round():
    ours, theirs = ([Cost(*numbers) for numbers in rows] for rows in ([(2, 3, 9), (8, 9, 7)], [(4, 6, 1), (4, 3, 1)]))
    summary = summarise(ours, theirs)
    assert summary["seconds_ratio"] == {"median": 1.25, "min": 0.5, "max": 2}
    assert summary["cpu_seconds_ratio"] == {"median": 1.75, "min": 0.5, "max": 3}
    assert summary["seconds"] == {"median": 5, "min": 2, "max": 8}
    assert summary["peak_mib"] == 9


@pytest.mark.long
def test_our_command_merges_as_the_function_does(tmp_path: Path):
    write_models(tmp_path, "mini", 2)
    cost = merge_ours("dare", tmp_path, tmp_path / "merged", seed=3, threads=1)
    merged = store.TensorFile(tmp_path / "merged" / "model.safetensors")
    assert toy.same(dict(merged), dict(sorted(merge_models(VARIANTS["dare"], *open_models(tmp_path), 3).items())))
    assert cost.peak_mib > 100
    assert cost.cpu_seconds > 0.1


def test_a_failing_merge_is_named_with_its_last_line(stand_in: Callable[..., Path], results: Path):
    with pytest.raises(SystemExit, match="exit status 1: unknown merge method ties"):
        main(["mergekit", str(stand_in()), "--backbone", "mini", "--threads", "1", "--recipes", "ties"])
    assert not results.exists()


@pytest.mark.parametrize(("words", "why"), [
    (["--recipes", "linear,slerp"], "--recipes slerp: expected some of linear, task_arithmetic"),
    (["--rounds", "1"], "--rounds 1: expected 2 at least"),
    (["--tasks", "0"], "--tasks 0: expected 1 at least"),
])  # fmt: skip
def test_wrong_arguments_are_named(words: list[str], why: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main(["mergekit", sys.executable, *words])
    assert why in capsys.readouterr().err


@pytest.mark.parametrize("package", programs.PROGRAMS)
def test_without_the_program_a_line_says_how_to_install_it(package: str, tmp_path: Path):
    with pytest.raises(SystemExit) as raised:
        main([package, str(tmp_path / "python")])
    message = str(raised.value)
    assert "\n" not in message
    assert f"{tmp_path / 'python'}: No such file or directory; install it with `python3 -m venv " in message
    assert f"-env/bin/pip install {package}=={programs.PROGRAMS[package].version}`" in message


def test_an_environment_without_the_package_is_named(stand_in: Callable[..., Path], tmp_path: Path):
    python = stand_in()
    shutil.rmtree(tmp_path / "environment/site/mergekit-9.8.dist-info")
    with pytest.raises(BenchmarkError, match=r"PackageNotFoundError.*mergekit; install it with `python3"):
        programs.MERGEKIT.find(python)


def test_every_recipe_names_variants():
    for program in programs.PROGRAMS.values():
        for recipe in program.recipes.values():
            assert VARIANTS.keys() >= {*recipe.ours}
            assert recipe.equal is None or recipe.equal in recipe.ours


def write_ties(folder: Path, change: float) -> Path:
    """Write models, and their TIES as FusionBench has it, which keeps one entry more of each task."""
    rng = torch.Generator().manual_seed(0)
    base, *experts = ({"a": torch.randn(8, 10, generator=rng), "b": torch.randn(16, generator=rng)} for _ in range(3))
    vectors = [torch.cat([(expert[name] - base[name]).flatten() for name in base]) for expert in experts]
    kept = [torch.where(v.abs() >= v.abs().kthvalue(len(v) - int(KEEP * len(v))).values, v, 0.0) for v in vectors]
    total = torch.stack(kept).sum(0)
    delta = 0.3 * sum(torch.where(v * total > 0, v, 0.0) for v in kept)
    pieces = delta.split([tensor.numel() for tensor in base.values()])
    merged = {name: base[name] + piece.view(base[name].shape) for name, piece in zip(base, pieces, strict=True)}
    for name, weights in zip(("base", "0", "1"), (base, *experts), strict=True):
        store.write_tensors(folder / "models" / name / "model.safetensors", weights)
    merged[next(iter(base))] += change
    store.write_tensors(folder / "ties-theirs-0" / "model.safetensors", merged)
    ours = merge_models(VARIANTS["ties"], base, experts, 0)
    store.write_tensors(folder / "ties-ties-0" / "model.safetensors", ours)
    return folder


@pytest.mark.parametrize("change", [0.0, 0.25])
def test_ties_that_keeps_one_entry_more_agrees_but_for_that_entry(tmp_path: Path, change: float):
    agreement = compare(write_ties(tmp_path, change), "fusion_bench", "ties", "ties")
    assert agreement is not None
    assert agreement["undecided_entries"] == 2
    assert (agreement["largest_relative_difference"] > 1e-3) == bool(change)


def test_only_tensors_with_one_definition_are_compared(tmp_path: Path):
    weights = {"layers.0.fc1.weight": torch.ones(2, 2), "layers.0.fc1.bias": torch.ones(2)}
    for name, factor in (("models/base", 1.0), ("wudi-wudi-0", 2.0), ("wudi-theirs-0", 2.0)):
        scaled = {key: factor * tensor for key, tensor in weights.items()}
        if name == "wudi-theirs-0":
            scaled["layers.0.fc1.bias"] += 1
        store.write_tensors(tmp_path / name / "model.safetensors", scaled)
    agreement = compare(tmp_path, "fusion_bench", "wudi", "wudi")
    assert agreement == {"largest_relative_difference": 0.0, "undecided_entries": 0, "entries": 4}
