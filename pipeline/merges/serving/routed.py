"""Per matrix low-rank experts of all tasks, of which a router picks one for every token. One model for all tasks.

    y = W x + b + up_t^T down_t x + bias_t,    t = argmax_j |gate_j x|_2,    gate_j the first rows of down_j

`tensors`: "<matrix>/down" [T, k, in], "<matrix>/up" [T, k, out], "<matrix>/bias" [T, out], the matrix named without
".weight", and "gate_rank", a scalar: how many rows of down_j the router uses.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from torch import Tensor
from torch.nn.functional import linear

from pipeline.merges.serving import Served
from pipeline.models.encoder import Transformer, product
from pipeline.models.weights import Encoder, Weights

GATE_RANK = "gate_rank"
PREFIX = "routed/"
"""Prefix of the experts' names among the weights, so that they move to the device with them."""


def serve(served: Served, base: Weights, tensors: Mapping[str, Tensor]) -> Iterator[Served]:
    """Yield the merged model with the experts next to every matrix; TypeError unless its encoder is a `Transformer`."""
    if not isinstance(served.encoder, Transformer):
        raise TypeError(f"encoder {served.encoder!r}: expected a Transformer, whose matrices can have experts")
    experts = {PREFIX + name: tensor for name, tensor in tensors.items() if name != GATE_RANK}
    encoder = _routed(served.encoder, int(tensors[GATE_RANK]))
    yield replace(served, encoder=encoder, weights={**served.weights, **experts})


def correction(x: Tensor, down: Tensor, up: Tensor, bias: Tensor, gate_rank: int) -> Tensor:
    """Return what the routed experts add to W x + b, [..., out] for tokens [..., in]; computes one expert per token."""
    experts = route(x, down[:, :gate_rank])
    added = x.new_empty(*x.shape[:-1], bias.shape[-1])
    for expert in range(len(bias)):
        routed = experts == expert
        added[routed] = x[routed] @ down[expert].T @ up[expert] + bias[expert]
    return added


def route(x: Tensor, gates: Tensor) -> Tensor:
    """Return the expert [...] of every token [..., in]: the j of `gates` [T, g, in] with the largest |gate_j x|_2."""
    return linear(x, gates.flatten(0, 1)).unflatten(-1, gates.shape[:2]).norm(dim=-1).argmax(-1)


def _routed(transformer: Transformer, gate_rank: int) -> Encoder:
    def encode(weights: Mapping[str, Tensor], examples: Tensor) -> Tensor:
        plain = {name: tensor for name, tensor in weights.items() if not name.startswith(PREFIX)}

        def multiply(name: str, x: Tensor) -> Tensor:
            down, up, bias = (weights[f"{PREFIX}{name}/{part}"] for part in ("down", "up", "bias"))
            return product(plain, name, x) + correction(x, down, up, bias, gate_rank)

        hidden = transformer.embed(plain, examples)
        for index in range(transformer.depth):
            hidden = transformer.block_by(plain, index, hidden, multiply)
        return transformer.finish(plain, hidden)

    return encode
