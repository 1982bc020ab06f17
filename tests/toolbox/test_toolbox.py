"""Entrywise parts, dropped entries and parallel threads: results do not depend on how work is divided."""

import math
import os
import signal
import threading
import time

import pytest
import torch
from torch import Tensor

from pipeline.runtime import parallel
from pipeline.runtime.errors import BenchmarkError
from pipeline.runtime.threads import MAX_THREADS, map_tensors
from pipeline.toolbox import parts as cutting
from pipeline.toolbox.dropping import drop_entries
from pipeline.toolbox.parts import apply_entrywise, split_entries
from tests.methods.test_contract import DATA_FREE, equal, solutions_of, toy_vectors
from tests.support.pretend_gpu import pretended

STACKED = torch.arange(24.0).view(2, 3, 4)


def test_parts_are_the_entries_in_order(monkeypatch: pytest.MonkeyPatch):
    (whole,) = split_entries(STACKED)
    assert torch.equal(whole, STACKED.flatten(1))
    monkeypatch.setattr(cutting, "PART", 5)
    cut = split_entries(STACKED)
    assert [part.shape for part in cut] == [(2, 5), (2, 7)]
    assert torch.equal(torch.cat(cut, dim=1), whole)
    assert all(part.untyped_storage().data_ptr() == STACKED.untyped_storage().data_ptr() for part in cut)
    assert [part.shape for part in split_entries(torch.ones(2))] == [(2, 1)]


def test_a_gpu_tensor_is_not_split(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cutting, "PART", 5)
    with pretended():
        assert len(split_entries(STACKED.to("cuda"))) == 1


def test_entrywise_has_the_shape_of_one_task(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cutting, "PART", 5)
    weights = torch.arange(12.0).view(3, 4)
    total = apply_entrywise(lambda stacked, factor: (stacked * factor).sum(0), STACKED, weights)
    assert torch.equal(total, (STACKED * weights).sum(0))


@pytest.mark.parametrize("rest", range(16))
@pytest.mark.parametrize("tasks", [3, 5, 8, 20])
def test_a_sum_over_tasks_has_the_same_bits_in_parts(tasks: int, rest: int):
    stacked = torch.randn(tasks, 2 * cutting.PART + rest, generator=torch.Generator().manual_seed(0))
    assert len(split_entries(stacked)) == 2
    assert torch.equal(apply_entrywise(lambda part: part.sum(0), stacked), stacked.sum(0))


@pytest.mark.parametrize("name", DATA_FREE)
def test_data_free_methods_do_not_depend_on_parts_or_threads(name: str, monkeypatch: pytest.MonkeyPatch):
    vectors, *_ = toy_vectors(torch.float32)
    monkeypatch.setenv("SAMERGING_WORKERS", "1")
    alone = solutions_of(name, vectors)
    monkeypatch.setenv("SAMERGING_WORKERS", "4")
    together = solutions_of(name, vectors)
    assert all(map(equal, alone, together))
    if name not in ("emr", "nan", "nan_weights"):  # these sum over a model, in float64
        monkeypatch.setattr(cutting, "PART", 3)
        assert all(map(equal, alone, solutions_of(name, vectors)))


def test_tensors_are_mapped_in_parallel_and_returned_in_order(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SAMERGING_WORKERS", "64")
    torch.set_num_threads(2)
    meeting = threading.Barrier(MAX_THREADS, timeout=20)
    seen: list[int] = []

    def double(name: str) -> str:
        meeting.wait()  # as many as that at once
        seen.append(torch.get_num_threads())
        return name * 2

    names = [str(index) for index in range(MAX_THREADS)]
    assert list(map_tensors(double, names).items()) == [(name, name * 2) for name in names]
    assert {*seen} == {1}


def test_the_first_decomposition_of_a_thread_takes_one_core(monkeypatch: pytest.MonkeyPatch):
    """By more threads than one, LAPACK gives singular vectors other last bits."""
    monkeypatch.setenv("SAMERGING_WORKERS", "2")
    matrix = torch.randn(700, 900, generator=torch.Generator().manual_seed(0))
    expected = torch.linalg.svd(matrix, full_matrices=False)
    for parts in map_tensors(lambda _: torch.linalg.svd(matrix, full_matrices=False), "ab").values():
        assert all(map(torch.equal, parts, expected))


def test_the_first_error_stops_the_work(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SAMERGING_WORKERS", "1")
    begun = []

    def fail(name: str) -> Tensor:
        begun.append(name)
        raise BenchmarkError(f"{name} fails")

    with pytest.raises(BenchmarkError, match="a fails"):
        map_tensors(fail, ["a", *map(str, range(100))])
    assert begun == ["a"]


def test_ctrl_c_stops_the_other_threads(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SAMERGING_WORKERS", "2")
    meeting, begun, steps, most = threading.Barrier(2, timeout=20), [], [], 3000
    before = threading.active_count()

    def work(name: str) -> None:
        begun.append(name)
        if meeting.wait() == 0:
            time.sleep(0.2)  # so that the main thread waits
            os.kill(os.getpid(), signal.SIGINT)
        for _ in range(most):
            time.sleep(0.01)
            steps.append(name)

    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            map_tensors(work, "abcdef")
    finally:
        signal.signal(signal.SIGINT, handler)
    while threading.active_count() > before:
        time.sleep(0.01)
    assert sorted(begun) == ["a", "b"]
    assert len(steps) < most


def count_threads() -> int:
    """Return the number of threads that take part."""

    def identify_thread(_: str) -> int:
        time.sleep(0.05)  # long enough for a second thread to take the next
        return threading.get_ident()

    return len({*map_tensors(identify_thread, "abcdefgh").values()})


def test_a_worker_process_uses_one_thread(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SAMERGING_WORKERS", "2")
    assert count_threads() == 2
    assert parallel.run_all(count_threads, [(), ()], "workers") == [1, 1]


def test_dropped_entries_do_not_overflow():
    vector = torch.full((1000,), 3e38)
    dropped = drop_entries(vector, 0.5, torch.Generator().manual_seed(0))
    assert {*dropped.tolist()} == {0.0, math.inf}


def test_tensors_are_mapped_one_by_one_on_a_gpu():
    with pretended():
        assert map_tensors(lambda _: threading.get_ident(), "ab") == dict.fromkeys("ab", threading.get_ident())
