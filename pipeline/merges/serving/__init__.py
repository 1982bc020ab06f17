"""Models that are more than merged weights: a file per kind of extras, found by its name.

    masks       per task a mask of the shared delta and a scale: one model per task, from one delta and a bit per weight
    adapters    per task a low-rank correction of the features
    routed      per matrix low-rank experts of all tasks, of which a router picks one for every token
    factors     per task low-rank factors of every matrix, from a mean and a basis that all tasks share
    heads       classification heads that replace the zero-shot ones
    ensemble    further encoders, whose features are averaged

Every kind has `serve(served, base, tensors)`, which yields the models to evaluate, one at a time, from the merged
model, theta_0 and the tensors of the extras. Evaluation knows `Served`, but no kind and no method.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType

from torch import Tensor

from pipeline.models.weights import Encoder, Weights


@dataclass(frozen=True)
class Served:
    """A model to evaluate: features of `encoder(weights, examples)` times the head of one of its `tasks`."""

    encoder: Encoder
    weights: Weights
    heads: Mapping[str, Tensor]
    """{task: [classes, D]}."""
    tasks: tuple[str, ...]


def load(kind: str) -> ModuleType:
    """Return the module of a kind."""
    return import_module(f"{__name__}.{kind}")
