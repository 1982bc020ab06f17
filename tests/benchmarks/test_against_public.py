"""The comparison with mergekit runs, with a stand-in for it, compares what both wrote, and says what is missing."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import against_public, measure, readme
from benchmarks.against_public import Cost, main, merge_ours, summarise, write_models
from benchmarks.merge_once import VARIANTS, merge_models, open_models
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


@pytest.fixture
def stand_in(tmp_path: Path) -> Callable[..., Path]:
    """Make an environment with a stand-in for mergekit that merges linearly; the path of its interpreter."""

    def make(factor: float = 1.0) -> Path:
        folder = tmp_path / "environment"
        for name in ("mergekit", "torch", "transformers"):
            metadata = folder / "site" / f"{name}-9.{len(name)}.dist-info" / "METADATA"
            metadata.parent.mkdir(parents=True)
            metadata.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 9.{len(name)}\n")
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


def run_linear(python: Path, results: Path) -> dict[str, Any]:
    """Compare the linear merges of two experts; the content of the result."""
    words = ["--backbone", "mini", "--tasks", "2", "--rounds", "2", "--threads", "1", "--recipes", "linear"]
    main(["--mergekit-python", str(python), *words])
    return json.loads((results / "against_public-mini-2.json").read_text("utf-8"))


def test_both_programs_are_measured_and_agree(
    stand_in: Callable[..., Path], results: Path, capsys: pytest.CaptureFixture[str]
):
    found = run_linear(stand_in(), results)
    assert found["arguments"] == {"backbone": "mini", "tasks": 2, "rounds": 2, "threads": 1}
    assert found["public"] == {"mergekit": "9.8", "torch": "9.5", "transformers": "9.12"}
    assert {"before", "after"} == found["load"].keys()
    assert {"device", "cores", "torch"} <= found.keys()
    linear = found["rows"]["linear"]
    assert {*found["rows"]["start"]} == {"mergekit", "average"}
    assert {*linear} == {"mergekit", "average"}
    agreement = linear["average"]["agreement"]
    assert agreement["largest_relative_difference"] < 1e-6
    assert agreement["entries"] == 6 * 12 + 6 + 4 * 6
    assert linear["average"]["seconds"]["median"] == 1
    assert linear["average"]["peak_mib"] == 300
    theirs = linear["mergekit"]
    assert theirs["seconds_ratio"] == {"median": 1, "min": 1, "max": 1}
    assert 0 < theirs["cpu_seconds"]["min"] <= theirs["cpu_seconds"]["max"]
    assert theirs["peak_mib"] > 10
    assert "average" in capsys.readouterr().out
    table = readme.performance(results)
    assert "Data-free merges as commands" in table
    assert table.count("| mini, T = 2 | linear | average") == 1


def test_a_difference_is_reported(stand_in: Callable[..., Path], results: Path):
    found = run_linear(stand_in(factor=1.01), results)
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
        main(["--mergekit-python", str(stand_in()), "--backbone", "mini", "--threads", "1", "--recipes", "ties"])
    assert not results.exists()


@pytest.mark.parametrize(("words", "why"), [
    (["--recipes", "linear,slerp"], "--recipes slerp: expected some of linear, task_arithmetic"),
    (["--rounds", "1"], "--rounds 1: expected 2 at least"),
    (["--tasks", "0"], "--tasks 0: expected 1 at least"),
])  # fmt: skip
def test_wrong_arguments_are_named(words: list[str], why: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main(["--mergekit-python", sys.executable, *words])
    assert why in capsys.readouterr().err


def test_without_mergekit_a_line_says_how_to_install_it(tmp_path: Path):
    with pytest.raises(SystemExit) as raised:
        main(["--mergekit-python", str(tmp_path / "python")])
    message = str(raised.value)
    assert "\n" not in message
    assert f"--mergekit-python {tmp_path / 'python'}: there is no mergekit-yaml next to it" in message
    assert f"mergekit-env/bin/pip install mergekit=={against_public.MERGEKIT}" in message


def test_an_environment_without_the_package_is_named(stand_in: Callable[..., Path], tmp_path: Path):
    python = stand_in()
    shutil.rmtree(tmp_path / "environment/site/mergekit-9.8.dist-info")
    with pytest.raises(BenchmarkError, match="PackageNotFoundError"):
        against_public.find_mergekit(python)
