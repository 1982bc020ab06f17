"""A model's tensors worked on side by side, each by one thread."""

import ctypes
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from pipeline.parallel import workers
from pipeline.suite import device

MOST = 4
"""Threads at most, however many cores: each holds a tensor of all tasks, and a merge takes the memory of few models."""
Result = TypeVar("Result")


def spread(function: Callable[[str], Result], names: Iterable[str]) -> dict[str, Result]:
    """{name: function(name)} in the order of the names; the first error is raised when what runs has ended.

    On the CPU a thread per core, up to MOST; on a GPU one after the other. The same bytes either way: a call sees no
    other, and torch computes it with one thread.
    """
    names, running = list(names), set[int]()
    if device().type != "cpu":
        return {name: function(name) for name in names}

    def known(name: str) -> Result:
        running.add(threading.get_ident())
        try:
            return function(name)
        finally:
            running.discard(threading.get_ident())

    with ThreadPoolExecutor(min(workers(), MOST)) as pool:
        try:
            return dict(zip(names, pool.map(known, names), strict=True))
        except KeyboardInterrupt:
            # Python tells this thread alone: the others would go on, for minutes with a large matrix.
            for thread in tuple(running):
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(KeyboardInterrupt))
            raise
