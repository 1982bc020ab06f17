"""A calibration problem: what a calibrated method may see, and what its loops share."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.models.sampling import batches, generator
from pipeline.models.weights import Encoder, Weights
from pipeline.runtime.errors import BenchmarkError


@dataclass(frozen=True)
class Problem:
    """What a calibrated method may see: no labels, no test images, no file names."""

    encoder: Encoder
    base: Weights
    vectors: Weights
    """name -> [T, *shape]: the task vectors."""
    heads: tuple[Tensor, ...]
    """Per task [classes, D]."""
    images: tuple[Tensor, ...]
    """Per task uint8 [k_t, H, W, 3]: the calibration images of one draw."""
    teachers: tuple[Tensor, ...]
    """Per task [k_t, classes]: the expert's logits on those images."""
    tasks: tuple[str, ...]
    """The names of the tasks."""
    precision: torch.dtype = torch.float32
    """bfloat16: the encoder's matrix products are rounded; coefficients, heads and losses stay as they are."""
    images_per_pass: int = 1 << 30
    """How many images go through the encoder at once."""


@dataclass(frozen=True)
class Footprint:
    """What a method holds in memory at once, beside its calibration images; the defaults are those of `descend`."""

    vectors: int = 1
    """Sets of the task vectors."""
    models: int = 4
    """Copies of the model: theta_0, the merged one, its gradient, and the sum of gradients over passes."""
    images: int | None = None
    """Images in a pass; None: a batch of every task, as far as `images_per_pass` allows."""
    block_vectors: int = 0
    """Sets of the task vectors of one block."""
    block_models: int = 0
    """Copies of one block."""
    tokens: int = 0
    """Of every calibration image, the tokens between two blocks. Above 0: no more than a block is computed at once."""


class Diverged(BenchmarkError):
    """The loss or a coefficient is no longer finite; the message says at which step and what to try."""


def streams(problem: Problem, size: int, seed: int) -> list[Iterator[Tensor]]:
    """Per task its endless `batches`; each task draws for itself."""
    return [batches(len(pool), size, generator(seed, "batches", task)) for task, pool in enumerate(problem.images)]


def require_finite(step: int, loss: Tensor, *learned: Tensor) -> None:
    """Raise Diverged unless the loss and what was learned are finite; `step` counts from 0."""
    if not all(bool(torch.isfinite(tensor).all()) for tensor in (loss, *learned)):
        raise Diverged(f"calibration diverged at step {step + 1}: loss {float(loss)}; try a smaller lr or rho")
