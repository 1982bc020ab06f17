"""Adam (Kingma and Ba, arXiv 1412.6980) on one tensor, by torch's own update.

`torch.optim.Adam` does the same with the same bits, but building it imports torch's compiler: three seconds in every
process that calibrates.
"""

import torch
from torch import Tensor
from torch.optim.adam import adam


class Adam:
    """Moments of the gradients of one tensor, which `step` updates in place."""

    def __init__(self, point: Tensor, lr: float, weight_decay: float = 0.0) -> None:
        """Start at `point`; `weight_decay` is the coupled L2 term."""
        self._point, self._lr, self._weight_decay = point, lr, weight_decay
        self._moments = [torch.zeros_like(point)], [torch.zeros_like(point)]
        self._steps = [torch.tensor(0.0)]

    @torch.no_grad()
    def step(self, slope: Tensor) -> None:
        """Descend along the gradient `slope` of the tensor's shape."""
        first, second = self._moments
        adam(
            [self._point], [slope], first, second, [], self._steps, lr=self._lr, weight_decay=self._weight_decay,
            amsgrad=False, beta1=0.9, beta2=0.999, eps=1e-8, maximize=False,
        )  # fmt: skip
