"""Resumable work keeps finished pieces, gives the same in any process, and starts over when the code changes."""

import os
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from pipeline.merges.solution import Extras, Solution
from pipeline.merges.storage import read_solution, write_solution
from pipeline.runtime import parallel
from pipeline.runtime.errors import BenchmarkError
from pipeline.runtime.resumable import JSON, Resumable, open_work


@dataclass(frozen=True)
class Setting:
    """An argument that identifies a piece."""

    factor: int


def product(setting: Setting, other: int, log: Path) -> dict[str, int]:
    """Compute a piece, append a line to `log`, and refuse negative numbers."""
    with log.open("a") as file:
        file.write(f"{setting.factor} {other}\n")
    if other < 0:
        raise BenchmarkError(f"{other} is negative")
    return {"product": setting.factor * other}


def worker(_: int) -> int:
    """Return the id of the process that computes a piece."""
    return os.getpid()


def die(number: int) -> int:
    """End the process of piece 1 as if it were killed."""
    if number == 1:
        os._exit(9)
    return number


def lines(log: Path) -> list[str]:
    """List the pieces that were computed."""
    return sorted(log.read_text().splitlines())


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The log of computed pieces, in the current folder; everything runs in this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAMERGING_WORKERS", "1")
    return tmp_path / "log.txt"


def test_only_missing_pieces_are_computed(log: Path):
    work = Resumable(Path("kept"), ())
    first = work.run(product, [(Setting(2), 3, log), (Setting(2), 4, log)], "first")
    assert first == [{"product": 6}, {"product": 8}]
    again = work.run(product, [(Setting(2), 5, log), (Setting(2), 4, log), (Setting(3), 3, log)], "again")
    assert again == [{"product": 10}, {"product": 8}, {"product": 9}]
    assert lines(log) == ["2 3", "2 4", "2 5", "3 3"]


def test_equal_pieces_are_computed_once(log: Path):
    assert Resumable(Path("kept"), ()).run(product, [(Setting(2), 3, log)] * 3, "equal") == [{"product": 6}] * 3
    assert lines(log) == ["2 3"]


def test_pieces_finished_before_an_error_are_kept(log: Path):
    work = Resumable(Path("kept"), ())
    with pytest.raises(BenchmarkError, match="-1 is negative"):
        work.run(product, [(Setting(2), 3, log), (Setting(2), -1, log), (Setting(2), 4, log)], "failing")
    assert work.run(product, [(Setting(2), 3, log), (Setting(2), 4, log)], "rest") == [{"product": 6}, {"product": 8}]
    assert lines(log) == ["2 -1", "2 3", "2 4"]


def test_an_unfinished_file_is_not_a_piece(log: Path):
    work = Resumable(Path("kept"), ())
    work.folder.mkdir()
    (work.folder / ".something.json.tmp").write_text("{")
    assert work.run(product, [(Setting(2), 3, log)], "one") == [{"product": 6}]


def test_processes_give_the_same_files(log: Path, monkeypatch: pytest.MonkeyPatch):
    pieces = [(Setting(factor), other, log) for factor in (1, 2, 3) for other in (4, 5)]
    alone = Resumable(Path("alone"), ())
    alone.run(product, pieces, "alone")
    monkeypatch.setenv("SAMERGING_WORKERS", "2")
    shared = Resumable(Path("shared"), ())
    shared.run(product, pieces[::-1], "shared")
    contents = [{file.name: file.read_bytes() for file in work.folder.iterdir()} for work in (alone, shared)]
    assert contents[0] == contents[1]
    assert len(contents[0]) == len(pieces)


def test_other_code_removes_old_pieces(log: Path):
    old = open_work("stage", [], "old code")
    old.run(product, [(Setting(2), 3, log)], "old")
    assert open_work("stage", [], "old code").folder == old.folder
    assert [*old.folder.iterdir()]
    other = open_work("other", [], "code")
    other.run(product, [(Setting(2), 3, log)], "other stage")
    new = open_work("stage", [], "new code")
    assert new.folder != old.folder
    assert not old.folder.exists()
    assert [*other.folder.iterdir()]
    other.clear()
    assert not other.folder.exists()


def test_a_solution_is_read_as_written(tmp_path: Path):
    coefficients, losses = torch.rand(3, 5), torch.rand(4)
    tensors = {"a.weight": torch.rand(2, 3), "b": torch.zeros(1)}
    for index, solution in enumerate(
        [
            Solution(coefficients, losses=losses),
            Solution(delta=tensors, extras=Extras("masks", {"x/y": torch.ones(2)})),
            Solution(coefficients[None], extras=Extras("heads", tensors)),
        ]
    ):
        path = tmp_path / f"{index}.safetensors"
        write_solution(path, solution)
        loaded = read_solution(path)
        for name in ("coefficients", "losses"):
            expected, actual = getattr(solution, name), getattr(loaded, name)
            assert (expected is None and actual is None) or torch.equal(expected, actual)
        assert (loaded.delta or {}).keys() == (solution.delta or {}).keys()
        assert all(torch.equal(loaded.delta[name], tensor) for name, tensor in (solution.delta or {}).items())
        if solution.extras is None:
            assert loaded.extras is None
        else:
            assert loaded.extras.kind == solution.extras.kind
            torch.testing.assert_close(dict(loaded.extras.tensors), dict(solution.extras.tensors), rtol=0, atol=0)
    assert JSON.suffix == ".json"


def test_pieces_too_large_to_run_in_parallel_run_in_this_process(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SAMERGING_WORKERS", "2")
    assert set(parallel.run_all(worker, [(1,), (2,)], "large", need=1 << 60)) == {os.getpid()}
    assert os.getpid() not in parallel.run_all(worker, [(1,), (2,)], "small", need=1)


def test_a_killed_worker_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SAMERGING_WORKERS", "2")
    with pytest.raises(BenchmarkError, match=r"^dying: a worker process was killed.*SAMERGING_WORKERS below 2$"):
        parallel.run_all(die, [(0,), (1,), (2,)], "dying")


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5"])
def test_a_wrong_number_of_workers_is_refused(monkeypatch: pytest.MonkeyPatch, value: str):
    monkeypatch.setenv("SAMERGING_WORKERS", value)
    with pytest.raises(BenchmarkError, match="SAMERGING_WORKERS"):
        parallel.run_all(worker, [(1,)], "none")
