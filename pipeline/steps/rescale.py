"""Choose the scale of a merge without labels: theta_0 + factor * (theta - theta_0).

    factor = argmin over a grid of sum_t KL(expert_t || merged(factor))        on unlabelled examples of every task

Most data-free methods have a scale that their papers tune on labelled validation data. The distillation objective of
SAMerging (arXiv 2512.21288) ranks the same candidates by their agreement with the experts; one number is fitted, by
evaluation alone. Every method gets the same examples, grid and objective, so that two rescaled methods differ in the
direction of their merged deltas only. The objective is ours: no paper is reproduced here.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field

from pipeline.calibration.objectives import distillation
from pipeline.merges import storage
from pipeline.merges.solution import Solution
from pipeline.merges.storage import Merges
from pipeline.models.examples import encode
from pipeline.models.suite import SuiteFolder
from pipeline.models.weights import to_device
from pipeline.runtime import store
from pipeline.runtime.device import device
from pipeline.runtime.errors import BenchmarkError
from pipeline.runtime.parallel import run_all
from pipeline.runtime.schema import DISTINCT, Parameters
from pipeline.steps.refinement import (
    assemble_merges,
    draw_task_indices,
    load_solution,
    plan_runs,
    require_one_model,
)

FACTOR_COLUMNS = ("seed", "factor", "loss", "chosen", "edge")
"""loss: nats, summed over tasks; chosen: 1 for the factor that was kept; edge: 1 for the ends of the grid. If a chosen
factor is at an end, a better one may lie outside the grid."""
FactorRow = tuple[int, float, str, int, int]


class Rescale(Parameters):
    """samples: unlabelled examples per task; temperature: of the softmax on both sides; factors: of the whole delta."""

    samples: int = Field(64, ge=1)
    temperature: float = Field(2.0, gt=0)
    factors: Annotated[list[Annotated[float, Field(gt=0)]], DISTINCT] = Field(
        [0.1, 0.2, 0.3, 0.5, 0.7, 0.85, 1.0, 1.2, 1.5, 2.0, 3.0], min_length=1
    )


def measure_losses(
    folder: Path, teachers: Path, artefact: Path, index: int, seed: int, split: str, params: Rescale
) -> list[float]:
    """Measure the loss of every factor on the examples that `seed` draws from `split`.

    The merge is formed once; a factor is a point on the line from theta_0 through it. Raises BenchmarkError if a loss
    is not finite.
    """
    suite, target = SuiteFolder(folder), device()
    (model,) = storage.load_models(suite, artefact, index)
    base, merged = to_device(suite.base(), target), to_device(model.weights, target)
    draws = {task: draw_task_indices(suite, split, task, params.samples, seed).numpy() for task in model.tasks}
    examples = {task: suite.examples(split, task)[indices] for task, indices in draws.items()}
    logits = {task: store.read_array(teachers / f"{task}.npy")[indices] for task, indices in draws.items()}
    divergence = distillation(params.temperature)
    losses = []
    for factor in params.factors:
        weights = {name: torch.lerp(base[name], merged[name], factor) for name in base}
        total = 0.0
        for task in model.tasks:
            student = encode(model.encoder, weights, examples[task], target) @ model.heads[task].to(target).T
            total += float(divergence(student, torch.from_numpy(logits[task]).to(target)))
        if not math.isfinite(total):
            raise BenchmarkError(
                f"{artefact}: the loss at rescale.factors = {factor} is {total}, expected a finite number; remove the "
                f"factor from the grid"
            )
        losses.append(total)
    return losses


def scale_solution(solution: Solution, factor: float) -> Solution:
    """Multiply the merged delta of a solution by `factor`."""
    coefficients, delta = solution.coefficients, solution.delta
    return Solution(
        coefficients=None if coefficients is None else factor * coefficients,
        delta=None if delta is None else {name: factor * tensor for name, tensor in delta.items()},
    )


def rescale(
    folder: Path, teachers: Path, artefact: Path, split: str, seeds: Sequence[int], params: Rescale
) -> tuple[Merges, list[FactorRow]]:
    """Rescale an artefact by its best factor, per seed; return the merges and the losses of all factors.

    The columns of the losses are FACTOR_COLUMNS. Of equal losses the first factor of the grid is kept. Raises
    NotRefinable for a merge with extras or with one model per task.
    """
    require_one_model(artefact, "rescale")
    runs = plan_runs(artefact, seeds)
    pieces = [(folder, teachers, artefact, index, seed, split, params) for index, seed in runs]
    losses = run_all(measure_losses, pieces, "rescale")
    best = [min(range(len(curve)), key=curve.__getitem__) for curve in losses]
    ends = {min(params.factors), max(params.factors)}
    rows = [
        (seed, factor, f"{loss:.6g}", int(position == lowest), int(factor in ends))
        for (_, seed), lowest, curve in zip(runs, best, losses, strict=True)
        for position, (factor, loss) in enumerate(zip(params.factors, curve, strict=True))
    ]
    solutions = [
        scale_solution(load_solution(artefact, index), params.factors[lowest])
        for (index, _), lowest in zip(runs, best, strict=True)
    ]
    run_seeds = [seed for _, seed in runs]
    return assemble_merges(SuiteFolder(folder), artefact, split, params.samples, run_seeds, solutions), rows
