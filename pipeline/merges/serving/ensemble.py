"""Several encoders, whose features are averaged before or after they get unit length.

    features    scale(mean of what the encoders pool), where scale gives unit length
    logits      mean of the encoders' features; times a head, the mean of their logits

The merged model is the first of the encoders. `tensors`: "<features or logits>/<encoder>/<name>", the merged tensors of
each further one. Features of GPT-2 get no unit length, so that both means are the same there.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from pipeline.merges.serving import Served
from pipeline.models.encoder import Transformer
from pipeline.models.task_vectors import TaskVectors
from pipeline.models.weights import Encoder, Weights

Averaged = Literal["features", "logits"]


def list_experts(vectors: TaskVectors, tasks: Iterable[int], averaged: Averaged) -> Weights:
    """Return the tensors of the experts of these tasks, as further encoders."""
    return {
        f"{averaged}/{vectors.task_names[task]}/{name}": vectors.base(name) + tau
        for task in tasks
        for name, tau in vectors.task(task).items()
    }


def serve(served: Served, base: Weights, tensors: Mapping[str, Tensor]) -> Iterator[Served]:
    """Yield the merged model and the further encoders as one; TypeError unless its encoder is a `Transformer`."""
    if not isinstance(served.encoder, Transformer):
        raise TypeError(f"encoder {served.encoder!r}: expected a Transformer, whose features can be averaged")
    further = sorted({name.rpartition("/")[0] for name in tensors})
    yield replace(served, encoder=_average(served.encoder, further), weights={**served.weights, **tensors})


def _average(transformer: Transformer, further: Sequence[str]) -> Encoder:
    """Return the encoder of weights that have the tensors of all encoders, those of the `further` ones by prefix."""

    def encode(weights: Mapping[str, Tensor], examples: Tensor) -> Tensor:
        first = {name: tensor for name, tensor in weights.items() if "/" not in name}
        models = [first]
        for prefix in further:
            tensors = {name.rpartition("/")[2]: weights[name] for name in weights if name.rpartition("/")[0] == prefix}
            models.append({**first, **tensors})
        hidden = [(model, transformer.transform(model, examples)) for model in models]
        if any(prefix.startswith("logits/") for prefix in further):
            return torch.stack([transformer.finish(*pair) for pair in hidden]).mean(0)
        return transformer.scale(torch.stack([transformer.pool(*pair) for pair in hidden]).mean(0))

    return encode
