"""Classification heads that a method tuned, in place of the zero-shot ones: {task: [classes, D]}."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from torch import Tensor

from pipeline.merges.serving import Served
from pipeline.models.weights import Weights


def serve(served: Served, base: Weights, tensors: Mapping[str, Tensor]) -> Iterator[Served]:
    """The merged model with the heads of `tensors`."""
    yield replace(served, heads=tensors)
