"""Run records against requirements.lock: versions of Python and packages, devices of stages; and this machine."""

import operator
import os
import platform
import re
import tomllib
from typing import Any

from pipeline.audit.finding import Finding
from pipeline.audit.repository import Repository
from pipeline.runtime.machine import read_driver_version

BOUNDS = {">=": operator.ge, "<": operator.lt}
"""How Python's version may be bounded in pyproject.toml."""


def check(repository: Repository) -> Finding:
    """Check every run record that is there."""
    finding = Finding("environment", f"versions and devices of run records; audited on {describe_machine()}")
    folders = ("data/runs", "data/studies/runs")
    records = {path: repository.json(path) for folder in folders for path in repository.names(folder, ".json")}
    lock, project = repository.text("requirements.lock"), repository.text("pyproject.toml")
    if not records:
        finding.skip("run records (data/runs, data/studies/runs)")
    if not lock:
        finding.skip("requirements.lock")
    pinned = read_pins(lock or "")
    bounds = re.findall(r"(>=|<)\s*([\d.]+)", tomllib.loads(project)["project"]["requires-python"]) if project else []
    for path, record in records.items():
        _check_record(finding, path, record, pinned, bounds)
    return finding


def describe_machine() -> str:
    """Name processor, system, Python, and the driver of an NVIDIA GPU if there is one."""
    version = read_driver_version()
    gpu = f"NVIDIA driver {version}" if version else "no NVIDIA driver"
    return f"{platform.platform()}, {os.cpu_count()} cores, {gpu}, Python {platform.python_version()}"


def read_pins(text: str) -> dict[str, set[str]]:
    """Return {package: versions that requirements.lock pins, one per Python or platform}."""
    pins: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", text, re.MULTILINE):
        pins.setdefault(_normal(name), set()).add(version)
    return pins


def _check_record(
    finding: Finding, path: str, record: dict[str, Any], pinned: dict[str, set[str]], bounds: list[tuple[str, str]]
) -> None:
    python, device = _parts(record["python"]), record.get("device")
    fits = all(BOUNDS[sign](python, _parts(bound)) for sign, bound in bounds)
    finding.expect(fits, f"{path}: Python {record['python']}, pyproject.toml allows {' '.join(map(''.join, bounds))}")
    for name, version in record["packages"].items() if pinned else ():
        allowed = pinned.get(_normal(name), set())
        same = version.partition("+")[0] in allowed  # a build for another device has the same version
        pins = " or ".join(sorted(allowed)) or "none"
        finding.expect(same, f"{path}: {name} {version}, requirements.lock has {pins}")
    finding.expect(bool(device) and bool(record.get("processor")), f"{path}: no device or processor")
    driven = device == "cpu" or bool(record.get("driver") and record.get("cuda"))
    finding.expect(driven, f"{path}: ran on {device}, its driver or CUDA is not recorded")


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _parts(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])
