"""M-Loss: how far averaging the weights of a layer is from averaging what its models answer.

    d(x) = mean_t s(y_t) - s(mean_t y_t),    y_t = W_t x + b_t

s is the activation, x enters all models. arXiv 2602.08564. `preactivations` are the y_t, one tensor [..., units] per
model (a tensor [T, ..., units] will do); they are read one at a time. Zero for equal models and for linear s.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

Activation = Callable[[Tensor], Tensor]


def discrepancy(preactivations: Iterable[Tensor], activation: Activation) -> tuple[Tensor, Tensor]:
    """(d, s(mean_t y_t)), both [..., units]."""
    models = iter(preactivations)
    inside = next(models)
    ensemble = activation(inside)
    for count, one in enumerate(models, start=2):
        inside = inside + (one - inside) / count
        ensemble = ensemble + (activation(one) - ensemble) / count
    merged = activation(inside)
    return ensemble - merged, merged


def layer(preactivations: Iterable[Tensor], activation: Activation, *, normalised: bool = False) -> Tensor:
    """Layer-level M-Loss of every input [...]: |d(x)|_2, divided by |s(mean_t y_t)|_2 if `normalised`."""
    difference, merged = discrepancy(preactivations, activation)
    length = difference.norm(dim=-1)
    return _ratio(length, merged.norm(dim=-1)) if normalised else length


def nodes(preactivations: Iterable[Tensor], activation: Activation, *, normalised: bool = False) -> Tensor:
    """Node-level M-Loss [units]: E_x d_j(x)^2, divided by E_x s(mean_t y_t)_j^2 if `normalised`."""
    difference, merged = discrepancy(preactivations, activation)
    energy, reference = (value.square().flatten(0, -2).mean(0) for value in (difference, merged))
    return _ratio(energy, reference) if normalised else energy


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """part / whole, zero where part is."""
    return torch.where(part == 0, part, part / whole)
