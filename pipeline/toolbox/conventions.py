"""Conventions on which tensors a method decomposes as matrices; published code disagrees on two points.

open_clip keeps q, k and v as one tensor [3d, d], which some released code decomposes; other code splits it. Some code
decomposes the positional embedding too. At the same scale, either choice can change a merge by more than the difference
between methods.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Literal

import torch
from torch import Tensor

from pipeline.models.weights import PARTS, Weights, split_qkv
from pipeline.runtime.schema import Parameters
from pipeline.runtime.threads import map_tensors
from pipeline.toolbox.spectra import is_matrix

FUSED = ".attn.in_proj_weight"
QUERY, *OTHERS = (f".attn.{part}.weight" for part in PARTS)
POSITIONS = "positional_embedding"


class Conventions(Parameters):
    """matrices: q, k and v are three matrices or, fused, one; positional_embedding: `decompose` makes it a matrix too.

    With `average` it is treated like every tensor that is not a matrix of a block: most methods take the mean,
    WUDI-Merging keeps theta_0 and OPCM takes the sum.
    """

    matrices: Literal["split", "fused"] = "split"
    positional_embedding: Literal["average", "decompose"] = "average"

    def view(self, vectors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return the stacked tensors as the method sees them; `split_qkv` restores the suite's names in its result."""
        return FusedView(vectors) if self.matrices == "fused" else vectors

    def decomposes(self, name: str) -> bool:
        """Return whether the method decomposes the tensor of this name in its view."""
        if name == POSITIONS:
            return self.positional_embedding == "decompose"
        return is_matrix(name) or name.endswith(FUSED)


class FusedView(Mapping[str, Tensor]):
    """Stacked tensors [T, ...] with the weights of q, k and v fused into one [T, 3d, d], formed on access.

    Biases stay separate: every method merges them entry by entry.
    """

    def __init__(self, vectors: Mapping[str, Tensor]) -> None:
        self._vectors = vectors

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __iter__(self) -> Iterator[str]:
        for name in self._vectors:
            if not name.endswith(tuple(OTHERS)):
                yield name.replace(QUERY, FUSED)

    def __getitem__(self, name: str) -> Tensor:
        if not name.endswith(FUSED):
            return self._vectors[name]
        stem = name.removesuffix(FUSED)
        return torch.cat([self._vectors[f"{stem}{part}"] for part in (QUERY, *OTHERS)], dim=1)


def merge_by_matrix(
    vectors: Mapping[str, Tensor], merge_matrix: Callable[[Tensor], Tensor], scale: float, conventions: Conventions
) -> Weights:
    """Return `scale` times the merged delta: `merge_matrix` of every matrix's stack [T, m, n], the mean of the rest."""
    view = conventions.view(vectors)

    def merge_tensor(name: str) -> Tensor:
        stacked = view[name]
        return scale * (merge_matrix(stacked) if conventions.decomposes(name) else stacked.mean(0))

    return split_qkv(map_tensors(merge_tensor, view))
