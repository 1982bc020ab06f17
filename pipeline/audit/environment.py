"""Run records against requirements.lock: versions of Python and packages, devices of stages; and this machine."""

import os
import platform
import re
import tomllib
from typing import Any

from pipeline.audit.finding import Finding, Tally
from pipeline.audit.repository import Repository
from pipeline.runtime.machine import driver

BOUNDS = {">=": lambda own, bound: own >= bound, "<": lambda own, bound: own < bound}


def check(repository: Repository) -> list[Finding]:
    """One finding: every record that is at hand."""
    tally = Tally("environment", f"versions and devices of run records; audited on {machine()}")
    records = {path: repository.json(path) for path in repository.names("data/runs", ".json")}
    text, project = repository.text("requirements.lock"), repository.text("pyproject.toml")
    for needed, name in ((records, "run records (reports/records.json, data/runs)"), (text, "requirements.lock")):
        if not needed:
            tally.absent.append(name)
    pinned = versions(text or "")
    bounds = re.findall(r"(>=|<)\s*([\d.]+)", tomllib.loads(project)["project"]["requires-python"]) if project else []
    for path, record in records.items():
        _record(tally, path, record, pinned, bounds)
    return [tally.finding()]


def machine() -> str:
    """Processor, system, Python, and the driver of an NVIDIA GPU if there is one."""
    version = driver()
    gpu = f"NVIDIA driver {version}" if version else "no NVIDIA driver"
    return f"{platform.platform()}, {os.cpu_count()} cores, {gpu}, Python {platform.python_version()}"


def versions(text: str) -> dict[str, set[str]]:
    """{package: versions that requirements.lock pins, one per Python or platform}."""
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", text, re.MULTILINE):
        found.setdefault(_normal(name), set()).add(version)
    return found


def _record(
    tally: Tally, path: str, record: dict[str, Any], pinned: dict[str, set[str]], bounds: list[tuple[str, str]]
) -> None:
    python = _parts(record["python"])
    fits = all(BOUNDS[sign](python, _parts(bound)) for sign, bound in bounds)
    tally.expect(fits, f"{path}: Python {record['python']}, pyproject.toml allows {' '.join(map(''.join, bounds))}")
    for name, version in record["packages"].items() if pinned else ():
        allowed = pinned.get(_normal(name), set())
        same = version.partition("+")[0] in allowed  # a build for another device has the same version
        tally.expect(same, f"{path}: {name} {version}, requirements.lock has {' or '.join(sorted(allowed)) or 'none'}")
    tally.expect(bool(record.get("device")) and bool(record.get("processor")), f"{path}: no device or processor")
    known = record.get("device") == "cpu" or bool(record.get("driver") and record.get("cuda"))
    tally.expect(known, f"{path}: ran on {record.get('device')}, its driver or CUDA is not recorded")


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _parts(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])
