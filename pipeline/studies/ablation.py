"""Ablation (the paper's Table 5, completed): the contribution of each part of SAMerging.

Objective x sharpness x granularity, every combination, all else equal: examples, steps, learning rate, weight decay,
rho and initial coefficients. Entropy and task-wise coefficients are AdaMerging's (arXiv 2310.02575), distillation and
sharpness SAMerging's (arXiv 2512.21288). The temperature applies to distillation only; entropy has none.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from typing import NamedTuple, cast, get_args

from pydantic import Field

from pipeline.calibration.descent import Granularity, descend
from pipeline.calibration.objectives import distillation, entropy
from pipeline.calibration.problem import Problem
from pipeline.calibration.sharpness import Sharpness
from pipeline.merges import storage
from pipeline.merges.solution import Solution
from pipeline.methods import samerging
from pipeline.models.suite import SuiteFolder
from pipeline.runtime.resumable import Resumable
from pipeline.runtime.schema import Parameters, Schedule
from pipeline.steps.calibrate import Setting, draw_indices, load_problem, require_memory
from pipeline.steps.evaluate import open_split, predict_classes
from pipeline.studies._trials import mark_answers

OBJECTIVES = ("entropy", "distillation")


class Params(Parameters):
    """What all combinations share, where the methods differ."""

    initial_coefficient: float = Field(ge=-2, le=2)
    """Initial value of every coefficient, for both objectives."""


class Combination(NamedTuple):
    """One combination of the parts."""

    objective: str
    sharpness: Sharpness
    granularity: Granularity

    @property
    def name(self) -> str:
        """Identifies the combination in the scores, in the column `setting`."""
        return "/".join(self)


def list_combinations() -> Iterator[Combination]:
    """Return every combination, the simplest first."""
    return map(Combination._make, product(OBJECTIVES, ("none", "sam", "asam"), reversed(get_args(Granularity))))


def solve_combination(
    problem: Problem, schedule: Schedule, seed: int, params: samerging.Params, objective: str, granularity: Granularity
) -> Solution:
    """Run SAMerging with another objective or granularity; the sharpness is that of `params`."""
    loss = {"entropy": entropy, "distillation": distillation(params.temperature)}[objective]
    settings = params.model_dump(exclude={"temperature"})
    return descend(problem, loss, schedule, seed, granularity=granularity, **settings)


def score_combination(
    setting: Setting, objective: str, granularity: Granularity, samples: int, seed: int, split: str
) -> dict[str, list]:
    """Calibrate one combination; return {task: [examples used, correct, total, right]} on a split.

    `setting`: of SAMerging, whose parameters hold the combination's sharpness.
    """
    suite = SuiteFolder(setting.suite)
    draws = draw_indices(suite, setting.split, samples, seed)
    solution = solve_combination(
        load_problem(setting, draws),
        setting.schedule,
        seed,
        cast(samerging.Params, setting.params),
        objective,
        granularity,
    )
    marks = mark_answers(
        predict_classes(
            storage.serve(suite, solution.cpu()), open_split(suite, split), f"{objective}, {granularity}-wise"
        )
    )
    return {task: [len(draws[task]), *marks[task]] for task in suite.suite.task_names}


def score_combinations(
    setting: Setting, samples: int, seeds: Sequence[int], split: str, work: Resumable
) -> list[tuple]:
    """Return the rows of all combinations and seeds, with the columns `pipeline.studies._trials.TRIAL_COLUMNS`.

    `setting`: of SAMerging, with everything that the combinations share. Raises `memory.NotEnoughMemory` before the
    first calibration starts if the free memory does not suffice for even one.
    """
    suite = SuiteFolder(setting.suite)
    todo = [(combination, seed) for combination in list_combinations() for seed in seeds]
    pieces = [
        (_with(setting, combination.sharpness), combination.objective, combination.granularity, samples, seed, split)
        for combination, seed in todo
    ]
    results = work.run(score_combination, pieces, "ablation", require_memory(setting, samples))
    return [
        (combination.name, samples, suite.suite.name, setting.method, task, seed, *counts[task])
        for (combination, seed), counts in zip(todo, results, strict=True)
        for task in suite.suite.task_names
    ]


def _with(setting: Setting, sharpness: Sharpness) -> Setting:
    return replace(setting, params=setting.params.model_copy(update={"sharpness": sharpness}))
