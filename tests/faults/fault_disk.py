"""A disk that is full or read-only: one clear line, nothing half-written; `dvc repro` goes on once there is room.

A real full disk is a small tmpfs, in a mount namespace of its own; without such namespaces those tests are skipped.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.conftest import Tally
from tests.faults.stages import STAGES, content, outputs
from tests.test_repro import Checkout

FULL = """
set -e
mount -t tmpfs -o size={size}k none {disk}
cp -a {source}/. {disk}
cd {disk}
status=0
{command} > {said} 2>&1 || status=$?
echo $status > {code}
{mended}
"""
READ_ONLY = """
set -e
cd {source}
mount --bind data data
mount -o remount,bind,ro data
status=0
{command} > {said} 2>&1 || status=$?
echo $status > {code}
"""
NAMESPACES = subprocess.run(["unshare", "-rm", "true"], check=False, capture_output=True).returncode == 0
mounting = pytest.mark.skipif(not NAMESPACES, reason="needs user and mount namespaces (unshare -rm)")


def run_isolated(made: Checkout, tmp_path: Path, script: str, command: str, **more: object) -> tuple[int, str]:
    """Run a script in its own mount namespace; return the exit code of `command` and its output."""
    places = {"source": made.root, "disk": tmp_path / "disk", "said": tmp_path / "said", "code": tmp_path / "code"}
    places["disk"].mkdir(exist_ok=True)
    text = script.format(**places, command=command, **more)
    done = made.call("unshare", "-rm", "sh", "-c", text)
    assert done.returncode == 0, done.stdout
    return int(places["code"].read_text()), places["said"].read_text()


def size(made: Checkout) -> int:
    """KiB that a copy of the checkout takes on a tmpfs."""
    files = (path for path in made.root.rglob("*"))
    return sum(4 * -(-path.stat().st_size // 4096) if path.is_file() else 4 for path in files)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_without_room_from_some_moment_on(copied: Checkout, tally: Tally, stage: str):
    done = copied.call("env", "SAMERGING_WORKERS=1", sys.executable, "-B", "-m", "tests.faults.forks", "full", stage)
    with tally("stage without room from some change of the disk on", int(done.stdout.splitlines()[-1])):
        assert done.returncode == 0, done.stdout


@mounting
@pytest.mark.parametrize("free", [16])
@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_on_a_full_disk(copied: Checkout, tmp_path: Path, tally: Tally, stage: str, free: int):
    command = f"{sys.executable} -B -m stages.{stage} {' '.join(STAGES[stage])}"
    with tally("stage on a full tmpfs"):
        saved = f"rm -rf {tmp_path}/after; mkdir {tmp_path}/after; cp -a data reports {tmp_path}/after"
        code, output = run_isolated(copied, tmp_path, FULL, command, size=size(copied) + free, mended=saved)
        results = [content(path) for path in outputs(stage, tmp_path / "after")]
        assert results == [content(path) for path in outputs(stage, copied.root)]
        if code:
            assert code == 1, output
            assert "Traceback" not in output
            assert "cannot be written" in output


@mounting
def test_dvc_on_a_full_disk(finished: Checkout, tmp_path: Path, tally: Tally):
    with tally("dvc repro on a full tmpfs, then with room"):
        again = f"dvc repro >> {tmp_path}/again 2>&1"  # DVC may have cut its own rwlock in half; it names the file
        mended = f"{{ grep 'read RWLock-file .*rwlock' {tmp_path}/again && rm .dvc/tmp/rwlock && {again}; }}"
        saved = f"rm fill; {again} || {mended}; cp dvc.lock {tmp_path}/dvc.lock"
        start = "rm -rf data/suites .dvc/cache; cat /dev/zero > fill; dvc repro"
        code, output = run_isolated(finished, tmp_path, FULL, f"sh -c '{start}'", size=2 * size(finished), mended=saved)
        assert code != 0
        assert "No space left on device" in output
        assert Checkout(tmp_path, {}).hashes() == finished.hashes()


@mounting
@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_in_a_read_only_folder(copied: Checkout, tmp_path: Path, tally: Tally, stage: str):
    command = f"{sys.executable} -B -m stages.{stage} {' '.join(STAGES[stage])}"
    with tally("stage in a read-only folder"):
        code, output = run_isolated(copied, tmp_path, READ_ONLY, command)
        assert code == 1, output
        assert "Traceback" not in output
        assert "cannot be written ([Errno 30] Read-only file system" in output
