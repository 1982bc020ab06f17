"""M-Loss: the loss at a layer from averaging models instead of their outputs (arXiv 2602.08564).

T models have the same input x to a layer; model t maps it to y_t = W_t x + b_t, the averaged model to mean_t y_t. After
the activation s, the ensemble and the averaged model differ by

    gap = mean_t s(y_t) - s(mean_t y_t)

which is zero where s is linear or the models agree, never negative where s is convex, and grows with the variance of
y_t over models. `pre_activations` are the y_t, one tensor [..., units] per model, read one at a time.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from torch import Tensor

Activation = Callable[[Tensor], Tensor]


class MLoss(NamedTuple):
    """M-Loss of one layer."""

    layer: Tensor
    """[N], the norm of the gap over tokens and units."""
    normalised: Tensor
    """[N], the same divided by the norm of s(mean_t y_t)."""
    node: Tensor
    """[units], per unit the mean square of the gap over all tokens."""
    power: Tensor
    """Scalar, the mean square of s(mean_t y_t): `node` divided by it is the share of a unit."""


def gap(pre_activations: Iterable[Tensor], activation: Activation) -> tuple[Tensor, Tensor]:
    """Return the gap and s(mean_t y_t), both [..., units]."""
    models = iter(pre_activations)
    inside = next(models)
    ensemble = activation(inside)
    for count, outputs in enumerate(models, start=2):
        inside = inside + (outputs - inside) / count
        ensemble = ensemble + (activation(outputs) - ensemble) / count
    merged = activation(inside)
    return ensemble - merged, merged


def layer_mloss(pre_activations: Iterable[Tensor], activation: Activation, valid: Tensor | None = None) -> MLoss:
    """Return all of M-Loss at one layer, from pre-activations [N, L, units].

    valid: bool [N, L], False for tokens that do not count; None if all do.
    """
    difference, merged = gap(pre_activations, activation)
    share = 1
    if valid is not None:
        difference, merged = difference * valid[..., None], merged * valid[..., None]
        share = valid.to(merged.dtype).mean()
    layer, length = difference.flatten(1).norm(dim=1), merged.flatten(1).norm(dim=1)
    return MLoss(layer, layer / length, difference.square().mean((0, 1)) / share, merged.square().mean() / share)


def node_mloss(pre_activations: Iterable[Tensor], activation: Activation) -> Tensor:
    """Return the node-level M-Loss [units], `MLoss.node`."""
    difference, _ = gap(pre_activations, activation)
    return difference.square().flatten(0, -2).mean(0)
