"""The Makefile: what it checks before it installs anything, and the name under which DVC commits experiments."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support import toy

DVC = """#!/bin/sh
env | grep ^GIT_ | sort >> called
git update-ref refs/exps/ab/cd/try HEAD
"""
REPRO = "dvc --wait-for-lock repro"
BEFORE = {
    "prepare": (),
    "-s teach": ("prepare",),
    "-s merge evaluate": ("prepare",),
    "-s calibrate evaluate-calibrated": ("-s teach",),
    "-s samerging evaluate-samerging": ("-s teach",),
    "-s svc rescale evaluate-svc evaluate-rescaled": ("-s merge evaluate", "-s calibrate evaluate-calibrated"),
    "-s diagnose": ("prepare",),
    "-s surgery evaluate-surgery": ("-s merge evaluate", "-s samerging evaluate-samerging"),
}
"""The runs of DVC in `make repro`, and those that each has to wait for."""
NAMED = {f"GIT_{role}_{what}": "me" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


def make(root: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Call make where Git knows no name but that of `environment`."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    home = root.parent / "home"
    home.mkdir(exist_ok=True)
    (home / ".gitconfig").write_text("[user]\n\tuseConfigOnly = true\n")
    return subprocess.run(
        ["make", "--no-print-directory", *arguments],
        cwd=root,
        env={**inherited, "HOME": str(home), "GIT_CONFIG_NOSYSTEM": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with the Makefile alone."""
    folder = tmp_path / "root"
    folder.mkdir()
    shutil.copy(toy.ROOT / "Makefile", folder)
    (folder / "requirements.lock").touch()
    return folder


@pytest.mark.parametrize(
    "target", ["repro", "try", "methods", "text", "lora", "language", "studies", "compare", "verify", "check", "test"]
)
def test_an_archive_is_refused_before_an_environment_is_installed(root: Path, target: str):
    done = make(root, target, "PYTHON=touch installed;")
    assert done.returncode != 0
    assert f"{root} is no clone" in done.stdout
    assert sorted(path.name for path in root.iterdir()) == ["Makefile", "requirements.lock"]


def test_a_folder_inside_another_repository_is_no_clone(root: Path):
    subprocess.run(["git", "init", "-q"], cwd=root.parent, check=True)
    assert f"{root} is no clone" in make(root, "repro").stdout


def install(root: Path, **programs: str) -> None:
    """Make an environment of these programs."""
    (root / ".venv/bin").mkdir(parents=True)
    for name, text in programs.items():
        (root / ".venv/bin" / name).write_text(text)
        (root / ".venv/bin" / name).chmod(0o755)
    (root / ".venv/.installed").touch()


@pytest.mark.parametrize("failing", ["", *BEFORE])
def test_a_repro_runs_branches_in_order_and_what_is_left_at_the_end(root: Path, failing: str):
    refuse = f'test "$*" != "--wait-for-lock repro {failing}"\n' if failing else ""
    install(root, dvc=f'#!/bin/sh\necho "dvc $*" >> called\n{refuse}', python="#!/bin/sh\necho $* >> called\n")
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    done = make(root, "repro")
    *runs, last, shown = ["", "", *(root / "called").read_text().splitlines()]
    if failing:
        assert done.returncode != 0
        assert REPRO not in (*runs, last, shown)
        return
    assert done.returncode == 0
    assert (last, shown) == (REPRO, "-m stages.show")
    places = {run.removeprefix(f"{REPRO} "): place for place, run in enumerate(runs) if run}
    assert places.keys() == BEFORE.keys()
    assert all(places[earlier] < places[run] for run, needed in BEFORE.items() for earlier in needed)


@pytest.mark.parametrize("environment", [{}, NAMED], ids=["without a name", "with a name"])
def test_experiments_need_no_name_in_git(root: Path, environment: dict[str, str]):
    install(root, dvc=DVC)
    (root / "reports/tables").mkdir(parents=True)
    (root / "reports/tables/nano-3-overview.md").write_text("the table\n")
    for command in (("init", "-q"), ("add", "reports"), ("commit", "-q", "-m", "start")):
        subprocess.run(["git", *command], cwd=root, env={**os.environ, **NAMED}, check=True)
    done = make(root, "try", **environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("the table\n")
    called = dict(line.split("=", 1) for line in (root / "called").read_text().splitlines())
    names = {key: called[key] for key in NAMED}
    assert names == (environment or {key: "make@localhost" if "EMAIL" in key else "make" for key in NAMED})
