"""Files that are cut, emptied, deleted or changed in one bit: what notices it, and the command that mends it.

A stage names the file that it cannot parse. `dvc repro` notices a change of size, inode or time, and makes or fetches
the file again. A bit that flips behind the file system's back goes unnoticed until `make verify` hashes every file.
"""

import os
from collections.abc import Callable
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path

import pytest

from pipeline.runtime.errors import BenchmarkError
from tests.faults.conftest import Tally
from tests.support import small_run, toy
from tests.test_repro import Checkout

Damage = Callable[[Path], None]
READERS = {
    "suites/nano-3/suite.json": ("merge", "nano-3", "ties"),
    "suites/nano-3/base.safetensors": ("merge", "nano-3", "ties"),
    "suites/nano-3/heads.safetensors": ("merge", "nano-3", "ties"),
    "suites/nano-3/experts/optdigits.safetensors": ("merge", "nano-3", "ties"),
    "suites/nano-3/images/test/optdigits.npy": ("evaluate", "nano-3", "ties"),
    "suites/nano-3/labels/test/optdigits.npy": ("evaluate", "nano-3", "ties"),
    "teachers/nano-3/optdigits.npy": ("samerging", "nano-3"),
    "merges/nano-3/ties/merge.json": ("evaluate", "nano-3", "ties"),
    "merges/nano-3/ties/delta-0.safetensors": ("evaluate", "nano-3", "ties"),
    "merges/nano-3/samerging/coefficients.safetensors": ("evaluate", "nano-3", "samerging"),
    "merges/nano-3/surgery-samerging/extras-0.safetensors": ("evaluate", "nano-3", "surgery-samerging"),
    "merges/nano-3/samerging/losses.csv": ("collect", "nano-3"),
    "scores/nano-3/ties.csv": ("collect", "nano-3"),
    "answers/nano-3/ties.npz": ("collect", "nano-3"),
    "costs/nano-3/ties.json": ("collect", "nano-3"),
    "diagnostics/nano-3/measures.csv": ("collect", "nano-3"),
    "previews/nano-3.npz": ("collect", "nano-3"),
    "clusters/nano-3.npz": ("collect", "nano-3"),
    "origins/nano-3.json": ("collect", "nano-3"),
    "runs/prepare-nano-3.json": ("collect", "nano-3"),
}
"""A file of every kind, and a stage that reads it."""


def cut(path: Path) -> None:
    """Keep the first half."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def emptied(path: Path) -> None:
    """Keep nothing."""
    path.write_bytes(b"")


def gone(path: Path) -> None:
    """Delete the file."""
    path.unlink()


def flipped(path: Path) -> None:
    """Change one bit, not near an end."""
    content = bytearray(path.read_bytes())
    content[2 * len(content) // 3] ^= 1
    path.write_bytes(content)


def silently_flipped(path: Path) -> None:
    """Change one bit, but not size, inode or time."""
    stat, content = path.stat(), bytearray(path.read_bytes())
    content[2 * len(content) // 3] ^= 1
    with path.open("r+b") as file:
        file.write(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.parametrize("damage", [cut, emptied, gone], ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("file", READERS)
def test_a_stage_names_what_it_cannot_read(copied: Checkout, tally: Tally, file: str, damage: Damage):
    damage(copied.root / "data" / file)
    with tally(f"artefact {damage.__name__}, read by a stage"):
        name, *arguments = READERS[file]
        script = import_module(f"stages.{name}")
        names = dict(zip(script.STAGE.arguments, arguments, strict=True))
        with small_run.inside(copied.root), pytest.raises(BenchmarkError) as refusal:
            script.STAGE.run(script.run, names)
        assert Path(file).name in str(refusal.value)
        assert "dvc repro" in str(refusal.value)


@pytest.mark.parametrize("shift", [0, 1])
def test_dvc_notices_and_mends_what_was_damaged(finished: Checkout, copied: Checkout, tally: Tally, shift: int):
    with ExitStack() as counting:
        for place, damage in enumerate((cut, emptied, gone, flipped)):
            files = [*READERS][(place + shift) % 4 :: 4]
            counting.enter_context(tally(f"artefact {damage.__name__}, then dvc repro", len(files)))
            for file in files:
                damage(copied.root / "data" / file)
        status = copied.call("dvc", "status", "dvc.yaml").stdout
        folders = {"/".join(["data", *file.split("/")[: 3 if file.startswith("merges") else 2]]) for file in READERS
                   if not file.startswith(("scores", "answers", "costs"))}  # fmt: skip
        assert [folder for folder in folders if folder not in status] == []
        copied.ran("repro")
        assert copied.hashes() == finished.hashes()
        assert "up to date" in copied.call("dvc", "status", "dvc.yaml").stdout
        for file in READERS:
            assert (copied.root / "data" / file).read_bytes() == (finished.root / "data" / file).read_bytes(), file


def verify(made: Checkout) -> str:
    """The output of `make verify`, without the installation."""
    (made.root / ".venv").mkdir(exist_ok=True)
    (made.root / ".venv/.installed").touch()
    return made.call("make", "--no-print-directory", "verify").stdout


def test_a_bit_that_flips_silently_is_found_by_make_verify(finished: Checkout, copied: Checkout, tally: Tally):
    assert "up to date" in copied.call("dvc", "status", "dvc.yaml").stdout
    for file in READERS:
        silently_flipped(copied.root / "data" / file)
    assert "up to date" in copied.call("dvc", "status", "dvc.yaml").stdout  # DVC cannot know
    with tally("artefact silently flipped, then make verify", len(READERS)):
        assert "modified:           data/suites/nano-3" in verify(copied)
        copied.ran("repro")
        for file in READERS:
            assert (copied.root / "data" / file).read_bytes() == (finished.root / "data" / file).read_bytes(), file


def test_a_damaged_cache_is_found_and_mended(finished: Checkout, copied: Checkout, tally: Tally):
    objects = sorted(path for path in (copied.root / ".dvc/cache/files/md5").rglob("*") if path.is_file())
    with ExitStack() as counting:
        for place, damage in enumerate((cut, emptied, gone, flipped)):
            damaged = objects[place::16]
            counting.enter_context(tally(f"file of the cache {damage.__name__}, then make verify", len(damaged)))
            for path in damaged:
                path.chmod(0o644)
                damage(path)
                if path.exists():
                    path.chmod(0o444)
        assert "not in cache" in verify(copied)
        copied.ran("repro")
        assert copied.hashes() == finished.hashes()
        for path in [path for path in (copied.root / "data").glob("[!.]*/*") if path.parent.name != "runs"]:
            toy.shutil.rmtree(path) if path.is_dir() else path.unlink()
        copied.ran("repro")
        assert copied.hashes() == finished.hashes()
        assert copied.contents("data/suites") == finished.contents("data/suites")
