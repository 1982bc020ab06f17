"""Scored merges of the tiny suite, as the current folder of every test of exports."""

import shutil
from pathlib import Path

import pytest

from tests.support import scored


@pytest.fixture(scope="session")
def scored_run(tmp_path_factory: pytest.TempPathFactory, pristine_suite: Path) -> Path:
    """A folder with scored merges of the tiny suite; read only."""
    root = tmp_path_factory.mktemp("scored") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAMERGING_WORKERS", "1")
        scored.fill(root, pristine_suite)
    return root


@pytest.fixture(autouse=True)
def at_run(scored_run: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in that folder."""
    monkeypatch.chdir(scored_run)
    return scored_run


@pytest.fixture
def copied_run(scored_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a copy of it that may be changed."""
    monkeypatch.chdir(shutil.copytree(scored_run, tmp_path / "run"))
    return tmp_path / "run"
