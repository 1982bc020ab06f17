"""What counts as a matrix where a method decomposes matrices: two conventions on which published code disagrees.

open_clip keeps q, k and v as one tensor [3d, d], which some released code decomposes; other code has them apart. Some
decomposes the positional embedding too. At the same scale either choice can move a merge by more than methods differ.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Literal

import torch
from torch import Tensor

from pipeline.models.weights import PARTS, Weights, split_qkv
from pipeline.runtime.schema import Parameters
from pipeline.toolbox.spectra import is_matrix
from pipeline.toolbox.spread import spread

FUSED = ".attn.in_proj_weight"
QUERY, *OTHERS = (f".attn.{part}.weight" for part in PARTS)
POSITIONS = "positional_embedding"


class Conventions(Parameters):
    """matrices: q, k and v are three matrices or, fused, one; positional_embedding: `decompose` makes it a matrix too.

    With `average` it is treated like every tensor that is no matrix of a block. That is the mean in most methods;
    WUDI-Merging keeps theta_0 and OPCM sums.
    """

    matrices: Literal["split", "fused"] = "split"
    positional_embedding: Literal["average", "decompose"] = "average"

    def view(self, vectors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The stacked tensors as the method sees them; `split_qkv` gives its result the names of the suite again."""
        return Fused(vectors) if self.matrices == "fused" else vectors

    def decomposes(self, name: str) -> bool:
        """Whether the method takes the tensor of this name in its view for a matrix."""
        if name == POSITIONS:
            return self.positional_embedding == "decompose"
        return is_matrix(name) or name.endswith(FUSED)


class Fused(Mapping[str, Tensor]):
    """Stacked tensors [T, ...] with the weights of q, k and v as one [T, 3d, d], formed when it is asked for.

    Biases stay apart: every method merges them entry by entry.
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


def by_matrix(
    vectors: Mapping[str, Tensor], merged: Callable[[Tensor], Tensor], scale: float, conventions: Conventions
) -> Weights:
    """`scale` times the merged delta: `merged` of every matrix's stack [T, m, n], the mean of every other tensor."""
    view = conventions.view(vectors)

    def merge_tensor(name: str) -> Tensor:
        stacked = view[name]
        return scale * (merged(stacked) if conventions.decomposes(name) else stacked.mean(0))

    return split_qkv(spread(merge_tensor, view))
