"""From files to one calibration: the draw, the problem, the method's answer.

Functions of paths and numbers only, so that any process can compute its piece from the files alone.
"""

from pathlib import Path

import torch
from torch import Tensor

from pipeline import methods, store
from pipeline.calibrate import Calibration, Problem, draw
from pipeline.merges import Merges
from pipeline.parallel import run
from pipeline.schema import Parameters, Schedule
from pipeline.suite import SuiteFolder, device, to_device


def indices(suite: SuiteFolder, split: str, samples: int, seed: int) -> dict[str, Tensor]:
    """Per task the indices of its calibration images; a pool with fewer than `samples` is used whole."""
    return {task: draw(len(suite.images(split, task)), samples, seed, task) for task in suite.suite.task_names}


def problem(suite: SuiteFolder, teachers: Path, split: str, chosen: dict[str, Tensor]) -> Problem:
    """The calibration problem of one draw, on the device."""
    target, tasks, heads = device(), suite.suite.task_names, suite.heads()
    taught = {task: store.read_array(teachers / f"{task}.npy") for task in tasks}
    return Problem(
        encoder=suite.suite.encoder(),
        base=to_device(suite.base(), target),
        vectors=to_device(suite.vectors(), target),
        heads=tuple(heads[task].to(target) for task in tasks),
        images=tuple(torch.from_numpy(suite.images(split, task)[chosen[task].numpy()]).to(target) for task in tasks),
        teachers=tuple(torch.from_numpy(taught[task][chosen[task].numpy()]).to(target) for task in tasks),
    )


def calibrate(
    folder: Path,
    teachers: Path,
    method: str,
    params: Parameters,
    schedule: Schedule,
    split: str,
    samples: int,
    seed: int,
) -> Calibration:
    """One calibration of a method: one draw of `samples` images per task, one seed."""
    suite = SuiteFolder(folder)
    task = problem(suite, teachers, split, indices(suite, split, samples, seed))
    found: Calibration = methods.load(method).calibrate(task, schedule, seed, params)
    return Calibration(found.coefficients.cpu(), found.losses.cpu())


def calibrate_seeds(
    folder: Path,
    teachers: Path,
    method: str,
    params: Parameters,
    schedule: Schedule,
    split: str,
    samples: tuple[int, ...],
    seeds: tuple[int, ...],
) -> list[Merges]:
    """A method's merges for every number of samples, each over all seeds; the runs share the machine's cores."""
    runs = [(folder, teachers, method, params, schedule, split, k, seed) for k in samples for seed in seeds]
    found = run(calibrate, runs, method)
    suite = SuiteFolder(folder)
    answers = []
    for position, k in enumerate(samples):
        cell = found[position * len(seeds) : (position + 1) * len(seeds)]
        draws = [indices(suite, split, k, seed) for seed in seeds]
        answers.append(
            Merges(
                seeds=seeds,
                samples={task: len(chosen) for task, chosen in draws[0].items()},
                groups=suite.suite.groups,
                coefficients=torch.stack([one.coefficients for one in cell])[:, None],
                losses=torch.stack([one.losses for one in cell]),
                draws={task: torch.stack([chosen[task] for chosen in draws]) for task in suite.suite.task_names},
            )
        )
    return answers
