"""Per task a low-rank correction of the features: z - U relu(D z), with D [r, features], U [features, r].

`tensors`: "<task>/down" and "<task>/up".
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from torch import Tensor

from pipeline.merges.serving import Served
from pipeline.models.weights import Encoder, Weights

DOWN, UP = "adapter.down", "adapter.up"
"""Names of the correction among the weights, so that it moves to the device with them."""


def serve(served: Served, base: Weights, tensors: Mapping[str, Tensor]) -> Iterator[Served]:
    """Yield one model per task: the merged weights with the task's correction."""
    for task in served.tasks:
        weights = {**served.weights, DOWN: tensors[f"{task}/down"], UP: tensors[f"{task}/up"]}
        yield replace(served, encoder=_adapted(served.encoder), weights=weights, tasks=(task,))


def correct(features: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """Return the corrected features [N, features]."""
    return features - (features @ down.T).relu() @ up.T


def _adapted(encoder: Encoder) -> Encoder:
    def encode(weights: Mapping[str, Tensor], examples: Tensor) -> Tensor:
        plain = {name: tensor for name, tensor in weights.items() if name not in (DOWN, UP)}
        return correct(encoder(plain, examples), weights[DOWN], weights[UP])

    return encode
