"""Learn, with the coefficients, which singular components of each task vector are merged (arXiv 2503.22178).

`pipeline.methods.adarank` has the formulas. No graph goes through the merge: with G = dL/dtheta,

    dL/d(S_t * mask_t) = lambda_t * diag(U_t^T G V_t),    dL/dlambda_t = <G, masked tau_t>

All that is learned is one tensor, `point` [T, G + sum of k]: lambda, then m of every matrix.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from pipeline.calibration.adam import Adam
from pipeline.calibration.descent import select_learned, weight_gradient
from pipeline.calibration.objectives import Objective
from pipeline.calibration.problem import Problem, require_finite, stream_batches
from pipeline.merges.solution import Solution
from pipeline.models.task_vectors import add_delta
from pipeline.models.weights import Weights
from pipeline.runtime.schema import Schedule
from pipeline.toolbox.spectra import is_matrix, thin_svd

START = 0.1
"""m of every component at the start."""
SOFTNESS = 10
"""Divisor of m in the sigmoid."""
Triplets = Mapping[str, tuple[Tensor, Tensor, Tensor]]
"""name of a matrix -> U [T, m, k], S [T, k] and V [T, n, k] of its task vectors"""


def learn_masks(
    problem: Problem, objective: Objective, schedule: Schedule, seed: int, initial_coefficient: float
) -> tuple[Solution, str]:
    """Minimise an objective over coefficients and masks; return the solution and how many components are off.

    Tensors without a gradient keep `initial_coefficient`. Raises Diverged at the first non-finite loss or parameter.
    """
    moving, streams = select_learned(problem), stream_batches(problem, schedule.batch_size, seed)
    triplets = {name: thin_svd(stacked) for name, stacked in moving.vectors.items() if is_matrix(name)}
    tasks, sample = len(problem.tasks), next(iter(moving.vectors.values()))
    components = sum(s.shape[1] for _, s, _ in triplets.values())
    coefficients = sample.new_full((tasks, len(moving.vectors)), initial_coefficient)
    point = torch.cat([coefficients, sample.new_full((tasks, components), START)], dim=1)
    optimiser, losses = Adam(point, schedule.lr), []
    for step in range(schedule.steps):
        batches = tuple(next(stream).to(sample.device) for stream in streams)
        loss, slope = mask_gradient(moving, objective, triplets, point, batches)
        optimiser.step(slope)
        losses.append(loss)
        require_finite(step, loss, point)
    delta = {name: initial_coefficient * stacked.sum(0) for name, stacked in problem.vectors.items()}
    delta |= masked_delta(moving.vectors, triplets, point)
    _, logits = split_point(point, triplets)
    counts = [(int((s > 0).sum()), int((s[logits[name] <= 0] > 0).sum())) for name, (_, s, _) in triplets.items()]
    total, off = (sum(column) for column in zip(*counts, strict=True))
    return Solution(delta=delta, losses=torch.stack(losses)), f"{off:,} of {total:,} components are off at the end"


def split_point(point: Tensor, triplets: Triplets) -> tuple[Tensor, Weights]:
    """Return lambda [T, G] and, for every matrix, m {name: [T, k]} from all that is learned, [T, G + sum of k]."""
    ranks = [s.shape[1] for _, s, _ in triplets.values()]
    coefficients, *logits = point.split([point.shape[1] - sum(ranks), *ranks], dim=1)
    return coefficients, dict(zip(triplets, logits, strict=True))


def masked_delta(vectors: Mapping[str, Tensor], triplets: Triplets, point: Tensor) -> Weights:
    """Return sum_t lambda_t * (masked tau_t) of every group of `vectors`."""
    coefficients, logits = split_point(point, triplets)
    delta = {}
    for (name, stacked), column in zip(vectors.items(), coefficients.T, strict=True):
        if name in triplets:
            u, s, v = triplets[name]
            factors = column[:, None] * s * (logits[name] > 0)
            delta[name] = torch.tensordot(u * factors[:, None], v, dims=([0, 2], [0, 2]))
        else:
            delta[name] = torch.tensordot(column, stacked, dims=1)
    return delta


def mask_gradient(
    problem: Problem, objective: Objective, triplets: Triplets, point: Tensor, batches: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    """Return the loss summed over tasks (scalar) and its straight-through gradient, of the shape of `point`.

    `problem` has the groups that have a column in `point`, as `select_learned` returns it.
    """
    merged = add_delta(problem.base, masked_delta(problem.vectors, triplets, point))
    loss, slopes = weight_gradient(problem, objective, merged, batches)
    coefficients, logits = split_point(point, triplets)
    columns, moves = [], []
    for (name, stacked), column in zip(problem.vectors.items(), coefficients.T, strict=True):
        if name in triplets:
            u, s, v = triplets[name]
            shares = ((slopes[name].mT @ u) * v).sum(1) * s  # <G, component>
            soft = torch.sigmoid(logits[name] / SOFTNESS)
            columns.append((shares * (logits[name] > 0)).sum(1))
            moves.append(column[:, None] * shares * soft * (1 - soft) / SOFTNESS)
        else:
            columns.append(stacked.flatten(1) @ slopes[name].flatten())
    return loss, torch.cat([torch.stack(columns, dim=1), *moves], dim=1)
