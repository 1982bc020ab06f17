"""Calibrate a method from files: draw examples, load the problem, run the method.

Every function takes paths and numbers only, so that any process can compute its piece from the files alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pipeline import methods
from pipeline.calibration import memory
from pipeline.calibration.problem import Footprint, Problem
from pipeline.merges.solution import Solution
from pipeline.merges.storage import Merges, read_solution, write_solution
from pipeline.models.suite import SuiteFolder
from pipeline.models.weights import to_device
from pipeline.runtime import store
from pipeline.runtime.device import device
from pipeline.runtime.resumable import Form, Resumable
from pipeline.runtime.schema import Parameters, Precision, Schedule
from pipeline.statistics.sampling import sample_indices

SOLUTION = Form(".safetensors", write_solution, read_solution)


@dataclass(frozen=True)
class Setting:
    """Everything that a calibration depends on, except its number of examples and its seed."""

    suite: Path
    teachers: Path
    method: str
    params: Parameters
    schedule: Schedule
    split: str
    """The split of the calibration examples."""
    precision: Precision
    tasks: tuple[str, ...] | None = None
    """The tasks whose experts are merged; None for all."""

    def folder(self) -> SuiteFolder:
        """Open the suite."""
        return SuiteFolder(self.suite, self.tasks)


def draw_indices(suite: SuiteFolder, split: str, samples: int, seed: int) -> dict[str, Tensor]:
    """Draw the indices of every task's calibration examples; a pool with fewer than `samples` is used whole."""
    pools = {task: len(suite.examples(split, task)) for task in suite.suite.task_names}
    return {task: sample_indices(pool, samples, seed, task) for task, pool in pools.items()}


def load_problem(setting: Setting, indices: dict[str, Tensor]) -> Problem:
    """Load the calibration problem of one draw onto the device; `indices` per task as `draw_indices` returns them."""
    suite, target = setting.folder(), device()
    tasks, heads = suite.suite.task_names, suite.heads()
    teachers = {task: store.read_array(setting.teachers / f"{task}.npy") for task in tasks}
    examples = {task: suite.examples(setting.split, task)[indices[task].numpy()] for task in tasks}
    return Problem(
        encoder=suite.suite.encoder(),
        base=to_device(suite.base(), target),
        vectors=to_device(suite.vectors(), target),
        heads=tuple(heads[task].to(target) for task in tasks),
        examples=tuple(torch.from_numpy(examples[task]).to(target) for task in tasks),
        teachers=tuple(torch.from_numpy(teachers[task][indices[task].numpy()]).to(target) for task in tasks),
        tasks=tasks,
        precision=getattr(torch, setting.precision),
        examples_per_pass=memory.examples_per_pass(suite.suite.encoder(), suite.blank(), target),
    )


def examples_seen(setting: Setting, samples: int) -> int:
    """Return how many of `samples` examples per task the method uses: at most its own parameter `samples`, if any.

    Draws are nested, so the result of the method does not depend on whether the other examples are loaded.
    """
    return min(samples, getattr(setting.params, "samples", samples))


def calibrate(setting: Setting, samples: int, seed: int) -> Solution:
    """Calibrate a method once, with one seed and one draw of as many examples per task as it uses."""
    indices = draw_indices(setting.folder(), setting.split, examples_seen(setting, samples), seed)
    problem = load_problem(setting, indices)
    return methods.load(setting.method).calibrate(problem, setting.schedule, seed, setting.params).cpu()


def require_memory(setting: Setting, samples: int) -> int:
    """Return the bytes that one calibration takes; raise `memory.NotEnoughMemory` if fewer are free."""
    footprint = getattr(methods.load(setting.method), "FOOTPRINT", Footprint())
    batch = getattr(setting.params, "batch_size", setting.schedule.batch_size)
    seen = examples_seen(setting, samples)
    return memory.estimate_memory(setting.folder(), setting.split, seen, batch, device(), footprint)


def calibrate_seeds(setting: Setting, samples: int, seeds: Sequence[int], work: Resumable) -> Merges:
    """Calibrate a method with every seed; the runs share the machine's cores.

    The parameter `seeds` of a method, if it has one, takes the place of `seeds`. Images that the method does not use
    are not counted. Raises `memory.NotEnoughMemory` before the first run starts if the free memory is too small for a
    single one.
    """
    suite, seeds = setting.folder(), getattr(setting.params, "seeds", seeds)
    runs = [(setting, samples, seed) for seed in seeds]
    solutions = work.run(calibrate, runs, setting.method, require_memory(setting, samples), SOLUTION)
    draws = [draw_indices(suite, setting.split, examples_seen(setting, samples), seed) for seed in seeds]
    return Merges(
        seeds=tuple(seeds),
        samples={task: len(indices) for task, indices in draws[0].items()},
        groups=suite.suite.groups,
        solutions=solutions,
        draws={task: torch.stack([indices[task] for indices in draws]) for task in suite.suite.task_names},
    )
