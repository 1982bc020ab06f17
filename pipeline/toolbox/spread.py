"""A model's tensors worked on side by side, each by one thread."""

import ctypes
import multiprocessing
from collections.abc import Callable, Iterable
from multiprocessing.context import ForkServerProcess
from threading import Semaphore, Thread
from typing import TypeVar

from pipeline.runtime.device import device
from pipeline.runtime.parallel import workers

MOST = 4
"""Threads at most, however many cores: each holds a tensor of all tasks, and a merge takes the memory of few models."""
Result = TypeVar("Result")


def spread(function: Callable[[str], Result], names: Iterable[str]) -> dict[str, Result]:
    """{name: function(name)} in the order of the names.

    On the CPU a thread per core, up to MOST, or one where this process is itself one of many; on a GPU one after the
    other. The same bytes each way: a call sees no other, and torch computes it with one thread. After an error no
    further call begins, and it is raised when those that run have ended. Ctrl-C ends those too: Python would tell the
    main thread alone, and a large matrix can take minutes.
    """
    names = list(names)
    if device().type != "cpu":
        return {name: function(name) for name in names}
    found: dict[str, Result] = {}
    errors: list[BaseException] = []
    todo, ended = iter(names), Semaphore(0)

    def work() -> None:
        try:
            for name in todo:
                if errors:
                    return
                found[name] = function(name)
        except BaseException as error:  # noqa: BLE001 - raised below, in the thread that asked
            errors.append(error)
        finally:
            ended.release()

    threads = [Thread(target=work) for _ in range(_count())]
    try:
        for thread in threads:
            thread.start()
        for _ in threads:
            while not ended.acquire(timeout=1):  # a signal just before a wait without end would be seen at its end
                pass
    except KeyboardInterrupt as interrupt:
        errors.append(interrupt)
        for thread in threads:
            if thread.ident:  # SystemExit ends a thread without a word
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit))
        raise
    if errors:
        raise errors[0]
    return {name: found[name] for name in names}


def _count() -> int:
    """Threads to use: a worker of `pipeline.runtime.parallel` has one core."""
    return 1 if isinstance(multiprocessing.current_process(), ForkServerProcess) else min(workers(), MOST)
