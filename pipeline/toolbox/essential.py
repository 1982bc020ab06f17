"""Merge matrices in their essential subspaces: the directions in which task vectors move the outputs most."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.toolbox.spectra import thin_svd

NORM_POWER = 2
"""Exponent of the norms of tasks, columns and layers, relative to their means."""
ENERGY_POWER = 0.15
"""Exponent of the energies of a task's directions, relative to their mean."""
GAIN = 2
"""Factor of every merged matrix."""


def relative(values: Tensor) -> Tensor:
    """Divide values >= 0 by their mean; zeros stay zeros."""
    return values / values.mean().clamp(min=torch.finfo(values.dtype).tiny)


def isometry(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return the polar factor of A and the mean of A's non-zero singular values."""
    left, values, right = thin_svd(matrix)
    return left @ right.mT, values.sum() / (values > 0).sum().clamp(min=1)


def essential_subspace(change: Tensor, gram: Tensor, keep: int) -> tuple[Tensor, Tensor]:
    """Return the `keep` directions [out, k] in which `change` [out, in] moves outputs most, and their energies [k].

    Eigenvectors and eigenvalues of E[d d^T], d = change x, not centred, from `gram` = E[x x^T] [in, in]. Orthonormal,
    in descending order, float64. k is less than `keep` where the output moves in fewer directions, and 1 where it does
    not move: energies below the rounding of the decomposition are zero. They are squares: a `gram` in float32 would
    blur the directions that move the output less than 3e-4 times as far as the first.
    """
    basis, rest = torch.linalg.qr(change.double())
    energies, rotation = torch.linalg.eigh(rest @ gram.double() @ rest.T)
    noise = len(energies) * torch.finfo(energies.dtype).eps * energies.max()
    energies = torch.where(energies > noise, energies, torch.zeros_like(energies))
    keep = min(keep, max(1, int(energies.count_nonzero())))
    return basis @ rotation.flip(-1)[:, :keep], energies.flip(-1)[:keep]


def merge_essential(changes: Sequence[Tensor], subspaces: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Merge one matrix [out, in] by ESM, from the tasks' changes and their `essential_subspace`.

    Computed in float64, returned in the dtype of the changes: polar factors give the smallest singular values the same
    weight as the largest, and in float32 `isometry` could not tell the smallest from rounding.
    """
    norms = relative(torch.stack([change.double().norm() for change in changes])) ** NORM_POWER
    left, right = [], []
    for change, (directions, energies), norm in zip(changes, subspaces, norms, strict=True):
        emphasis = relative(relative(energies) ** ENERGY_POWER)
        left.append(directions * emphasis)
        right.append(norm * emphasis[:, None] * (directions.T @ change.double()))
    coordinates = torch.cat(right)
    coordinates = coordinates * relative(coordinates.norm(dim=0)) ** NORM_POWER
    (outer, outer_mean), (inner, inner_mean) = isometry(torch.cat(left, dim=1)), isometry(coordinates)
    return (GAIN * outer_mean * inner_mean * outer @ inner).to(changes[0].dtype)


def balance_layers(layers: Sequence[Tensor]) -> list[Tensor]:
    """Multiply each matrix of one kind by the square of its norm relative to their mean norm."""
    factors = relative(torch.stack([layer.norm() for layer in layers])) ** NORM_POWER
    return [factor * layer for factor, layer in zip(factors, layers, strict=True)]
