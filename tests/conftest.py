"""Fixtures shared by the tests; the problems themselves are built in tests/support/toy.py."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from hypothesis import settings

from pipeline.models.suite import SuiteFolder
from tests.support import toy, toy_texts

os.environ["SAMERGING_DEVICE"] = "cpu"
torch.set_num_threads(1)
RENDERED: dict[tuple, dict[str, bytes]] = {}
"""The reports that `rendered_once` has rendered."""
settings.register_profile("faults", max_examples=10_000)


@pytest.hookimpl(tryfirst=True)  # before `-m` selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests of the finished run and of the studies as long; start those of DVC first, so that no core waits."""
    for item in items:
        if "small" in getattr(item, "fixturenames", ()) or item.path.parent.name == "studies":
            item.add_marker(pytest.mark.long)
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture
def problem() -> toy.Problem:
    """Three experts of a two-layer encoder in float64, with their teachers' logits."""
    return toy.problem()


@pytest.fixture(scope="session")
def pristine_suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A valid suite folder of three tasks on a one-layer CLIP with random weights; read only."""
    folder = tmp_path_factory.mktemp("suite") / "tiny"
    toy.write_suite(folder)
    return folder


@pytest.fixture(scope="session", params=toy_texts.MODELS)
def text_suite(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A valid suite folder of three tasks on a toy BERT, or GPT-2, with random weights; read only."""
    folder = tmp_path_factory.mktemp("texts") / "texts"
    toy_texts.write_suite(folder, request.param)
    return folder


@pytest.fixture
def precise(tmp_path: Path) -> SuiteFolder:
    """The tiny suite in float64, for formulas: its rounding is far below the effect of a wrong formula."""
    toy.write_suite(tmp_path / "precise", torch.float64)
    return SuiteFolder(tmp_path / "precise")


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository in which every stage has run on the tests' suite, see `tests.support.small_run`; read only."""
    from tests.support import small_run

    if "PYTEST_XDIST_WORKER" not in os.environ:
        root = tmp_path_factory.mktemp("small") / "repository"
        small_run.make(root)
        return root
    root = tmp_path_factory.getbasetemp().parent / "small" / "repository"  # all workers share it
    with FileLock(f"{root.parent}.lock"):
        if not (made := root.parent / "made").exists():
            small_run.make(root)
            made.touch()
    return root


@pytest.fixture
def rendered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Render the same evidence only once: the report is a function of it."""
    from pipeline.report import render

    def remembered(folders: Sequence[Path], look: object) -> dict[str, bytes]:
        files = [path for folder in folders for path in sorted(folder.rglob("*"))]
        key = (look, *((path.name, hashlib.sha256(path.read_bytes()).digest()) for path in files))
        if key not in RENDERED:
            RENDERED[key] = report(folders, look)
        return RENDERED[key]

    report = render.report
    monkeypatch.setattr(render, "report", remembered)


@pytest.fixture
def suite(pristine_suite: Path) -> SuiteFolder:
    """The tiny suite, opened."""
    return SuiteFolder(pristine_suite)


@pytest.fixture
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in this process: milliseconds of work need no pool."""
    monkeypatch.setenv("SAMERGING_WORKERS", "1")


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the code and the parameters as the current folder: what a stage sees of a checkout."""
    toy.copy_code(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def at_root(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root of the repository, as the current folder."""
    monkeypatch.chdir(toy.ROOT)
    return toy.ROOT
