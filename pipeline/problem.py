"""From files to one calibration: the draw, the problem, the method's answer.

Functions of paths and numbers only, so that any process can compute its piece from the files alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pipeline import memory, methods, store
from pipeline.calibrate import Problem
from pipeline.cells import Cells, Form
from pipeline.draws import draw
from pipeline.merges import Merges, read_solution, write_solution
from pipeline.schema import PRECISIONS, Parameters, Precision, Schedule
from pipeline.solution import Solution
from pipeline.suite import SuiteFolder, device, to_device

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


def calibrate(setting: Setting, samples: int, seed: int) -> Solution:
    """One calibration of a method: one draw of `samples` images per task, one seed."""
    drawn = indices(setting.folder(), setting.split, samples, seed)
    return methods.load(setting.method).calibrate(problem(setting, drawn), setting.schedule, seed, setting.params).cpu()


def calibrate_seeds(setting: Setting, samples: Sequence[int], seeds: Sequence[int], cells: Cells) -> list[Merges]:
    """A method's merges for every number of samples, each over all seeds; the runs share the machine's cores.

    Raises `memory.NoRoom` before the first one starts if not even one fits into the memory that is free.
    """
    suite = setting.folder()
    need = memory.calibration(suite, setting.split, max(samples), device())
    runs = [(setting, k, seed) for k in samples for seed in seeds]
    found = cells.run(calibrate, runs, setting.method, need, SOLUTION)
    answers = []
    for position, k in enumerate(samples):
        draws = [indices(suite, setting.split, k, seed) for seed in seeds]
        answers.append(
            Merges(
                seeds=tuple(seeds),
                samples={task: len(chosen) for task, chosen in draws[0].items()},
                groups=suite.suite.groups,
                solutions=found[position * len(seeds) : (position + 1) * len(seeds)],
                draws={task: torch.stack([chosen[task] for chosen in draws]) for task in suite.suite.task_names},
            )
        )
    return answers
