"""Representation Surgery: per task a low-rank correction of the merged model's features, towards the expert's.

    z' = z - U relu(D z),    minimise |z' - z_expert|_1 (mean over features and images) over D [r, F] and U [F, r]

arXiv 2402.02705 (ICML 2024), on top of any merge; no labels, but the task must be known at inference. As its code: U
starts at zero, D as a linear layer of PyTorch (Kaiming, a = sqrt 5), Adam, rank 16, 1,000 steps of 16 images.

Where we deviate. Features are those that the encoder gives, of unit length; the paper's are projected but not yet
normalised, the port of a library (FusionBench) works on normalised ones as we do. The corrected features are not
normalised again. A step takes one batch of a task, the original loop two. Images come from the calibration pool, the
original's from the test split. As the encoder stays fixed, features are computed once and the adapters learn on those.
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
from pipeline.models.features import encode
from pipeline.models.sampling import batches, generator
from pipeline.models.suite import SuiteFolder
from pipeline.models.weights import to_device
from pipeline.runtime.device import device
from pipeline.runtime.parallel import run
from pipeline.runtime.schema import Parameters
from pipeline.steps.refinement import drawn, refined, solution, starts


class Surgery(Parameters):
    """rank: r of the adapters; lr: Adam's; steps; batch_size: images per task and step."""

    rank: int = Field(16, ge=1)
    lr: float = Field(1e-3, gt=0)
    steps: int = Field(1000, ge=1)
    batch_size: int = Field(16, ge=1)


def initial(features: Tensor, rank: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """(D [rank, F], U [F, rank]) before the first step, for features [N, F]: U is zero, so nothing is corrected."""
    width = features.shape[1]
    down = torch.empty(rank, width, dtype=features.dtype)
    torch.nn.init.kaiming_uniform_(down, a=math.sqrt(5), generator=rng)
    return down.to(features.device), features.new_zeros(width, rank)


def fit(features: Tensor, targets: Tensor, params: Surgery, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """(D, U, the loss of the batch before each step [steps]) of one task, from features and the expert's [N, F]."""
    down, up = (tensor.requires_grad_() for tensor in initial(features, params.rank, rng))
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


def operate(
    folder: Path, artefact: Path, index: int, seed: int, split: str, samples: int, params: Surgery
) -> tuple[Extras, Tensor]:
    """The adapters of all tasks for one merge and seed, and the loss summed over tasks [steps]."""
    adapters, losses = {}, []
    for task, features, targets in _pairs(SuiteFolder(folder), artefact, index, seed, split, samples):
        down, up, own = fit(features, targets, params, generator(seed, "surgery", task))
        adapters |= {f"{task}/down": down.cpu(), f"{task}/up": up.cpu()}
        losses.append(own.cpu())
    return Extras("adapters", adapters), torch.stack(losses).sum(0)


def _pairs(
    suite: SuiteFolder, artefact: Path, index: int, seed: int, split: str, samples: int
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Per task its name, the merged model's features and the expert's on the images that `seed` draws."""
    target, base = device(), dict(suite.base())
    for model in storage.models(suite, artefact, index):
        weights = to_device(model.weights, target)
        for task in model.tasks:
            images = suite.images(split, task)[drawn(suite, split, task, samples, seed).numpy()]
            expert = to_device({**base, **suite.expert(task)}, target)
            features, targets = (encode(model.encoder, each, images, target) for each in (weights, expert))
            yield task, features.clone(), targets.clone()  # out of inference mode: autograd refuses what was made in it


def surgery(folder: Path, artefact: Path, split: str, samples: int, seeds: Sequence[int], params: Surgery) -> Merges:
    """The artefact with adapters, one set per seed. Raises NotRefinable for a merge that has extras already."""
    pairs = starts(artefact, seeds)
    found = run(operate, [(folder, artefact, *pair, split, samples, params) for pair in pairs], "surgery")
    solutions = [
        replace(solution(artefact, index), extras=extras, losses=losses)
        for (index, _), (extras, losses) in zip(pairs, found, strict=True)
    ]
    own = [seed for _, seed in pairs]
    return refined(SuiteFolder(folder), artefact, split, samples, own, solutions)
