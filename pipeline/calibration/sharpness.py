"""Sharpness-aware gradients: SAM and ASAM on the coefficients, with a second merge."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Sharpness = Literal["sam", "asam", "none"]
LossAndGradient = Callable[[Tensor], tuple[Tensor, Tensor]]


def perturbation(point: Tensor, slope: Tensor, rho: float, sharpness: Sharpness) -> Tensor:
    """The step to the (approximately) worst point within `rho`.

    sam: rho g / |g| (Foret et al., arXiv 2010.01412); asam: rho lambda^2 g / |lambda g|, element-wise
    (Kwon et al., arXiv 2102.11600), so that |epsilon / lambda| = rho. Zero where its direction is zero.
    """
    direction, length = slope, slope.norm()
    if sharpness == "asam":
        direction, length = point.square() * slope, (point * slope).norm()
    return rho * direction / length if length > 0 else torch.zeros_like(point)


def sharp_gradient(function: LossAndGradient, point: Tensor, rho: float, sharpness: Sharpness) -> tuple[Tensor, Tensor]:
    """The loss at `point` and the gradient that descends there.

    With sharpness "none" or rho = 0 the plain gradient; else the gradient at point + epsilon. `function` merges anew
    for every point it is given: without that the second pass would repeat the first, as in the released code.
    """
    loss, slope = function(point)
    if sharpness == "none" or rho == 0:
        return loss, slope
    _, sharp = function(point + perturbation(point, slope, rho, sharpness))
    return loss, sharp
