"""What a run ran on: the processor, and the driver of an NVIDIA GPU. Needs nothing but Linux."""

import platform
import re
from pathlib import Path

DRIVER = Path("/proc/driver/nvidia/version")
PROCESSORS = Path("/proc/cpuinfo")


def processor() -> str:
    """The name of the processor; the architecture where Linux does not tell."""
    lines = PROCESSORS.read_text("utf-8").splitlines() if PROCESSORS.is_file() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def driver() -> str | None:
    """The version of the NVIDIA driver, None where there is none."""
    text = DRIVER.read_text("utf-8", "replace") if DRIVER.is_file() else ""
    found = re.search(r"Kernel Module.*?\s(\d+(?:\.\d+)+)\s", text)
    return found[1] if found else None
