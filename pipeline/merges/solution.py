"""What a method answers for one seed."""

from dataclasses import dataclass

from torch import Tensor

from pipeline.models.weights import Weights


@dataclass(frozen=True)
class Extras:
    """What a method needs at inference beside one merged model; `pipeline.merges.serving` has a file per kind."""

    kind: str
    tensors: Weights


@dataclass(frozen=True)
class Solution:
    """Coefficients where the merge is linear in the raw task vectors, or else the merged delta; one of the two."""

    coefficients: Tensor | None = None
    """[T, G], or [T, T, G] for one model per task."""
    delta: Weights | None = None
    """theta - theta_0 of every group."""
    losses: Tensor | None = None
    """The loss before each step [steps], of a method that takes steps."""
    extras: Extras | None = None

    def cpu(self) -> "Solution":
        """The same on the CPU."""
        delta = self.delta and _cpu(self.delta)
        extras = self.extras and Extras(self.extras.kind, _cpu(self.extras.tensors))
        coefficients, losses = (value if value is None else value.cpu() for value in (self.coefficients, self.losses))
        return Solution(coefficients, delta, losses, extras)


def _cpu(tensors: Weights) -> Weights:
    return {name: tensor.cpu() for name, tensor in tensors.items()}
