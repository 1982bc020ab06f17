"""What some methods need at inference beside one merged model: a file per kind, found by its name.

    masks       per task a mask of the shared delta and a scale: one model per task, from one delta and one bit a weight
    adapters    per task a low-rank correction of the features
    routed      per matrix low-rank experts of all tasks, of which a router picks one for every token
    heads       classification heads of its own

Every kind has `serve(served, base, tensors)`: from the merged model, theta_0 and the kind's tensors to the models that
answer, one at a time. Evaluation knows `Served`, never a kind or a method.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType

from torch import Tensor

from pipeline.models.weights import Encoder, Weights


@dataclass(frozen=True)
class Served:
    """A model that answers: features of `encoder(weights, images)` times the head of one of its `tasks`."""

    encoder: Encoder
    weights: Weights
    heads: Mapping[str, Tensor]
    """{task: [classes, D]}."""
    tasks: tuple[str, ...]


def load(kind: str) -> ModuleType:
    """The kind's module."""
    return import_module(f"{__name__}.{kind}")
