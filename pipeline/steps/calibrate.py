"""From files to one calibration: the draw, the problem, the method's answer.

Functions of paths and numbers only, so that any process can compute its piece from the files alone.
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
from pipeline.models.sampling import draw
from pipeline.models.suite import SuiteFolder
from pipeline.models.weights import to_device
from pipeline.runtime import store
from pipeline.runtime.device import device
from pipeline.runtime.resumable import Form, Resumable
from pipeline.runtime.schema import PRECISIONS, Parameters, Precision, Schedule

SOLUTION = Form(".safetensors", write_solution, read_solution)


@dataclass(frozen=True)
class Setting:
    """What a calibration depends on beside its number of images and its seed."""

    suite: Path
    teachers: Path
    method: str
    params: Parameters
    schedule: Schedule
    split: str
    """Where calibration images come from."""
    precision: Precision
    tasks: tuple[str, ...] | None = None
    """Merge the experts of these tasks only; by default of all."""

    def folder(self) -> SuiteFolder:
        """The suite, opened."""
        return SuiteFolder(self.suite, self.tasks)


def indices(suite: SuiteFolder, split: str, samples: int, seed: int) -> dict[str, Tensor]:
    """Per task the indices of its calibration images; a pool with fewer than `samples` is used whole."""
    return {task: draw(len(suite.images(split, task)), samples, seed, task) for task in suite.suite.task_names}


def problem(setting: Setting, chosen: dict[str, Tensor]) -> Problem:
    """The calibration problem of one draw, on the device."""
    suite, target = setting.folder(), device()
    tasks, heads = suite.suite.task_names, suite.heads()
    taught = {task: store.read_array(setting.teachers / f"{task}.npy") for task in tasks}
    pools = {task: suite.images(setting.split, task)[chosen[task].numpy()] for task in tasks}
    return Problem(
        encoder=suite.suite.encoder(),
        base=to_device(suite.base(), target),
        vectors=to_device(suite.vectors(), target),
        heads=tuple(heads[task].to(target) for task in tasks),
        images=tuple(torch.from_numpy(pools[task]).to(target) for task in tasks),
        teachers=tuple(torch.from_numpy(taught[task][chosen[task].numpy()]).to(target) for task in tasks),
        tasks=tasks,
        precision=PRECISIONS[setting.precision],
        images_per_pass=memory.images_per_pass(suite.suite, target),
    )


def seen(setting: Setting, samples: int) -> int:
    """How many of `samples` images per task the method looks at: no more than its own `samples`, where it has them.

    Draws are nested, so that its result is the same whether it is given the others or not.
    """
    return min(samples, getattr(setting.params, "samples", samples))


def calibrate(setting: Setting, samples: int, seed: int) -> Solution:
    """One calibration of a method: one draw of as many images per task as it looks at, one seed."""
    drawn = indices(setting.folder(), setting.split, seen(setting, samples), seed)
    return methods.load(setting.method).calibrate(problem(setting, drawn), setting.schedule, seed, setting.params).cpu()


def need(setting: Setting, samples: int) -> int:
    """Bytes that one calibration takes; raises `memory.NoRoom` if that is more than is free."""
    footprint = getattr(methods.load(setting.method), "FOOTPRINT", Footprint())
    batch = getattr(setting.params, "batch_size", setting.schedule.batch_size)
    return memory.calibration(setting.folder(), setting.split, seen(setting, samples), batch, device(), footprint)


def calibrate_seeds(setting: Setting, samples: int, seeds: Sequence[int], work: Resumable) -> Merges:
    """A method's merges over all seeds; the runs share the machine's cores.

    Images that it does not look at do not count as used. Raises `memory.NoRoom` before the first run starts if not
    even one fits into the memory that is free.
    """
    suite = setting.folder()
    runs = [(setting, samples, seed) for seed in seeds]
    found = work.run(calibrate, runs, setting.method, need(setting, samples), SOLUTION)
    draws = [indices(suite, setting.split, seen(setting, samples), seed) for seed in seeds]
    return Merges(
        seeds=tuple(seeds),
        samples={task: len(chosen) for task, chosen in draws[0].items()},
        groups=suite.suite.groups,
        solutions=found,
        draws={task: torch.stack([chosen[task] for chosen in draws]) for task in suite.suite.task_names},
    )
