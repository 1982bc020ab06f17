"""Independent pieces of work on every core of this machine.

On a GPU the pieces run one after the other in this process; on the CPU they run in one single-threaded process per
core. The results are the same bytes however pieces are scheduled: no piece sees another.
"""

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

import psutil
from tqdm import tqdm

from pipeline.runtime.device import device
from pipeline.runtime.errors import BenchmarkError
from pipeline.runtime.processes import begin_worker

Result = TypeVar("Result")


def count_workers() -> int:
    """Return how many processes to use on the CPU: SAMERGING_WORKERS if set, else the cores this process may use."""
    setting = os.environ.get("SAMERGING_WORKERS", "")
    if setting and not (setting.isdigit() and int(setting) > 0):
        raise BenchmarkError(f"SAMERGING_WORKERS={setting!r}: expected a positive whole number")
    return int(setting) if setting else len(os.sched_getaffinity(0))


def run_all(
    function: Callable[..., Result], pieces: Iterable[Sequence[Any]], title: str, need: int = 0
) -> list[Result]:
    """Return [function(*piece) for piece in pieces], in that order; arguments as in `iter_results`."""
    results = dict(iter_results(function, pieces, title, need))
    return [results[index] for index in range(len(results))]


def iter_results(
    function: Callable[..., Result], pieces: Iterable[Sequence[Any]], title: str, need: int = 0, done: int = 0
) -> Iterator[tuple[int, Result]]:
    """Yield (index, function(*pieces[index])) as pieces end, under a progress bar named `title`.

    `function` must be importable from its module and the pieces picklable. `need`: bytes of memory that one piece
    takes; no more of them run at once than fit into free memory. `done`: pieces of the same work that were done before,
    for the progress bar. The first error is raised at once; waiting pieces are dropped and running ones terminated.
    """
    todo = [tuple(piece) for piece in pieces]
    count = min(count_workers(), len(todo))
    if need:
        count = min(count, max(1, psutil.virtual_memory().available // need))
    with tqdm(desc=title, unit="run", total=done + len(todo), initial=done) as bar:
        for index, result in _local(function, todo, title, count):
            bar.update()
            yield index, result


def _local(
    function: Callable[..., Result], todo: Sequence[Sequence[Any]], title: str, count: int
) -> Iterator[tuple[int, Result]]:
    if device().type != "cpu" or count <= 1:
        yield from ((index, function(*piece)) for index, piece in enumerate(todo))
        return
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", function.__module__])
    with ProcessPoolExecutor(count, mp_context=context, initializer=_begin) as pool:
        futures: dict[Future[Result], int] = {pool.submit(function, *piece): at for at, piece in enumerate(todo)}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool as error:
            raise BenchmarkError(
                f"{title}: a worker process was killed, most likely for lack of memory; free some, or set "
                f"SAMERGING_WORKERS below {count}"
            ) from error
        except BaseException:
            for worker in multiprocessing.active_children():
                worker.terminate()
            raise


def _begin() -> None:
    begin_worker()
    device()
