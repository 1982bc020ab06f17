"""Stages chosen at random, computed again in a clean folder: do they give the same bytes?

The folder has the code, params.yaml and the stage's inputs (hard links), nothing else. On the processor and device of
the run record the bytes must be those of dvc.lock; elsewhere floating-point sums may differ in their last bits, and
accuracies must agree within TOLERANCE points, tensors within SHARE. Training diverges with the last bit: its
checkpoints, which travel in git, are compared on the same processor alone.
"""

import os
import random
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

from pipeline.audit.finding import Finding
from pipeline.audit.repository import Repository, gather, hash_directory
from pipeline.audit.stages import Locked, read_pipelines

CODE = ("pipeline", "stages")
TOLERANCE = 0.3
"""Points of accuracy on a task; `tests/test_kernels.py` holds other kernels of one processor to the same."""
SHARE = 0.05
"""Of a tensor's largest value: how far another kind of device may be from it."""
MEASURED = "data/runs/"
"""Times and hardware: no results."""
READ = ("data/", "reports/")
"""Where the inputs of stages lie, apart from code."""


def check(repository: Repository, count: int, seed: int, scratch: Path) -> list[Finding]:
    """Compute `count` stages of dvc.lock again, chosen by `seed`; their names are printed first."""
    _, locked, _ = read_pipelines(repository)
    names = random.Random(seed).sample(sorted(locked), min(count, len(locked)))
    print(f"rerun: seed {seed} chose {', '.join(names)}", flush=True)
    return [_rerun(repository, name, locked[name], scratch / f"rerun-{index}") for index, name in enumerate(names)]


def _rerun(repository: Repository, name: str, stage: Locked, folder: Path) -> Finding:
    finding = Finding(f"rerun: {name}", "outputs computed again")
    inputs = [entry["path"] for entry in stage["deps"] if entry["path"].startswith(READ)]
    if missing := [path for path in inputs if not (repository.root / path).exists()]:
        finding.expect(False, f"cannot run without {', '.join(missing)}; dvc pull or dvc repro brings it")
        return finding
    _prepare(repository.root, inputs, folder)
    command = [sys.executable, *shlex.split(stage["cmd"])[1:]]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    process = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if process.returncode:
        finding.expect(False, f"`{stage['cmd']}` failed: {(process.stderr.strip() or 'no message').splitlines()[-1]}")
        return finding
    again = gather(folder)
    alike, where = _compare_machines(repository, again, stage)
    finding.what = f"outputs computed again {where}"
    for entry in stage["outs"]:
        if not entry["path"].startswith(MEASURED):
            _compare(finding, repository, again, entry, alike)
    return finding


def _prepare(root: Path, inputs: list[str], folder: Path) -> None:
    """Fill the folder that the stage runs in."""
    folder.mkdir(parents=True)
    shutil.copy(root / "params.yaml", folder)
    for path in CODE:
        shutil.copytree(root / path, folder / path, ignore=shutil.ignore_patterns("__pycache__"))
    for path in inputs:
        source = root / path
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, folder / path, copy_function=_link)
        else:
            _link(str(source), str(folder / path))


def _link(source: str, target: str) -> None:
    """Make a hard link, or a copy where the file system has none."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _compare_machines(repository: Repository, again: Repository, stage: Locked) -> tuple[bool, str]:
    """Return (whether bytes must be the same, in words) by both run records; without one no device matters."""
    path = next((entry["path"] for entry in stage["outs"] if entry["path"].startswith(MEASURED)), None)
    if path is None:
        return True, "to the same bytes"
    before, now = repository.json(path), again.json(path)
    if before is None:
        return False, f"within {TOLERANCE} points (the run's device is not recorded)"
    devices = [f"{record['device']}, {record['processor']}" for record in (before, now)]
    if devices[0] == devices[1]:
        return True, f"to the same bytes, on the same kind of device ({devices[1]})"
    return False, f"within {TOLERANCE} points, as the run was on {devices[0]} and this is {devices[1]}"


def _compare(finding: Finding, repository: Repository, again: Repository, entry: Locked, alike: bool) -> None:
    path, md5 = entry["path"], entry["md5"]
    if alike:
        members, stamp = again.members(path), again.stamps.get(path)
        computed = hash_directory(members) if members else stamp and stamp.md5
        finding.expect(computed == md5, f"{path} came out with other bytes ({computed}, dvc.lock has {md5})")
    elif path.startswith("data/checkpoints/"):
        finding.skip(f"{path}: training on another processor gives other weights")
    elif path.startswith("data/scores/") and repository.text(path) is not None:
        before, now = _accuracies(repository, path), _accuracies(again, path)
        for key, value in before.items():
            near = abs(now.get(key, float("inf")) - value) <= TOLERANCE
            finding.expect(near, f"{path}: {' '.join(key)} {value:.2f} came out as {now.get(key)}")
    else:
        files = again.names(path, ".safetensors")
        for name in files:
            before, now = repository.tensors(name) or {}, again.tensors(name) or {}
            for key in sorted(before.keys() | now.keys()):
                near = key in before and key in now and _is_near(before[key], now[key])
                finding.expect(near, f"{name}: {key} is not within {SHARE:.0%} of what it was")
        if not files:
            finding.skip(f"{path}: no bytes to compare on another device")


def _is_near(before: np.ndarray, now: np.ndarray) -> bool:
    """Return whether the largest difference is a small share of the largest value."""
    if before.shape != now.shape or not before.size:
        return before.shape == now.shape
    return float(np.abs(before.astype(float) - now).max()) <= SHARE * float(np.abs(before.astype(float)).max())


def _accuracies(repository: Repository, path: str) -> dict[tuple[str, str], float]:
    rows = repository.rows(path) or ()
    return {(row["task"], row["seed"]): 100 * int(row["correct"]) / int(row["total"]) for row in rows}
