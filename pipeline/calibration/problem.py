"""A calibration problem: the data that a calibrated method may see, and what all calibration loops share."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.models.encoder import Transformer
from pipeline.models.weights import Weights
from pipeline.runtime.errors import BenchmarkError
from pipeline.statistics.sampling import batches, generator


@dataclass(frozen=True)
class Problem:
    """The data that a calibrated method may see: no labels, no test examples, no file names."""

    encoder: Transformer
    base: Weights
    """theta_0."""
    vectors: Weights
    """name -> [T, *shape]: the task vectors."""
    heads: tuple[Tensor, ...]
    """Per task [classes, D]: its head."""
    examples: tuple[Tensor, ...]
    """Per task a sample of k_t calibration examples."""
    teachers: tuple[Tensor, ...]
    """Per task [k_t, classes]: the expert's logits on those examples."""
    tasks: tuple[str, ...]
    """The names of the tasks."""
    precision: torch.dtype = torch.float32
    """bfloat16: that of the encoder's matrix products; coefficients, heads and losses keep their own."""
    examples_per_pass: int = 1 << 30
    """Upper limit on the examples that go through the encoder at once."""


@dataclass(frozen=True)
class Footprint:
    """What a method holds in memory at once, besides its calibration examples; defaults are those of `descend`."""

    vectors: int = 1
    """Sets of task vectors."""
    models: int = 4
    """Copies of the model: theta_0, the merged one, its gradient, and the sum of gradients over passes."""
    examples: int | None = None
    """Examples in a pass; None: a batch of every task, as far as `examples_per_pass` allows."""
    blocks_vectors: int = 0
    """Sets of task vectors of all blocks."""
    block_vectors: int = 0
    """Sets of task vectors of one block."""
    block_models: int = 0
    """Copies of one block."""
    tensor_vectors: int = 0
    """Sets of task vectors of the largest tensor, at times when no block is held."""
    tensor_models: int = 0
    """Copies of the largest tensor, at times when no block is held."""
    tokens: int = 0
    """Copies of all calibration examples' tokens between two blocks. Above 0: blocks are computed one at a time."""


class Diverged(BenchmarkError):
    """The loss or a coefficient is no longer finite; the message names the step and what to try."""


def stream_batches(problem: Problem, size: int, seed: int) -> list[Iterator[Tensor]]:
    """Return the endless `batches` of every task, each from a generator of its own."""
    return [batches(len(pool), size, generator(seed, "batches", task)) for task, pool in enumerate(problem.examples)]


def require_finite(step: int, loss: Tensor, *learned: Tensor) -> None:
    """Raise Diverged unless the loss and the `learned` tensors are finite; `step` counts from 0."""
    if not all(bool(torch.isfinite(tensor).all()) for tensor in (loss, *learned)):
        raise Diverged(f"calibration diverged at step {step + 1}: loss {float(loss)}; try a smaller lr or rho")
