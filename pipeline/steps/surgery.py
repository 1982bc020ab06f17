"""Representation Surgery: per task a low-rank correction of the merged model's features, towards the expert's.

    z' = z - U relu(D z),    minimise |z' - z_expert|_1 (mean over features and examples) over D [r, F] and U [F, r]

arXiv 2402.02705 (ICML 2024), on top of any merge; no labels, but the task must be known at inference. As its code: U
starts at zero, D as a linear layer of PyTorch (Kaiming, a = sqrt 5), Adam, rank 16, 1,000 steps of 16 examples.

Differences from the original: features are the encoder's, of unit length, as in FusionBench's port; the paper's are
projected but not yet normalised. The corrected features are not normalised again. A step takes one batch of a task; the
original loop takes two. Images come from the calibration pool, the original's from the test split. As the encoder stays
fixed, features are computed once and the adapters learn on those.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor

from pipeline.merges import storage
from pipeline.merges.serving.adapters import correct
from pipeline.merges.solution import Extras
from pipeline.merges.storage import Merges
from pipeline.models.examples import encode
from pipeline.models.suite import SuiteFolder
from pipeline.models.weights import to_device
from pipeline.runtime.device import device
from pipeline.runtime.parallel import run_all
from pipeline.runtime.schema import Parameters
from pipeline.statistics.sampling import batches, generator
from pipeline.steps.refinement import assemble_merges, draw_task_indices, load_solution, plan_runs


class Surgery(Parameters):
    """rank: r of the adapters; lr: Adam's; steps; batch_size: examples per task and step."""

    rank: int = Field(16, ge=1)
    lr: float = Field(1e-3, gt=0)
    steps: int = Field(1000, ge=1)
    batch_size: int = Field(16, ge=1)


def initialise_adapter(features: Tensor, rank: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return the initial (D [rank, F], U [F, rank]) for features [N, F]: U is zero, so nothing is corrected."""
    width = features.shape[1]
    down = torch.empty(rank, width, dtype=features.dtype)
    torch.nn.init.kaiming_uniform_(down, a=math.sqrt(5), generator=rng)
    return down.to(features.device), features.new_zeros(width, rank)


def fit_adapter(
    features: Tensor, targets: Tensor, params: Surgery, rng: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Fit the adapter of one task to features and the expert's features, both [N, F].

    Returns D, U and the loss of the batch before each step [steps].
    """
    down, up = (tensor.requires_grad_() for tensor in initialise_adapter(features, params.rank, rng))
    optimiser = torch.optim.Adam([down, up], lr=params.lr)
    stream = batches(len(features), params.batch_size, rng)
    losses = []
    for _ in range(params.steps):
        batch = next(stream).to(features.device)
        loss = (correct(features[batch], down, up) - targets[batch]).abs().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.detach())
    return down.detach(), up.detach(), torch.stack(losses)


def fit_adapters(
    folder: Path, artefact: Path, index: int, seed: int, split: str, samples: int, params: Surgery
) -> tuple[Extras, Tensor]:
    """Fit the adapters of all tasks for one merge and seed; return them and the loss summed over tasks [steps]."""
    adapters, losses = {}, []
    for task, features, targets in _feature_pairs(SuiteFolder(folder), artefact, index, seed, split, samples):
        down, up, task_losses = fit_adapter(features, targets, params, generator(seed, "surgery", task))
        adapters |= {f"{task}/down": down.cpu(), f"{task}/up": up.cpu()}
        losses.append(task_losses.cpu())
    return Extras("adapters", adapters), torch.stack(losses).sum(0)


def _feature_pairs(
    suite: SuiteFolder, artefact: Path, index: int, seed: int, split: str, samples: int
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield each task with the merged model's and the expert's features of the examples that `seed` draws."""
    target, base = device(), dict(suite.base())
    for model in storage.load_models(suite, artefact, index):
        weights = to_device(model.weights, target)
        for task in model.tasks:
            examples = suite.examples(split, task)[draw_task_indices(suite, split, task, samples, seed).numpy()]
            expert = to_device({**base, **suite.expert(task)}, target)
            features, targets = (encode(model.encoder, tensors, examples, target) for tensors in (weights, expert))
            yield task, features.clone(), targets.clone()  # autograd refuses tensors made in inference mode


def apply_surgery(
    folder: Path, artefact: Path, split: str, samples: int, seeds: Sequence[int], params: Surgery
) -> Merges:
    """Add adapters to an artefact, one set per seed. Raises NotRefinable for a merge that already has extras."""
    runs = plan_runs(artefact, seeds)
    pieces = [(folder, artefact, index, seed, split, samples, params) for index, seed in runs]
    fitted = run_all(fit_adapters, pieces, "surgery")
    solutions = [
        replace(load_solution(artefact, index), extras=extras, losses=losses)
        for (index, _), (extras, losses) in zip(runs, fitted, strict=True)
    ]
    run_seeds = [seed for _, seed in runs]
    return assemble_merges(SuiteFolder(folder), artefact, split, samples, run_seeds, solutions)
