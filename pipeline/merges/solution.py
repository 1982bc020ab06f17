"""The result of a method for one seed."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from pipeline.models.weights import Weights


@dataclass(frozen=True)
class Extras:
    """What a method needs at inference besides one merged model."""

    kind: str
    """The name of a module in `pipeline.merges.serving`, which documents the tensors."""
    tensors: Mapping[str, Tensor]


@dataclass(frozen=True)
class Solution:
    """Coefficients if the merge is linear in the raw task vectors, else the merged delta; exactly one of the two."""

    coefficients: Tensor | None = None
    """[T, G], or [T, T, G] for one model per task."""
    delta: Mapping[str, Tensor] | None = None
    """theta - theta_0 of every group."""
    losses: Tensor | None = None
    """[steps], for a method that takes steps: the loss before each."""
    extras: Extras | None = None

    def __post_init__(self) -> None:
        if (self.coefficients is None) == (self.delta is None):
            raise ValueError("a solution has either coefficients or a delta")

    def cpu(self) -> "Solution":
        """Return the solution with all tensors on the CPU."""
        delta = self.delta and _cpu(self.delta)
        extras = self.extras and Extras(self.extras.kind, _cpu(self.extras.tensors))
        coefficients, losses = (value if value is None else value.cpu() for value in (self.coefficients, self.losses))
        return Solution(coefficients, delta, losses, extras)


def _cpu(tensors: Mapping[str, Tensor]) -> Weights:
    return {name: tensor.cpu() for name, tensor in tensors.items()}
