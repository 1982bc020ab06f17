"""Sharpness of a minimum: the worst loss nearby, and the Hessian's largest eigenvalue and trace.

    worst(rho) = max_{|epsilon| <= rho} L(x + epsilon)        by projected gradient ascent: a lower bound
    lambda_max = max_{|v| = 1} v' H v                         by Lanczos on Hessian-vector products (ARPACK)
    tr H       = E[z' H z], z of independent signs            by Hutchinson (1989), with its standard error

A step of ascent from the centre of the ball with full length is SAM's own
(`pipeline.calibration.sharpness.perturbation`). H is never formed: H v is the gradient of <grad L, v>.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from pipeline.calibration.sharpness import LossAndGradient, perturbation
from pipeline.statistics.sampling import generator

Product = Callable[[Tensor], Tensor]
"""v -> H v."""


def hessian_product(function: Callable[[Tensor], Tensor], point: Tensor, vector: Tensor) -> Tensor:
    """Return H v, of the shape of `point`: H is the Hessian of a scalar function there, v the vector.

    Attention is computed unfused: its fused kernels have no second derivative.
    """
    with sdpa_kernel(SDPBackend.MATH):
        leaf = point.detach().requires_grad_()
        (slope,) = torch.autograd.grad(function(leaf), leaf, create_graph=True)
        (product,) = torch.autograd.grad(slope, leaf, vector)
    return product


def top_eigenvector(times: Product, like: Tensor, seed: int, tolerance: float) -> Tensor:
    """Return the unit eigenvector of H's largest (not largest absolute) eigenvalue, of the shape of `like`.

    `times` is v -> H v for v like `like`, of at least two entries; `seed` draws the start; the eigenvalue is accurate
    to the relative `tolerance`.
    """
    from scipy.sparse.linalg import LinearOperator, eigsh  # half a second, which no other stage pays

    size = like.numel()

    def multiply(vector: np.ndarray) -> np.ndarray:
        return times(torch.from_numpy(vector).to(like).view_as(like)).double().cpu().numpy().ravel()

    start = torch.randn(size, generator=generator(seed, "lanczos"), dtype=torch.float64).numpy()
    # pyrefly: ignore[missing-argument, unexpected-keyword, bad-keyword-argument]  # __new__ picks a subclass
    operator = LinearOperator((size, size), matvec=multiply, dtype=np.float64)
    _, vectors = eigsh(operator, k=1, which="LA", v0=start, tol=tolerance)
    return torch.from_numpy(vectors[:, 0]).to(like).view_as(like)


def sample_signs(like: Tensor, count: int, seed: int) -> Iterator[Tensor]:
    """Yield `count` Rademacher vectors of the shape of `like`: mean z' H z is Hutchinson's estimate of tr H."""
    rng = generator(seed, "hutchinson")
    for _ in range(count):
        yield (2 * torch.randint(2, like.shape, generator=rng) - 1).to(like)


def sample_directions(like: Tensor, count: int, seed: int) -> Iterator[Tensor]:
    """Yield `count` random unit vectors of the shape of `like`, uniform on the sphere."""
    rng = generator(seed, "directions")
    for _ in range(count):
        vector = torch.randn(like.shape, generator=rng).to(like)
        yield vector / vector.norm()


def ascend(function: LossAndGradient, point: Tensor, rho: float, steps: int) -> Tensor:
    """Return the epsilon, |epsilon| <= rho, of the largest loss met in `steps` steps of projected gradient ascent.

    The first step is SAM's, of length rho; later ones have half that length and are projected onto the ball.
    """
    loss, slope = function(point)
    epsilon = perturbation(point, slope, rho, "sam")
    largest, worst = loss, torch.zeros_like(point)
    for _ in range(steps):
        loss, slope = function(point + epsilon)
        if loss > largest:
            largest, worst = loss, epsilon
        epsilon = epsilon + perturbation(point, slope, rho / 2, "sam")
        epsilon = epsilon * min(1.0, rho / max(float(epsilon.norm()), torch.finfo(epsilon.dtype).tiny))
    return worst
