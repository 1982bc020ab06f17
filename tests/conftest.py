"""Fixtures shared by the tests; the problems themselves are built in tests/toy.py."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from pipeline.suite import SuiteFolder
from tests import toy

os.environ["SAMERGING_DEVICE"] = "cpu"
torch.set_num_threads(1)
settings.register_profile("faults", max_examples=10_000)


@pytest.hookimpl(tryfirst=True)  # before `-m` selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs the finished run is long, and so are the studies. What runs DVC starts first: no core waits for it."""
    for item in items:
        if "small" in getattr(item, "fixturenames", ()) or item.path.name.startswith("test_study_"):
            item.add_marker(pytest.mark.long)
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture
def problem() -> toy.Problem:
    """Three experts of a two-layer encoder in float64, with their teachers' logits."""
    return toy.problem()


@pytest.fixture(scope="session")
def pristine_suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A valid suite folder of three tasks on a one-layer CLIP with random weights; not to be changed."""
    folder = tmp_path_factory.mktemp("suite") / "tiny"
    toy.write_suite(folder)
    return folder


@pytest.fixture
def precise(tmp_path: Path) -> SuiteFolder:
    """The tiny suite in float64, for formulas: what rounds there is far below what a wrong formula would change."""
    toy.write_suite(tmp_path / "precise", torch.float64)
    return SuiteFolder(tmp_path / "precise")


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository in which every stage has run on the tests' suite, see `tests.small_run`; not to be changed."""
    from tests import small_run

    root = tmp_path_factory.mktemp("small") / "repository"
    small_run.make(root)
    return root


@pytest.fixture
def suite(pristine_suite: Path) -> SuiteFolder:
    """The tiny suite, opened."""
    return SuiteFolder(pristine_suite)


@pytest.fixture
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Milliseconds of work need no pool of processes."""
    monkeypatch.setenv("SAMERGING_WORKERS", "1")


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the code and the parameters, and the current folder: what a stage sees of a checkout."""
    toy.copy_code(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def at_root(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root of the repository, as the current folder."""
    monkeypatch.chdir(toy.ROOT)
    return toy.ROOT
