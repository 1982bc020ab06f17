"""Work on a model's tensors in parallel, each by one thread."""

import ctypes
import multiprocessing
from collections.abc import Callable, Iterable
from multiprocessing.context import ForkServerProcess
from threading import Semaphore, Thread
from typing import TypeVar

import torch

from pipeline.runtime.device import device
from pipeline.runtime.parallel import count_workers

MAX_THREADS = 4
"""Threads at most: each holds a tensor of all tasks, and a merge must fit the memory of a few models."""
Value = TypeVar("Value")


def map_tensors(function: Callable[[str], Value], names: Iterable[str]) -> dict[str, Value]:
    """Return {name: function(name)} in the order of the names, computed in parallel.

    On the CPU there is a thread per core, up to MAX_THREADS, or a single one in a worker process; on a GPU the calls
    run in turn. The bytes are the same each way: calls are independent, and torch computes each with one thread. After
    an error no further call starts, and the error is raised when the running ones have ended. Ctrl-C stops those too:
    Python would interrupt the main thread only, and a large matrix can take minutes.
    """
    names = list(names)
    if device().type != "cpu":
        return {name: function(name) for name in names}
    results: dict[str, Value] = {}
    errors: list[BaseException] = []
    todo, ended = iter(names), Semaphore(0)

    def work() -> None:
        torch.get_num_threads()  # sets the number in this thread: until then its first SVD would take every core
        try:
            for name in todo:
                if errors:
                    return
                results[name] = function(name)
        except BaseException as error:  # noqa: BLE001 - raised below, in the calling thread
            errors.append(error)
        finally:
            ended.release()

    threads = [Thread(target=work) for _ in range(_count())]
    try:
        for thread in threads:
            thread.start()
        for _ in threads:
            while not ended.acquire(timeout=1):  # without a timeout a signal could go unnoticed until the end
                pass
    except KeyboardInterrupt as interrupt:
        errors.append(interrupt)
        for thread in threads:
            if thread.ident:  # SystemExit ends a thread silently
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit))
        raise
    if errors:
        raise errors[0]
    return {name: results[name] for name in names}


def _count() -> int:
    """Return the number of threads; a worker of `pipeline.runtime.parallel` has one core."""
    return 1 if isinstance(multiprocessing.current_process(), ForkServerProcess) else min(count_workers(), MAX_THREADS)
