"""What faults are tried on: a finished run of the tests' suite and copies of it; and the table of counts."""

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.test_processes import eventually
from tests.test_repro import Checkout, finished  # noqa: F401, the fixture

Tally = Callable[..., object]
TRIED, SURVIVED = pytest.StashKey[Counter[str]](), pytest.StashKey[Counter[str]]()


def pytest_configure(config: pytest.Config) -> None:
    """No fault has been tried yet."""
    config.stash[TRIED], config.stash[SURVIVED] = Counter(), Counter()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """How often every fault was tried, and how often all was well afterwards."""
    tried, survived = config.stash[TRIED], config.stash[SURVIVED]
    width = max(map(len, tried), default=0)
    terminalreporter.section("faults")
    terminalreporter.write_line(f"{'fault':<{width}}  tried  survived")
    for fault, count in tried.items():
        terminalreporter.write_line(f"{fault:<{width}}  {count:>5}  {survived[fault]:>8}")
    terminalreporter.write_line(f"{'together':<{width}}  {tried.total():>5}  {survived.total():>8}")


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Tally:
    """`with tally(fault, times):` counts what is tried, and what the block then finds well."""
    stash = request.config.stash

    @contextmanager
    def counting(fault: str, times: int = 1) -> Iterator[None]:
        stash[TRIED][fault] += times
        yield
        stash[SURVIVED][fault] += times

    return counting


@pytest.fixture
def copied(finished: Checkout, tmp_path: Path) -> Checkout:  # noqa: F811
    """A copy of the finished run."""
    return copy(finished, tmp_path / "repo")


def copy(source: Checkout, root: Path) -> Checkout:
    """A copy of a checkout with its results and its cache."""
    shutil.copytree(source.root, root, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    return Checkout(root, source.environment)


def living(root: Path) -> list[psutil.Process]:
    """The processes that work in a checkout."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd() == str(root) and process.status() != psutil.STATUS_ZOMBIE and process.pid != os.getpid():
                found.append(process)
        except psutil.Error:  # ended meanwhile
            continue
    return found


def deserted(root: Path) -> bool:
    """Whether the last process that works in a checkout ends soon, by itself."""
    return eventually(lambda: not living(root))
