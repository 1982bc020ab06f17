"""A finished run of the tests' suite, copies of it to damage, and the table of counts."""

import fcntl
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.runtime.test_processes import eventually
from tests.test_repro import Checkout, finish, surroundings

Tally = Callable[..., object]
Say = Callable[[str], None]
FIGURE = "figure"
"""The property of a test's report that is a figure to show; the others are faults with [tried, survived]."""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print how often every fault was tried and survived, from the reports of all processes."""
    tried, survived, figures = Counter[str](), Counter[str](), []
    reports = [
        entry
        for entries in terminalreporter.stats.values()
        for entry in entries
        if isinstance(entry, pytest.TestReport)
    ]
    for report in [entry for entry in reports if entry.when == "call"]:
        for name, value in report.user_properties:
            if name == FIGURE:
                figures.append(value)
            else:
                tried[name] += value[0]
                survived[name] += value[1]
    if tried:
        width = max(map(len, tried))
        terminalreporter.section("faults")
        for line in figures:
            terminalreporter.write_line(line)
        terminalreporter.write_line(f"{'fault':<{width}}  tried  survived")
        for fault, count in sorted(tried.items()):
            terminalreporter.write_line(f"{fault:<{width}}  {count:>5}  {survived[fault]:>8}")
        terminalreporter.write_line(f"{'together':<{width}}  {tried.total():>5}  {survived.total():>8}")


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Tally:
    """`with tally(fault, times):` counts a fault as tried, and as survived if the block passes."""

    @contextmanager
    def counting(fault: str, times: int = 1) -> Iterator[None]:
        counts = [times, 0]
        request.node.user_properties.append((fault, counts))
        yield
        counts[1] = times

    return counting


@pytest.fixture
def say(request: pytest.FixtureRequest) -> Say:
    """`say(line)` shows a figure with the counts."""
    return lambda line: request.node.user_properties.append((FIGURE, line))


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout in which `dvc repro` has run, made by the first of the processes that share the tests."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    root, done = shared / "finished/repo", shared / "finished/done"
    root.parent.mkdir(exist_ok=True)
    with (shared / "finished/lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            finish(root)
            done.touch()
    return Checkout(root, surroundings(root))


@pytest.fixture
def copied(finished: Checkout, tmp_path: Path) -> Checkout:
    """A copy of the finished run."""
    return copy(finished, tmp_path / "repo")


def copy(source: Checkout, root: Path) -> Checkout:
    """Copy a checkout with its results and its cache."""
    shutil.copytree(source.root, root, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    return Checkout(root, source.environment)


def living(root: Path) -> list[psutil.Process]:
    """The processes that work in a checkout."""
    processes = []
    for process in psutil.process_iter():
        try:
            if process.cwd() == str(root) and process.status() != psutil.STATUS_ZOMBIE and process.pid != os.getpid():
                processes.append(process)
        except psutil.Error:  # ended meanwhile
            continue
    return processes


def deserted(root: Path) -> bool:
    """Whether the last process that works in a checkout ends soon, by itself."""
    return eventually(lambda: not living(root))
