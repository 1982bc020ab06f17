"""Directions of the task vectors: inner products, cosines, and conflicts of sign after trimming.

Task vectors are read tensor by tensor, in one pass over the experts' files per function.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from pipeline.models.task_vectors import TaskVectors
from pipeline.toolbox.trimming import trim_thresholds


def inner_products(vectors: Mapping[str, Tensor]) -> Tensor:
    """Return <tau_i, tau_j> for every tensor, float64 [G, T, T]; their sum over G is that of the whole model.

    vectors: {tensor: task vectors [T, *shape]}.
    """
    flat = (vectors[name].flatten(1).double() for name in vectors)
    return torch.stack([rows @ rows.T for rows in flat])


def cosine_similarities(products: Tensor) -> Tensor:
    """Cosines [..., T, T] from inner products; 0 for a vector that is zero."""
    lengths = norms(products)
    scale = lengths[..., :, None] * lengths[..., None, :]
    return torch.where(scale > 0, products / scale, torch.zeros_like(products))


def norms(products: Tensor) -> Tensor:
    """Lengths [..., T] from inner products."""
    return products.diagonal(dim1=-2, dim2=-1).sqrt()


def sign_conflicts(vectors: TaskVectors, keep: float) -> tuple[Tensor, float]:
    """Measure how often trimmed task vectors disagree in sign: for every pair [T, T], and over all tasks at once.

    A task vector is trimmed, as in TIES, to the share `keep` of its entries of largest magnitude over the whole model.
    A pair's value is the share of opposite signs among the entries that both keep. The value of all tasks is the share
    of entries with both signs among those that at least two tasks keep. Without common entries a value is 0.
    """
    limits = trim_thresholds(vectors.__getitem__, vectors, keep)[:, None]
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
