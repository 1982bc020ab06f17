"""Ablation (the paper's Table 5, completed): which part of SAMerging does what.

Objective x sharpness x granularity, every combination, all else equal: images, steps, learning rate, weight decay, rho
and the coefficients at the start. Entropy and task-wise coefficients are AdaMerging's (arXiv 2310.02575), distillation
and sharpness SAMerging's (arXiv 2512.21288). The temperature is that of distillation; entropy has none.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from typing import NamedTuple, get_args

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
from pipeline.steps.calibrate import Setting, indices, need, problem
from pipeline.steps.evaluate import on, replies
from pipeline.studies._trials import marks

OBJECTIVES = ("entropy", "distillation")


class Params(Parameters):
    """What the combinations share and the methods do not."""

    initial_coefficient: float = Field(ge=-2, le=2)
    """Every coefficient at the start, whatever the objective."""


class Variant(NamedTuple):
    """One combination."""

    objective: str
    sharpness: Sharpness
    granularity: Granularity

    @property
    def name(self) -> str:
        """Tells the variant in the scores, in the column `setting`."""
        return "/".join(self)


def variants() -> Iterator[Variant]:
    """Every combination, the plainest first."""
    return map(Variant._make, product(OBJECTIVES, ("none", "sam", "asam"), reversed(get_args(Granularity))))


def solve(
    problem: Problem, schedule: Schedule, seed: int, params: samerging.Params, objective: str, granularity: Granularity
) -> Solution:
    """SAMerging with another objective or granularity; its sharpness is that of `params`."""
    loss = {"entropy": entropy, "distillation": distillation(params.temperature)}[objective]
    settings = params.model_dump(exclude={"temperature"})
    return descend(problem, loss, schedule, seed, granularity=granularity, **settings)


def score(
    setting: Setting, objective: str, granularity: Granularity, samples: int, seed: int, split: str
) -> dict[str, list]:
    """{task: [images used, correct, total, right]} of one variant on a split."""
    suite = SuiteFolder(setting.suite)
    drawn = indices(suite, setting.split, samples, seed)
    solution = solve(problem(setting, drawn), setting.schedule, seed, setting.params, objective, granularity)
    found = marks(replies(storage.serve(suite, solution.cpu()), on(suite, split), f"{objective}, {granularity}-wise"))
    return {task: [len(drawn[task]), *found[task]] for task in suite.suite.task_names}


def rows(setting: Setting, samples: int, seeds: Sequence[int], split: str, work: Resumable) -> list[tuple]:
    """Rows with the columns `pipeline.studies._trials.SCORES`; `setting` tells all that the variants share.

    Raises `memory.NoRoom` before the first one starts if not even one fits into the memory that is free.
    """
    suite = SuiteFolder(setting.suite)
    todo = [(variant, seed) for variant in variants() for seed in seeds]
    pieces = [
        (_with(setting, variant.sharpness), variant.objective, variant.granularity, samples, seed, split)
        for variant, seed in todo
    ]
    found = work.run(score, pieces, "ablation", need(setting, samples))
    return [
        (variant.name, samples, suite.suite.name, setting.method, task, seed, *counts[task])
        for (variant, seed), counts in zip(todo, found, strict=True)
        for task in suite.suite.task_names
    ]


def _with(setting: Setting, sharpness: Sharpness) -> Setting:
    return replace(setting, params=setting.params.model_copy(update={"sharpness": sharpness}))
