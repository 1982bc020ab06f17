"""kill -9 at any moment: outputs are old, new or absent, no process lives on, the next run ends with the same bytes.

Seeded, but what a moment hits depends on the machine.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.faults.conftest import Say, Tally, copy, deserted, living
from tests.faults.stages import STAGES, STUDIES, age, content, outputs, restore, study_stage, whole
from tests.runtime.test_processes import eventually
from tests.test_repro import Checkout, checkout

RANDOM = 2
"""Number of random moments per stage."""
RUNS = 16
"""Number of runs of `dvc repro` that are killed."""


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_killed_before_a_change_of_the_disk(copied: Checkout, tally: Tally, stage: str):
    done = copied.call("env", "SAMERGING_WORKERS=1", sys.executable, "-B", "-m", "tests.faults.forks", "kill", stage)
    with tally("stage killed before a change of the disk", int(done.stdout.splitlines()[-1])):
        assert done.returncode == 0, done.stdout


def start_stage(made: Checkout, command: list[str]) -> subprocess.Popen[bytes]:
    """Start a stage with two worker processes."""
    environment = {**made.environment, "SAMERGING_WORKERS": "2"}
    return subprocess.Popen(command, cwd=made.root, env=environment, stderr=subprocess.DEVNULL)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_killed_at_random(copied: Checkout, tally: Tally, stage: str):
    command = [sys.executable, "-B", "-m", f"stages.{stage}", *STAGES[stage]]
    paths = outputs(stage, copied.root)
    new = [content(path) for path in paths]
    began = time.monotonic()
    assert copied.call(*command).returncode == 0
    lasts, rng = time.monotonic() - began, random.Random(stage)
    for _ in range(RANDOM):
        for path in paths:
            age(path)
        process = start_stage(copied, command)
        time.sleep(rng.uniform(0.3, 0.9) * lasts)
        process.kill()
        late = process.wait() == 0
        with tally("stage ended before its kill" if late else "stage killed at random, with its workers at work"):
            assert deserted(copied.root)
            assert all(map(whole, paths, new))
        for path, expected in zip(paths, new, strict=True):
            restore(path, expected)
    assert copied.call(*command).returncode == 0
    assert [content(path) for path in paths] == new
    assert not [*(copied.root / "data/.partial").iterdir()]


def test_a_killed_study_keeps_its_finished_pieces(copied: Checkout, tally: Tally):
    command = [sys.executable, "-B", "-m", "stages.studies.efficiency", "nano-3"]
    pieces, output = copied.root / "data/.resumable", copied.root / "data/studies/nano-3/efficiency/rows.csv"
    assert copied.call(*command).returncode == 0
    new = content(output)
    assert new is not None
    all_pieces = {path: path.read_bytes() for path in pieces.rglob("*.json")}
    for count in range(1, len(all_pieces) - 3, 2):
        shutil.rmtree(pieces)
        output.unlink()
        with tally("study killed after some of its pieces"):
            process = start_stage(copied, command)
            assert eventually(lambda least=count: len([*pieces.rglob("[!.]*.json")]) >= least)
            process.kill()
            process.wait()
            assert deserted(copied.root)
            finished_pieces = {path: path.stat().st_mtime_ns for path in pieces.rglob("[!.]*.json")}
            assert count <= len(finished_pieces) < len(all_pieces)
            assert all(path.read_bytes() == all_pieces[path] for path in finished_pieces)
            assert not output.exists()
            assert copied.call(*command).returncode == 0
            assert content(output) == new
            assert all(path.stat().st_mtime_ns == written for path, written in finished_pieces.items())


@pytest.mark.parametrize("study", STUDIES)
def test_a_study_killed_at_random(copied: Checkout, tally: Tally, study: str):
    command = [sys.executable, "-B", "-m", f"stages.studies.{study}", "nano-3"]
    (output,) = (copied.root / path.format(suite="nano-3") for path in study_stage(study).outputs)
    began = time.monotonic()
    assert copied.call(*command).returncode == 0
    lasts, new = time.monotonic() - began, content(output)
    assert new
    shutil.rmtree(copied.root / "data/.resumable")
    age(output)
    with tally("study killed at random, with its workers at work"):
        process = start_stage(copied, command)
        time.sleep(random.Random(study).uniform(0.3, 0.7) * lasts)
        process.kill()
        process.wait()
        assert deserted(copied.root)
        assert whole(output, new)
        assert copied.call(*command).returncode == 0
        assert content(output) == new


def delete_results(made: Checkout) -> None:
    """Delete every result, in the cache too."""
    for name in ("data", "reports/tables", "reports/figures", "reports/plots", ".dvc/cache", ".dvc/tmp"):
        shutil.rmtree(made.root / name, ignore_errors=True)
    (made.root / "dvc.lock").unlink(missing_ok=True)


def running(root: Path) -> bool:
    """Whether a stage is at work."""
    return any("-m stages." in " ".join(process.cmdline()) for process in living(root))


def test_dvc_killed_again_and_again(finished: Checkout, tmp_path: Path, tally: Tally, say: Say):
    made, rng, ended = checkout(tmp_path / "repo"), random.Random(0), 0
    for attempt in range(RUNS):
        alone = attempt % 2 == 1
        with tally(
            "dvc repro killed alone, its stage at work" if alone else "dvc repro killed with all that it started"
        ):
            process = subprocess.Popen(
                ["dvc", "repro"],
                cwd=made.root,
                env=made.environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
            if alone:
                assert eventually(lambda child=process: running(made.root) or child.poll() is not None)
            time.sleep(rng.uniform(0, 8))
            over = process.poll() is not None
            if alone:
                process.kill()
            elif not over:
                os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            assert deserted(made.root), [child.cmdline() for child in living(made.root)]
            assert "ERROR" not in output
            assert "Traceback" not in output
        if over:
            assert made.hashes() == finished.hashes()
            delete_results(made)
            ended += 1
    made.ran("repro")
    assert made.hashes() == finished.hashes()
    assert made.ran("repro") == set()
    say(f"{RUNS} kills of dvc repro, {ended} runs ended before theirs")


def test_leftovers_of_a_killed_run_do_no_harm(finished: Checkout, tmp_path: Path, tally: Tally):
    made = copy(finished, tmp_path / "repo")
    for name in ("lock", "rwlock.lock"):
        (made.root / ".dvc/tmp" / name).write_text("4194304")
    (made.root / "data/.partial/merge-nano-3-ties/0").mkdir(parents=True)
    shutil.rmtree(made.root / "data/merges/nano-3/ties")
    with tally("locks and a scratch folder that a killed run left"):
        made.ran("repro", "--no-run-cache")
        assert made.hashes() == finished.hashes()
