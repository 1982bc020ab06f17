"""The hardware of a run: the processor, and the driver of an NVIDIA GPU. Needs nothing but Linux."""

import platform
import re
from pathlib import Path

DRIVER = Path("/proc/driver/nvidia/version")
PROCESSORS = Path("/proc/cpuinfo")


def read_processor_name() -> str:
    """Return the name of the processor, or the architecture where Linux does not give a name."""
    lines = PROCESSORS.read_text("utf-8").splitlines() if PROCESSORS.is_file() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def read_driver_version() -> str | None:
    """Return the version of the NVIDIA driver, or None without one."""
    text = DRIVER.read_text("utf-8", "replace") if DRIVER.is_file() else ""
    version = re.search(r"Kernel Module.*?\s(\d+(?:\.\d+)+)\s", text)
    return version[1] if version else None
