"""M-Loss: what is lost at a layer when models are averaged instead of their outputs (arXiv 2602.08564).

T models see the same input of a layer; model t answers y_t = W_t x + b_t, the averaged model mean_t y_t. With the
activation s the two differ by

    gap = mean_t s(y_t) - s(mean_t y_t)

which is zero where s is linear or the models agree, never negative where s is convex, and grows with the variance of
y_t over models. `pre_activations` are y, [T, N, L, d]: models, samples, tokens, units.
"""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

Activation = Callable[[Tensor], Tensor]


class MLoss(NamedTuple):
    """What one layer loses."""

    layer: Tensor
    """[N], the length of the gap over tokens and units."""
    normalised: Tensor
    """[N], the same divided by the length of s(mean_t y_t)."""
    node: Tensor
    """[d], per unit the mean square of the gap over samples and tokens."""
    power: Tensor
    """Scalar, the mean square of s(mean_t y_t): `node` divided by it is the share of a unit."""


def losses(pre_activations: Tensor, activation: Activation) -> MLoss:
    """All of M-Loss at one layer."""
    averaged = activation(pre_activations.mean(0))
    gap = activation(pre_activations).mean(0) - averaged
    layer, length = gap.flatten(1).norm(dim=1), averaged.flatten(1).norm(dim=1)
    return MLoss(layer, layer / length, gap.square().mean((0, 1)), averaged.square().mean())


def layer_loss(pre_activations: Tensor, activation: Activation, normalised: bool = False) -> Tensor:
    """Per sample [N]: see `MLoss.layer` and `MLoss.normalised`."""
    found = losses(pre_activations, activation)
    return found.normalised if normalised else found.layer


def node_loss(pre_activations: Tensor, activation: Activation) -> Tensor:
    """Per unit [d]: see `MLoss.node`."""
    return losses(pre_activations, activation).node
