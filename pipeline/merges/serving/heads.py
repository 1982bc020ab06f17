"""Classification heads that replace the zero-shot ones. `tensors`: {task: [classes, D]}."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from torch import Tensor

from pipeline.merges.serving import Served
from pipeline.models.weights import Weights


def serve(served: Served, base: Weights, tensors: Mapping[str, Tensor]) -> Iterator[Served]:
    """Yield the merged model with the heads of `tensors`."""
    yield replace(served, heads=tensors)
