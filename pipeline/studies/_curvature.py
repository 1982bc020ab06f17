"""How sharp a minimum is: the worst loss nearby, and the Hessian's largest eigenvalue and trace.

    worst(rho) = max_{|epsilon| <= rho} L(x + epsilon)        by projected gradient ascent: a lower bound
    lambda_max = max_{|v| = 1} v' H v                         by Lanczos on Hessian-vector products (ARPACK)
    tr H       = E[z' H z], z of independent signs            by Hutchinson (1989), with its standard error

A step of ascent from the centre of the ball with full length is SAM's own (`pipeline.calibration.sharpness.perturbation`). H is
never formed: H v is the gradient of <grad L, v>.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from pipeline.calibration.sharpness import LossAndGradient, perturbation
from pipeline.models.sampling import generator

Product = Callable[[Tensor], Tensor]


def product(function: Callable[[Tensor], Tensor], point: Tensor, vector: Tensor) -> Tensor:
    """H v, of the shape of `point`: H is the Hessian of a scalar function there.

    Attention is computed unfused: its fused kernels have no second derivative.
    """
    with sdpa_kernel(SDPBackend.MATH):
        leaf = point.detach().requires_grad_()
        (slope,) = torch.autograd.grad(function(leaf), leaf, create_graph=True)
        (found,) = torch.autograd.grad(slope, leaf, vector)
    return found


def top_eigenvector(times: Product, like: Tensor, seed: int, tolerance: float) -> Tensor:
    """The unit eigenvector of H's largest (not largest absolute) eigenvalue, of the shape of `like`.

    `times` is v -> H v for v like `like`, of at least two entries; `seed` draws the start; the eigenvalue is accurate
    to the relative `tolerance`.
    """
    size = like.numel()

    def multiply(vector: np.ndarray) -> np.ndarray:
        return times(torch.from_numpy(vector).to(like).view_as(like)).double().cpu().numpy().ravel()

    start = torch.randn(size, generator=generator(seed, "lanczos"), dtype=torch.float64).numpy()
    operator = LinearOperator((size, size), matvec=multiply, dtype=np.float64)
    _, vectors = eigsh(operator, k=1, which="LA", v0=start, tol=tolerance)
    return torch.from_numpy(vectors[:, 0]).to(like).view_as(like)


def signs(like: Tensor, count: int, seed: int) -> Iterator[Tensor]:
    """`count` Rademacher vectors of the shape of `like`: mean z' H z is Hutchinson's estimate of tr H."""
    rng = generator(seed, "hutchinson")
    for _ in range(count):
        yield (2 * torch.randint(2, like.shape, generator=rng) - 1).to(like)


def directions(like: Tensor, count: int, seed: int) -> Iterator[Tensor]:
    """`count` random unit vectors of the shape of `like`, of no preferred direction."""
    rng = generator(seed, "directions")
    for _ in range(count):
        vector = torch.randn(like.shape, generator=rng).to(like)
        yield vector / vector.norm()


def ascend(function: LossAndGradient, point: Tensor, rho: float, steps: int) -> Tensor:
    """The epsilon, |epsilon| <= rho, of the largest loss that `steps` steps of projected gradient ascent meet.

    The first step is SAM's, of length rho; later ones have half that length and are projected onto the ball.
    """
    loss, slope = function(point)
    moved = perturbation(point, slope, rho, "sam")
    best, worst = loss, torch.zeros_like(point)
    for _ in range(steps):
        loss, slope = function(point + moved)
        if loss > best:
            best, worst = loss, moved
        moved = moved + perturbation(point, slope, rho / 2, "sam")
        moved = moved * min(1.0, rho / max(float(moved.norm()), torch.finfo(moved.dtype).tiny))
    return worst
