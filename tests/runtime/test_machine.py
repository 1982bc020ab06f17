"""Processor and driver are read from the files of Linux, which may be missing."""

import platform
from pathlib import Path

import pytest

from pipeline.runtime import machine

OPEN = """NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (dvs-builder@U22)
GCC version:  gcc version 13.3.0 (Ubuntu 13.3.0-6ubuntu2~24.04)
"""
CLOSED = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024\n"


@pytest.mark.parametrize(("text", "version"), [(OPEN, "580.65.06"), (CLOSED, "535.183.01"), ("no such words", None)])
def test_the_driver_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, version: str | None):
    monkeypatch.setattr(machine, "DRIVER", tmp_path / "version")
    assert machine.read_driver_version() is None
    machine.DRIVER.write_text(text)
    assert machine.read_driver_version() == version


def test_the_processor_is_the_first_that_linux_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(machine, "PROCESSORS", tmp_path / "cpuinfo")
    assert machine.read_processor_name() == platform.machine()
    machine.PROCESSORS.write_text("processor\t: 0\nmodel name\t: One: fast\nmodel name\t: Two\n")
    assert machine.read_processor_name() == "One: fast"
