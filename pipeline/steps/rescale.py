"""The scale of a merge, chosen without labels: theta_0 + factor * (theta - theta_0).

    factor = argmin over a grid of sum_t KL(expert_t || merged(factor))        on unlabelled images of every task

Most data-free methods have a scale that their papers tune on labelled validation data. The distillation objective of
SAMerging (arXiv 2512.21288) orders the same candidates with the expert as the only judge; one number is fitted, by
evaluation alone. Every method is given the same images, grid and objective, so that what is left between two of them
is the direction of their merged deltas. The objective is ours: no paper is reproduced here.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field, field_validator

from pipeline.calibration.objectives import distillation
from pipeline.merges import storage
from pipeline.merges.solution import Solution
from pipeline.merges.storage import Merges
from pipeline.models.features import encode
from pipeline.models.suite import SuiteFolder
from pipeline.models.weights import to_device
from pipeline.runtime import store
from pipeline.runtime.device import device
from pipeline.runtime.errors import BenchmarkError
from pipeline.runtime.parallel import run
from pipeline.runtime.schema import Parameters
from pipeline.steps.refinement import NotRefinable, drawn, refined, solution, starts

HEADER = ("seed", "factor", "loss", "chosen", "edge")
"""loss: nats, summed over tasks; chosen: 1 for the factor that was kept; edge: 1 for the ends of the grid, where a
chosen factor only says that the best one may lie beyond."""
Row = tuple[int, float, str, int, int]


class Rescale(Parameters):
    """samples: unlabelled images per task; temperature: of the softmax on both sides; factors: of the whole delta."""

    samples: int = Field(64, ge=1)
    temperature: float = Field(2.0, gt=0)
    factors: list[Annotated[float, Field(gt=0)]] = Field(
        [0.1, 0.2, 0.3, 0.5, 0.7, 0.85, 1.0, 1.2, 1.5, 2.0, 3.0], min_length=1
    )

    @field_validator("factors")
    @classmethod
    def _distinct(cls, factors: list[float]) -> list[float]:
        if len(set(factors)) != len(factors):
            raise ValueError("values must differ")
        return factors


def losses(
    folder: Path, teachers: Path, artefact: Path, index: int, seed: int, split: str, params: Rescale
) -> list[float]:
    """The loss of every factor, from the images that `seed` draws of `split`.

    The merge is formed once; a factor is a point on the line from theta_0 through it. Raises BenchmarkError where a
    loss is not finite.
    """
    suite, target = SuiteFolder(folder), device()
    (model,) = storage.models(suite, artefact, index)
    base, merged = to_device(suite.base(), target), to_device(model.weights, target)
    chosen = {task: drawn(suite, split, task, params.samples, seed).numpy() for task in model.tasks}
    images = {task: suite.images(split, task)[indices] for task, indices in chosen.items()}
    taught = {task: store.read_array(teachers / f"{task}.npy")[indices] for task, indices in chosen.items()}
    divergence = distillation(params.temperature)
    found = []
    for factor in params.factors:
        weights = {name: torch.lerp(base[name], merged[name], factor) for name in base}
        total = 0.0
        for task in model.tasks:
            logits = encode(model.encoder, weights, images[task], target) @ model.heads[task].to(target).T
            total += float(divergence(logits, torch.from_numpy(taught[task]).to(target)))
        if not math.isfinite(total):
            raise BenchmarkError(
                f"{artefact}: the loss at rescale.factors = {factor} is {total}, expected a finite number; take the "
                f"factor off the grid"
            )
        found.append(total)
    return found


def scaled(one: Solution, factor: float) -> Solution:
    """The merge with its delta multiplied by `factor`."""
    if one.delta is not None:
        return Solution(delta={name: factor * tensor for name, tensor in one.delta.items()})
    return Solution(factor * one.coefficients)


def rescale(
    folder: Path, teachers: Path, artefact: Path, split: str, seeds: Sequence[int], params: Rescale
) -> tuple[Merges, list[Row]]:
    """The artefact at its best factor, per seed, and the losses of all factors: see HEADER.

    Of equal losses the first factor of the grid is kept. Raises NotRefinable for a merge with extras or with one model
    per task.
    """
    pairs, first = starts(artefact, seeds), solution(artefact, 0)
    if first.coefficients is not None and first.coefficients.ndim == 3:
        raise NotRefinable(
            f"{artefact}: the merge has one model per task, expected one for all; take the method off methods.rescale "
            f"in params.yaml"
        )
    found = run(losses, [(folder, teachers, artefact, *pair, split, params) for pair in pairs], "rescale")
    best = [min(range(len(each)), key=each.__getitem__) for each in found]
    ends = {min(params.factors), max(params.factors)}
    rows = [
        (seed, factor, f"{loss:.6g}", int(position == kept), int(factor in ends))
        for (_, seed), kept, each in zip(pairs, best, found, strict=True)
        for position, (factor, loss) in enumerate(zip(params.factors, each, strict=True))
    ]
    solutions = [
        scaled(solution(artefact, index), params.factors[kept]) for (index, _), kept in zip(pairs, best, strict=True)
    ]
    own = [seed for _, seed in pairs]
    return refined(SuiteFolder(folder), artefact, split, params.samples, own, solutions), rows
