"""Merge without data: check that the memory is enough, then run the method once or once per seed."""

import math
from collections.abc import Mapping, Sequence
from types import ModuleType

import psutil
import torch
from torch import Tensor

from pipeline.merges.solution import Solution
from pipeline.merges.storage import Merges
from pipeline.models.suite import SuiteFolder
from pipeline.models.task_vectors import TaskVectors
from pipeline.models.weights import Weights
from pipeline.runtime.errors import BenchmarkError
from pipeline.runtime.schema import Parameters

GIB = 1 << 30
RUNTIME = GIB // 2
"""What Python and torch take themselves."""


class TooLarge(BenchmarkError):
    """Raised when the free memory is too small for a merge."""


def minimum_memory(shapes: Mapping[str, Sequence[int]], tasks: int) -> int:
    """Return the bytes that any data-free merge takes, in float32.

    They hold one merged delta, and the largest tensor's task vectors of all tasks while they are formed, in addition to
    its values in theta_0 and in one expert.
    """
    sizes = [4 * math.prod(shape) for shape in shapes.values()]
    return RUNTIME + sum(sizes) + (tasks + 2) * max(sizes)


def check_memory(folder: SuiteFolder, target: torch.device) -> None:
    """Raise TooLarge, with what to do, if less than `minimum_memory` is free on the device."""
    suite, shapes = folder.suite, folder.base().shapes()
    needed = minimum_memory({name: shapes[name] for name in suite.groups}, len(suite.tasks))
    free = torch.cuda.mem_get_info(target)[0] if target.type == "cuda" else psutil.virtual_memory().available
    if needed > free:
        raise TooLarge(
            f"merging {len(suite.tasks)} experts of {suite.name} takes at least {needed / GIB:.1f} GiB of memory on "
            f"{target}, {free / GIB:.1f} are free; free some, use a suite with fewer tasks, or choose another device "
            f"with SAMERGING_DEVICE"
        )


def merge_data_free(method: ModuleType, vectors: TaskVectors, params: Parameters, tasks: Sequence[str]) -> Merges:
    """Merge by a data-free method: once, or once for each of its `seeds` if it draws."""
    seeds: tuple[int | None, ...] = (None,)
    if hasattr(params, "seeds"):
        seeds = tuple(params.seeds)
        answers = [method.merge(vectors, params, seed) for seed in seeds]
    else:
        answers = [method.merge(vectors, params)]
    return Merges(seeds, dict.fromkeys(tasks, 0), (*vectors,), [_solution(answer) for answer in answers])


def _solution(answer: Tensor | Weights | Solution) -> Solution:
    if isinstance(answer, Solution):
        return answer
    return Solution(answer) if isinstance(answer, Tensor) else Solution(delta=answer)
