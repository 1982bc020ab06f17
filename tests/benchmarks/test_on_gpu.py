"""The run for a GPU: dry runs on the CPU with a tiny encoder, and the parts on a pretended GPU."""

import importlib
import json
import os
import subprocess
import sys
import time
import tomllib
import zipfile
from collections.abc import Sequence
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import data_free, gpu_parts, on_gpu, readme
from benchmarks.gpu_rows import PRECISIONS, TINY, Run, goal
from tests.support import toy
from tests.support.pretend_gpu import GPU, pretended

SCRIPT = toy.ROOT / "benchmarks/on_gpu.sh"
DRY = ("--device", "cpu", "--tiny")
FIELDS = {"arguments", "cores", "device", "finished", "part", "python", "rows", "seconds", "system", "torch"}
DRIVER = {
    "synchronize": lambda _: None,
    "empty_cache": lambda: None,
    "reset_peak_memory_stats": lambda _: None,
    "max_memory_reserved": lambda _: 1 << 21,
    "is_bf16_supported": lambda: True,
}
"""What the parts ask CUDA's driver, and the answers of a pretended GPU."""
MODULES = {"open_clip_torch": "open_clip", "scikit-learn": "sklearn", "scikit-image": "skimage"}
"""{package: module} where the names differ."""


def start(arguments: Sequence[object], **variables: str) -> subprocess.Popen[str]:
    """Start the script with this interpreter and these variables."""
    environment = {**os.environ, "PYTHON": sys.executable, "SAMERGING_WORKERS": "1", **variables}
    command = [str(SCRIPT), *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(arguments: Sequence[object], **variables: str) -> tuple[int, str]:
    """Run the script; its exit status and what it printed."""
    process = start(arguments, **variables)
    printed = process.communicate()[0]
    return process.returncode, printed


def read(out: Path, part: str) -> dict[str, Any]:
    """The result of a part."""
    return json.loads((out / f"on_gpu-{part}.json").read_text("utf-8"))


def bare_interpreter(folder: Path, without: str) -> dict[str, str]:
    """Variables that name an interpreter with every package of this one but one."""
    interpreter, packages = folder / "python", folder / "packages"
    interpreter.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    interpreter.chmod(0o755)
    packages.mkdir()
    for path in Path(torch.__file__).parents[1].iterdir():
        if not path.name.startswith(without):
            (packages / path.name).symlink_to(path)
    return {"PYTHON": str(interpreter), "PYTHONPATH": str(packages)}


def pack(package: str, folder: Path) -> None:
    """Pack an installed package of pure Python as a wheel."""
    installed = distribution(package)
    folder.mkdir()
    with zipfile.ZipFile(folder / f"{package}-{installed.version}-py3-none-any.whl", "w") as wheel:
        for file in installed.files or ():
            if ".." not in file.parts and file.suffix != ".pyc":
                wheel.write(str(file.locate()), str(file))


@pytest.mark.long
def test_a_dry_run_measures_every_part_with_few_packages(tmp_path: Path):
    project = tomllib.loads((toy.ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    declared = {line.partition(">")[0] for line in project["dependencies"]}
    for package in declared - {*on_gpu.PACKAGES.values(), "torch"}:
        (tmp_path / f"{MODULES.get(package, package)}.py").write_text("raise ImportError('absent')")
    out = tmp_path / "out"
    status, printed = finish([*DRY, "--out", out], PYTHONPATH=str(tmp_path))
    assert status == 0, printed
    results = {part: read(out, part) for part in on_gpu.PARTS}
    assert {path.name for path in out.iterdir()} == {f"on_gpu-{part}.json" for part in on_gpu.PARTS}
    for part, content in results.items():
        assert content.keys() >= FIELDS
        assert content["finished"]
        assert content["arguments"]["small"] == "tiny"
        assert all(f"  {name}: " in printed for name in content["rows"])
        assert (f"{part}, " in printed) == any(row["targets"] for row in content["rows"].values())
    for part in ("step-b32", "step-l14"):
        assert {*results[part]["rows"]} == {f"tiny, {size} x 2, {name}" for size in (2, 3) for name in PRECISIONS}
        for row in results[part]["rows"].values():
            assert {*row["seconds"]} == {"floor", "plain", "sam", "graph"}
            assert [target["name"] for target in row["targets"]] == ["plain / floor", "SAM / plain", "graph / plain"]
            assert {"median", "min", "max"} == {*row["targets"][0]["value"]}
    target = results["step-b32"]["rows"]["tiny, 2 x 2, float32"]["targets"][0]["text"]
    assert f"| step-b32 | tiny, 2 x 2, float32 | {target} |" in readme.performance(out)
    assert {*results["thousand"]["rows"]} == {*PRECISIONS}
    assert results["thousand"]["rows"]["float32"]["steps"] == 1
    assert {*results["memory"]["rows"]} == {"bfloat16", "float32"}
    assert results["evaluation"]["rows"]["tiny"]["images_per_second"]["pipeline"] > 0
    for tasks in (2, 3):
        titles = {f"{name}, T = {tasks}, 1 of 1 blocks" for name in data_free.METHODS}
        assert titles <= {*results["data-free"]["rows"]}
    agreed = results["agreement"]["rows"]
    assert {f"merge, {name}" for name in data_free.METHODS} <= {*agreed}
    assert agreed["step, float32"]["gradient"] < 1e-5 < agreed["step, bfloat16"]["gradient"]
    assert agreed["step, float32"]["gradient_to_graph"] < 1e-5
    assert agreed["merge, ties"]["delta"] == agreed["20 steps of SAMerging"]["losses"] == 0


@pytest.mark.long
def test_a_run_that_is_killed_keeps_what_it_has_measured(tmp_path: Path):
    (tmp_path / "on_gpu-evaluation.json").mkdir()  # so that this part cannot write
    process = start([*DRY, "--out", tmp_path, "--parts", "evaluation,memory,data-free"])
    path = tmp_path / "on_gpu-data-free.json"
    while process.poll() is None and not path.exists():
        time.sleep(0.01)
    process.kill()
    printed = process.communicate()[0]
    assert "evaluation: failed; the rows it had written stay" in printed
    assert read(tmp_path, "memory")["finished"]
    assert not read(tmp_path, "data-free")["finished"]
    assert read(tmp_path, "data-free")["rows"]


def test_a_run_goes_on_after_a_failure_and_stops_at_its_budget(tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch):
    clock, codes = iter(range(0, 1000, 10)), {"step-b32": 1, "thousand": None, "memory": 0}

    def run_apart(_: object, *arguments: Any, until: float | None = None) -> int | None:
        return codes[arguments[0]] if arguments else 0

    monkeypatch.setattr(on_gpu, "run_apart", run_apart)
    monkeypatch.setattr(on_gpu.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(sys, "argv", ["on_gpu", *DRY, "--out", str(tmp_path), "--budget", "35"])
    assert on_gpu.run(on_gpu.parse()) == 1
    printed = capsys.readouterr().out
    assert "step-b32: failed; the rows it had written stay" in printed
    assert f"thousand: ended {on_gpu.GRACE} s after the budget" in printed
    assert "\nmemory: peak memory" in printed
    assert "agreement: not started, 40 of 35 s are over" in printed
    assert printed.endswith("Failed: step-b32\n")


@pytest.mark.long
def test_a_missing_package_is_named_and_taken_from_wheels(tmp_path: Path):
    variables = bare_interpreter(tmp_path, "tqdm")
    arguments = [*DRY, "--out", tmp_path / "out", "--budget", "0"]
    status, printed = finish(arguments, **variables)
    assert status == 1
    assert "lacks tqdm. On a machine with a network run" in printed
    assert "--dest wheels tqdm" in printed
    assert "--wheels wheels" in printed
    (tmp_path / "empty").mkdir()
    status, printed = finish([*arguments, "--wheels", tmp_path / "empty"], **variables)
    assert status == 1
    assert f"--wheels {tmp_path / 'empty'}: pip could not install tqdm from this folder" in printed
    pack("tqdm", tmp_path / "wheels")
    status, printed = finish([*arguments, "--wheels", tmp_path / "wheels"], **variables)
    assert status == 0, printed
    assert f"torch {torch.__version__}" in printed
    assert all(f"{part}: not started" in printed for part in on_gpu.PARTS)
    assert not (tmp_path / "out").exists()


def test_all_missing_packages_are_named_at_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(on_gpu, "find_spec", lambda _: None)
    assert on_gpu.missing_packages() == [*on_gpu.PACKAGES.values()]
    assert "lacks numpy, psutil, pydantic, ruamel.yaml, safetensors, scipy, tqdm." in on_gpu.explain(
        on_gpu.missing_packages()
    )
    assert f"torch 2.9 or later is needed, {sys.executable} has none" in str(on_gpu.torch_problem())


@pytest.mark.parametrize(("installed", "wrong"), [("2.8.1+cu126", True), ("2.9.0", False), ("2.11.0+cu130", False)])
def test_an_old_torch_is_named(installed: str, wrong: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(on_gpu, "version", lambda _: installed)
    problem = on_gpu.torch_problem()
    assert (problem is not None) == wrong
    assert not wrong or str(problem).endswith(f"has {installed}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--parts", "memory,speed"], "--parts speed: expected some of step-b32, thousand"),
        (["--tiny"], "--tiny measures nothing worth keeping: name a folder for its results with --out"),
        (["--wheels", "/nowhere"], "--wheels /nowhere: no such folder"),
    ],
)
def test_a_wrong_argument_is_named(arguments: list[str], message: str, capsys, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "argv", ["on_gpu", *arguments])
    with pytest.raises(SystemExit):
        on_gpu.parse()
    assert message in capsys.readouterr().err


def test_a_missing_gpu_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SAMERGING_DEVICE", "cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="on_gpu: --device: SAMERGING_DEVICE='cuda': this machine has no CUDA device"):
        on_gpu.print_machine()


def test_a_target_is_met_on_its_side_of_the_limit():
    spread = {"median": 1.04, "min": 1.0, "max": 1.2}
    assert goal("ratio", spread, "at most", 1.05)["met"]
    assert not goal("ratio", spread, "at least", 1.05)["met"]
    assert goal("ratio", 1.06, "at most", 1.05)["text"] == "ratio 1.06, target at most 1.05: NOT MET"
    assert goal("ratio", spread, "at most", 1.05)["text"] == "ratio 1.04 (1 to 1.2), target at most 1.05: met"


@pytest.mark.long
def test_every_part_keeps_its_tensors_on_the_gpu(monkeypatch: pytest.MonkeyPatch):
    importlib.import_module("torch._dynamo")  # Adam would import it, and it annotates with torch.Generator
    generator = torch.Generator
    monkeypatch.setattr(data_free, "METHODS", ("average", "ties", "emr"))
    for name, replacement in DRIVER.items():
        monkeypatch.setattr(f"torch.cuda.{name}", replacement)
    monkeypatch.setattr(torch, "Generator", lambda *_: generator())
    with pretended():
        run = Run(TINY, GPU, time.monotonic() + 1e6)
        rows = {part: dict(measure(run)) for part, measure in gpu_parts.PARTS.items()}
    assert rows["memory"]["float32"]["reserved_mib"] == 2
    assert rows["agreement"]["merge, emr"]["delta"] == 0
    assert len(rows["data-free"]) == 6
