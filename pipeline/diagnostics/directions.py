"""Directions of the task vectors: inner products, cosines, and conflicts of sign after trimming.

Everything is read tensor by tensor; one pass over the experts' files each.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from pipeline.models.task_vectors import TaskVectors
from pipeline.toolbox.trimming import threshold


def inner_products(vectors: Mapping[str, Tensor]) -> Tensor:
    """<tau_i, tau_j> per tensor, float64 [G, T, T]; vectors [T, *shape]. The sum over G is that of the whole model."""
    flat = (vectors[name].flatten(1).double() for name in vectors)
    return torch.stack([rows @ rows.T for rows in flat])


def cosines(products: Tensor) -> Tensor:
    """Cosines [..., T, T] from inner products; 0 with a vector that is zero."""
    lengths = norms(products)
    scale = lengths[..., :, None] * lengths[..., None, :]
    return torch.where(scale > 0, products / scale, torch.zeros_like(products))


def norms(products: Tensor) -> Tensor:
    """Lengths [..., T] from inner products."""
    return products.diagonal(dim1=-2, dim2=-1).sqrt()


def sign_conflicts(vectors: TaskVectors, keep: float) -> tuple[Tensor, float]:
    """How often trimmed task vectors disagree in sign: for every pair [T, T], and over all of them at once.

    A task vector is trimmed, as in TIES, to the `keep` share of its entries of largest magnitude over the whole model.
    A pair's value is the share of opposite signs among the entries that both keep; that of all tasks is the share of
    entries with both signs among those that at least two keep. 0 where nothing is kept in common.
    """
    limits = torch.stack([threshold(vectors.task(t), keep) for t in range(vectors.tasks)])[:, None]
    common = agreement = torch.zeros(vectors.tasks, vectors.tasks, dtype=torch.float64)
    shared = mixed = 0
    for name in vectors:
        flat = vectors[name].flatten(1)
        signs = torch.where(flat.abs() >= limits, flat.sign(), torch.zeros_like(flat))
        common = common + (signs.abs() @ signs.abs().T).double()
        agreement = agreement + (signs @ signs.T).double()
        shared += int((signs.abs().sum(0) >= 2).sum())
        mixed += int(((signs > 0).any(0) & (signs < 0).any(0)).sum())
    return (common - agreement) / (2 * common).clamp(min=1), mixed / max(shared, 1)
