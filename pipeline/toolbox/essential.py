"""Merging matrices through the directions in which they move what leaves them: their essential subspaces."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.toolbox.spectra import thin_svd

NORM_POWER = 2
"""Of the norms of tasks, columns and layers, relative to their means."""
ENERGY_POWER = 0.15
GAIN = 2


def relative(values: Tensor) -> Tensor:
    """values / their mean, for values >= 0; zero where all are."""
    return values / values.mean().clamp(min=torch.finfo(values.dtype).tiny)


def isometry(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """(polar factor of A, mean of its non-zero singular values)."""
    left, values, right = thin_svd(matrix)
    return left @ right.mT, values.sum() / (values > 0).sum().clamp(min=1)


def essential(change: Tensor, gram: Tensor, keep: int) -> tuple[Tensor, Tensor]:
    """The `keep` directions [out, k] along which `change` [out, in] moves the output most, and their energies [k].

    Eigenvectors and eigenvalues of E[d d^T], d = change x, not centred, from `gram` = E[x x^T] [in, in]. Orthonormal,
    in descending order, float64; k <= min(out, in), since the output moves along no other. Energies below the rounding
    of the decomposition are zero. They are squares: a `gram` in float32 would blur the directions that move the output
    less than 3e-4 times as far as the first.
    """
    basis, rest = torch.linalg.qr(change.double())
    energies, rotation = torch.linalg.eigh(rest @ gram.double() @ rest.T)
    noise = len(energies) * torch.finfo(energies.dtype).eps * energies.max()
    energies = torch.where(energies > noise, energies, torch.zeros_like(energies))
    return basis @ rotation.flip(-1)[:, :keep], energies.flip(-1)[:keep]


def merge_essential(changes: Sequence[Tensor], subspaces: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """ESM of one matrix [out, in] from the tasks' changes and what `essential` found for each of them.

    Computed in float64, returned in the dtype of the changes: polar factors weigh the smallest singular values, which
    `isometry` could not tell from rounding in float32, as much as the largest.
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


def balance(layers: Sequence[Tensor]) -> list[Tensor]:
    """Matrices of one kind, each times the square of its norm relative to their mean norm."""
    factors = relative(torch.stack([layer.norm() for layer in layers])) ** NORM_POWER
    return [factor * layer for factor, layer in zip(factors, layers, strict=True)]
