"""Sharpness-aware gradients of the coefficients: SAM and ASAM, with a second merge."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Sharpness = Literal["sam", "asam", "none"]
LossAndGradient = Callable[[Tensor], tuple[Tensor, Tensor]]


def perturbation(point: Tensor, slope: Tensor, rho: float, sharpness: Sharpness) -> Tensor:
    """Return the step epsilon to the (approximately) worst point within `rho`.

    sam: rho g / |g| (Foret et al., arXiv 2010.01412); asam: rho lambda^2 g / |lambda g|, element-wise
    (Kwon et al., arXiv 2102.11600), so that |epsilon / lambda| = rho. Zero where its direction is zero.
    """
    direction, length = slope, slope.norm()
    if sharpness == "asam":
        direction, length = point.square() * slope, (point * slope).norm()
    return rho * direction / length if length > 0 else torch.zeros_like(point)


def sharp_gradient(function: LossAndGradient, point: Tensor, rho: float, sharpness: Sharpness) -> tuple[Tensor, Tensor]:
    """Return the loss at `point` and the gradient to descend there.

    That is the plain gradient with sharpness "none" or rho = 0, else the gradient at point + epsilon (`perturbation`).
    `function` must merge again at every point: otherwise the second pass repeats the first, as in the released code.
    """
    loss, slope = function(point)
    if sharpness == "none" or rho == 0:
        return loss, slope
    _, sharp = function(point + perturbation(point, slope, rho, sharpness))
    return loss, sharp
