"""Odd surroundings: a second run, Ctrl-C, strange names of folders, no UTF-8, no home, a clock that was set back."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.conftest import Tally, copy, deserted
from tests.faults.stages import STAGES, age, content, outputs, whole
from tests.runtime.test_processes import eventually
from tests.test_repro import Checkout, checkout

FUTURE = 30 * 365 * 24 * 3600
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def start(made: Checkout, *command: str) -> subprocess.Popen[str]:
    """Start a command in a process group of its own, as a terminal does."""
    return subprocess.Popen(
        command,
        cwd=made.root,
        env={**made.environment, "SAMERGING_WORKERS": "2"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def test_two_runs_at_once(finished: Checkout, tmp_path: Path, tally: Tally):
    made = checkout(tmp_path / "repo")
    with tally("two dvc repro at once"):
        both = [start(made, "dvc", "repro") for _ in range(2)]
        outputs = [process.communicate()[0] for process in both]
        for process, text in zip(both, outputs, strict=True):
            assert "Traceback" not in text
            busy = "Unable to acquire lock" in text or "is busy, it is being blocked by" in text
            assert process.returncode == 0 or busy, text
        made.ran("repro")
        assert made.hashes() == finished.hashes()
    with tally("a second dvc repro that waits (--wait-for-lock)"):
        first = start(made, "dvc", "repro", "--force", "merge")
        second = made.call("dvc", "--wait-for-lock", "repro", "merge")
        first.communicate()
        assert "Traceback" not in second.stdout
        made.ran("repro")
        assert made.hashes() == finished.hashes()


@pytest.mark.parametrize("stage", STAGES)
def test_ctrl_c_while_a_stage_works(copied: Checkout, tally: Tally, stage: str):
    paths = outputs(stage, copied.root)
    new = [content(path) for path in paths]
    for path in paths:
        age(path)
    scratch = copied.root / "data/.partial"
    with tally("Ctrl-C while a stage works"):
        process = start(copied, sys.executable, "-B", "-m", f"stages.{stage}", *STAGES[stage])
        assert eventually(lambda: scratch.exists() and any(scratch.iterdir()))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
        output, _ = process.communicate()
        assert deserted(copied.root)
        assert process.returncode in (0, 130, -signal.SIGINT), output  # done before; at work; about to end
        assert process.returncode != 130 or f"{stage}: interrupted; `dvc repro` goes on from here\n" in output
        assert all(map(whole, paths, new))


def test_ctrl_c_while_dvc_runs(finished: Checkout, tmp_path: Path, tally: Tally):
    made = checkout(tmp_path / "repo")
    for _ in range(3):
        with tally("Ctrl-C while dvc repro works"):
            process = start(made, "dvc", "repro")
            scratch = made.root / "data/.partial"
            assert eventually(lambda: scratch.exists() and any(scratch.iterdir()))  # noqa: B023, called at once
            os.killpg(process.pid, signal.SIGINT)
            output, _ = process.communicate()
            assert process.returncode != 0, output
            assert "interrupted; `dvc repro` goes on from here" in output
            assert deserted(made.root)
            shutil.rmtree(scratch)  # its return shows that the next run has started
    made.ran("repro")
    assert made.hashes() == finished.hashes()


@pytest.mark.parametrize(
    ("fault", "name", "changes", "without"),
    [
        ("a folder with spaces and letters beyond ASCII", "mit Leerzeichen, ünïcödé 模型 'x'", {}, ()),
        ("a locale without UTF-8, and no HOME", "repo", ASCII, ("HOME", "LANG", "LC_CTYPE")),
    ],
)
def test_a_run_in_odd_surroundings(
    finished: Checkout, tmp_path: Path, tally: Tally, fault: str, name: str, changes: dict[str, str], without: tuple
):
    usual = checkout(tmp_path / name)
    environment = {key: value for key, value in usual.environment.items() if key not in without}
    made = Checkout(usual.root, {**environment, **changes})
    with tally(fault):
        made.ran("repro")
        assert made.hashes() == finished.hashes()
        printed = made.call(sys.executable, "-B", "-m", "stages.show")
        assert printed.returncode == 0, printed.stdout
        (made.root / "stages/studies/dvc.yaml").unlink()  # neither the studies nor every method ran here
        shutil.rmtree(made.root / "reports/methods")
        audited = made.call(sys.executable, "-B", "-m", "pipeline.audit")  # the documents have another suite's results
        assert [line for line in audited.stdout.splitlines() if "FAIL  documents" in line]
        assert "Traceback" not in printed.stdout + audited.stdout


def test_a_clock_that_was_set_back(finished: Checkout, copied: Checkout, tally: Tally):
    for path in copied.root.rglob("*"):
        if path.is_file() and not path.is_relative_to(copied.root / ".git"):
            stat = path.stat()
            os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + FUTURE * 10**9))
    with tally("files from the future: the clock went back"):
        assert copied.ran("repro") == set()
        (copied.root / "data/scores/nano-3/ties.csv").write_text("damaged in the past\n")
        copied.ran("repro")
        assert copied.hashes() == finished.hashes()
        copied.set("rho=0.5")
        assert "samerging@nano-3" in copied.ran("repro")
        copied.set("rho=0.07")
        copied.ran("repro")


def test_a_copy_elsewhere_is_up_to_date(finished: Checkout, tmp_path: Path, tally: Tally):
    with tally("a finished run copied to another folder"):
        assert copy(finished, tmp_path / "elsewhere").ran("repro") == set()
