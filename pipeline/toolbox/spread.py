"""A model's tensors worked on side by side, each by one thread."""

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
    names = list(names)
    if device().type != "cpu":
        return {name: function(name) for name in names}
    with ThreadPoolExecutor(min(workers(), MOST)) as pool:
        return dict(zip(names, pool.map(function, names), strict=True))
