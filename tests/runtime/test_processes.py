"""Stages and workers end with the process that started them, killed or not."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.support import toy

pytestmark = pytest.mark.long

PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE, text=True)
print(child.pid, child.stdout.readline(), flush=True)
time.sleep(600)
"""
BOUND = "from pipeline.runtime.processes import die_with_parent; die_with_parent(); "
CHILD = "import time; print('ready', flush=True); time.sleep(600)"
POOL = """
import signal, sys
from pipeline.runtime.parallel import run_all
from tests.runtime.test_processes import leave_a_mark

signal.signal(signal.SIGINT, signal.default_int_handler)  # tests that run in the background ignore it, and so would we
run_all(leave_a_mark, [(sys.argv[1], number) for number in range(2)], "marks")
"""


FAULTS = """
import ctypes, resource, sys
from pipeline.runtime.processes import keep_freed_memory

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]

def use(chunks, size=2**20):
    addresses = [libc.malloc(size) for _ in range(chunks)]
    for address in addresses:
        ctypes.memset(address, 1, size)
    for address in addresses:
        libc.free(address)

if sys.argv[1:]:
    keep_freed_memory()
for _ in range(5):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    use(100)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def leave_a_mark(folder: str, number: int) -> None:
    """A long piece of work that leaves a file named after its process."""
    (Path(folder) / f"{os.getpid()}").touch()
    time.sleep(600)


def eventually(fact: Callable[[], bool], seconds: float = 180) -> bool:
    """Wait for a fact; return whether it becomes true in time."""
    limit = time.monotonic() + seconds
    while not (holds := fact()) and time.monotonic() < limit:
        time.sleep(0.02)
    return holds


def gone(pid: int) -> bool:
    """Whether the process has ended, reaped or not."""
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize(("bound", "ends"), [(BOUND, True), ("", False)])
def test_a_process_ends_with_its_parent(bound: str, ends: bool):
    parent = subprocess.Popen([sys.executable, "-c", PARENT, bound + CHILD], cwd=toy.ROOT, stdout=subprocess.PIPE)
    with parent:
        pid = int(parent.stdout.readline().split()[0])
        parent.kill()
    try:
        assert eventually(lambda: gone(pid), 60 if ends else 0.2) == ends
    finally:
        if not ends:
            os.kill(pid, signal.SIGKILL)


def start_pool(folder: Path) -> subprocess.Popen[bytes]:
    """Start a process group and wait until its two workers are at work."""
    environment = {**os.environ, "SAMERGING_WORKERS": "2", "SAMERGING_DEVICE": "cpu", "PYTHONPATH": "."}
    process = subprocess.Popen(
        [sys.executable, "-c", POOL, str(folder)],
        cwd=toy.ROOT,
        env=environment,
        start_new_session=True,
        stderr=subprocess.PIPE,
    )
    assert eventually(lambda: len([*folder.iterdir()]) == 2)
    return process


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_the_run(tmp_path: Path, number: signal.Signals):
    process = start_pool(tmp_path)
    process.send_signal(number)
    process.communicate(timeout=180)
    assert process.returncode == -number
    assert eventually(lambda: all(gone(int(path.name)) for path in tmp_path.iterdir()))


def test_freed_memory_is_used_again_without_a_page_fault():
    plain, kept = (
        int(subprocess.check_output([sys.executable, "-c", FAULTS, *options], cwd=toy.ROOT))
        for options in ([], ["keep"])
    )
    assert plain > 1000
    assert kept < plain / 100
