"""Stages chosen at random, computed again in a clean folder: do they give the same bytes?

The folder has the code, params.yaml and the stage's inputs (hard links), nothing else. On the processor and device of
the run record the bytes must be those of dvc.lock; elsewhere floating-point sums may differ in their last bits, and
accuracies must agree within TOLERANCE points, tensors within SHARE. Training diverges with the last bit: its
checkpoints, which travel in git, are compared on the same processor alone.
"""

import csv
import io
import os
import random
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.audit.finding import Finding, Tally
from pipeline.audit.lock import directory
from pipeline.audit.repository import Repository, gather, stamp
from pipeline.audit.stages import pipelines

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
    """One finding for each of `count` stages of dvc.lock; what was chosen is printed first."""
    _, locked, _ = pipelines(repository)
    names = sorted(locked)
    chosen = random.Random(seed).sample(names, min(count, len(names)))
    print(f"rerun: seed {seed} chose {', '.join(chosen)}", flush=True)
    folders = [scratch / f"rerun-{index}" for index in range(len(chosen))]
    return [_stage(repository, name, locked[name], folder) for name, folder in zip(chosen, folders, strict=True)]


def _stage(repository: Repository, name: str, locked: Mapping[str, Any], folder: Path) -> Finding:
    tally = Tally(f"rerun: {name}", "outputs computed again")
    inputs = [entry["path"] for entry in locked["deps"] if entry["path"].startswith(READ)]
    missing = [path for path in inputs if not (repository.root / path).exists()]
    if missing:
        tally.expect(False, f"cannot run without {', '.join(missing)}; dvc pull or dvc repro brings it")
        return tally.finding()
    _prepare(repository.root, inputs, folder)
    command = [sys.executable, *shlex.split(locked["cmd"])[1:]]
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, cwd=folder, env=kept, capture_output=True, text=True, check=False)
    if done.returncode:
        tally.expect(False, f"`{locked['cmd']}` failed: {(done.stderr.strip() or 'no message').splitlines()[-1]}")
        return tally.finding()
    again = gather(folder)
    alike, where = _machine(repository, again, locked)
    tally.what = f"outputs computed again {where}"
    for entry in locked["outs"]:
        if not entry["path"].startswith(MEASURED):
            _compare(tally, repository, again, entry, alike)
    return tally.finding()


def _prepare(root: Path, inputs: list[str], folder: Path) -> None:
    """The folder that the stage runs in."""
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
    """A hard link, or a copy where the file system has none."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _machine(repository: Repository, again: Repository, locked: Mapping[str, Any]) -> tuple[bool, str]:
    """(whether bytes must be the same, in words) from both run records; a stage without one depends on no device."""
    path = next((entry["path"] for entry in locked["outs"] if entry["path"].startswith("data/runs/")), None)
    if path is None:
        return True, "to the same bytes"
    before, now = (one.json(path) for one in (repository, again))
    if before is None:
        return False, f"within {TOLERANCE} points (the run's device is not recorded)"
    if [before[key] for key in ("device", "processor")] == [now[key] for key in ("device", "processor")]:
        return True, f"to the same bytes, on the same kind of device ({now['device']}, {now['processor']})"
    was, is_now = (f"{one['device']}, {one['processor']}" for one in (before, now))
    return False, f"within {TOLERANCE} points, as the run was on {was} and this is {is_now}"


def _compare(tally: Tally, repository: Repository, again: Repository, entry: Mapping[str, Any], alike: bool) -> None:
    path, md5 = entry["path"], entry["md5"]
    if alike:
        members = {
            name.removeprefix(f"{path}/"): one for name, one in again.stamps.items() if name.startswith(f"{path}/")
        }
        own = f"{stamp(directory(members)).md5}.dir" if members else getattr(again.stamps.get(path), "md5", None)
        tally.expect(own == md5, f"{path} came out with other bytes ({own}, dvc.lock has {md5})")
    elif path.startswith("data/checkpoints/"):
        tally.absent.append(f"{path}: training on another processor gives other weights")
    elif path.startswith("data/scores/") and repository.text(path) is not None:
        before, now = (_accuracies(one.text(path) or "") for one in (repository, again))
        for key, value in before.items():
            near = abs(now.get(key, float("inf")) - value) <= TOLERANCE
            tally.expect(near, f"{path}: {' '.join(key)} {value:.2f} came out as {now.get(key)}")
    else:
        files = [name for name in again.stamps if name.startswith(f"{path}/") and name.endswith(".safetensors")]
        for name in files:
            before, now = repository.tensors(name) or {}, again.tensors(name) or {}
            for key in sorted(before.keys() | now.keys()):
                same = key in before and key in now and _near(before[key], now[key])
                tally.expect(same, f"{name}: {key} is not within {SHARE:.0%} of what it was")
        if not files:
            tally.absent.append(f"{path}: no bytes to compare on another device")


def _near(before: np.ndarray, now: np.ndarray) -> bool:
    """Whether the largest difference is a small share of the largest value."""
    if before.shape != now.shape or not before.size:
        return before.shape == now.shape
    return float(np.abs(before.astype(float) - now).max()) <= SHARE * float(np.abs(before.astype(float)).max())


def _accuracies(text: str) -> dict[tuple[str, str], float]:
    rows = csv.DictReader(io.StringIO(text))
    return {(row["task"], row["seed"]): 100 * int(row["correct"]) / int(row["total"]) for row in rows}
