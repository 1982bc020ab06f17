"""Task vectors, their merge, and the gradient with respect to its coefficients.

    theta_g(lambda) = theta_0,g + sum_t lambda[t, g] * tau_t,g        (one group g = one tensor)
    dL/dlambda[t, g] = <dL/dtheta_g, tau_t,g>

The second line is all that calibration needs: one forward and backward pass of the merged model, then one pass over the
task vectors. No autograd graph goes through the merge.
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from pipeline.models.weights import Weights
from pipeline.runtime.threads import map_tensors

PART = 2**17
"""Entries of a part of a tensor that is merged at once: a megabyte in float64."""


class TaskVectors(Mapping[str, Tensor]):
    """Task vectors, computed on access: name -> tau [T, *shape], in the order of the suite's groups.

    `base` and `experts` map names to tensors; over files (`store.TensorFile`) only one stacked tensor is in memory at a
    time. theta_t - theta_0 is computed on `device` in the precision `dtype`: in float64 the difference of two float32
    weights keeps what `merge` needs to return an expert exactly. `task_names` are those of the experts, in order, by
    default "0", "1", ...
    """

    def __init__(
        self,
        base: Mapping[str, Tensor],
        experts: Sequence[Mapping[str, Tensor]],
        groups: Sequence[str],
        dtype: torch.dtype = torch.float32,
        task_names: Sequence[str] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self._base, self._experts, self._groups = base, experts, tuple(groups)
        self._dtype, self._device = dtype, device
        self.task_names = tuple(task_names or map(str, range(len(experts))))

    def __len__(self) -> int:
        return len(self._groups)

    def __iter__(self) -> Iterator[str]:
        return iter(self._groups)

    def __getitem__(self, name: str) -> Tensor:
        base = self.base(name)
        stacked = base.new_empty((self.tasks, *base.shape))
        for row, expert in zip(stacked, self._experts, strict=True):
            torch.sub(self._converted(expert[name]), base, out=row)
        return stacked

    @property
    def tasks(self) -> int:
        """T, the number of experts."""
        return len(self._experts)

    def task(self, index: int) -> Weights:
        """Return tau_t of one task: name -> tensor."""
        expert = self._experts[index]
        return {name: self._converted(expert[name]) - self.base(name) for name in self._groups}

    def base(self, name: str) -> Tensor:
        """Return a tensor of theta_0, on the device and in the precision of the task vectors."""
        return self._converted(self._base[name])

    def _converted(self, weight: Tensor) -> Tensor:
        return weight.to(self._device, self._dtype)


def merge_delta(vectors: Mapping[str, Tensor], coefficients: Tensor) -> Weights:
    """Return the merged delta, sum_t lambda[t, g] tau_t,g of every group; arguments as in `merge`."""
    return {name: _weighted(vectors[name], coefficients[:, column]) for column, name in enumerate(vectors)}


def merge(base: Mapping[str, Tensor], vectors: Mapping[str, Tensor], coefficients: Tensor) -> Weights:
    """Return theta_0 + sum_t lambda[t, g] tau_t,g for every group; tensors of `base` without a task vector are kept.

    base: name -> tensor; vectors: name -> [T, *shape]; coefficients [T, G], G in the order of `vectors`. The sum is
    computed in the precision of the vectors and returned in that of the base.
    """
    columns = {name: column for column, name in enumerate(vectors)}
    return {
        name: _moved(weight, vectors[name], coefficients[:, columns[name]]) if name in columns else weight
        for name, weight in base.items()
    }


def _moved(weight: Tensor, stacked: Tensor, coefficients: Tensor) -> Tensor:
    return _weighted(stacked, coefficients).add_(weight.to(stacked.dtype)).to(weight.dtype)


def _weighted(stacked: Tensor, coefficients: Tensor) -> Tensor:
    return torch.tensordot(coefficients.to(stacked.dtype), stacked, dims=1)


def merge_experts(
    base: Mapping[str, Tensor], experts: Sequence[Mapping[str, Tensor]], groups: Sequence[str], coefficients: Tensor
) -> Weights:
    """Return what `merge` returns for the task vectors of `experts`, computed in float64 and rounded once.

    coefficients [T, G], G in the order of `groups`. Tensors are merged side by side, each in parts that stay in the
    processor's cache, one expert after the other: `merge` would form all task vectors of a tensor in memory.
    """
    columns = {name: column for column, name in enumerate(groups)}

    def merged(name: str) -> Tensor:
        weight = base[name]
        if name not in columns:
            return weight
        factors = coefficients[:, columns[name]].tolist()
        tuned = [expert[name].flatten() for expert, factor in zip(experts, factors, strict=True) if factor]
        factors = [factor for factor in factors if factor]
        result = torch.empty_like(weight)
        parts = zip(weight.flatten().split(PART), result.view(-1).split(PART), strict=True)
        for index, (origin, out) in enumerate(parts):
            theta = origin.double()
            delta = torch.zeros_like(theta)
            for factor, expert in zip(factors, tuned, strict=True):
                part = expert[index * PART : (index + 1) * PART]
                delta.add_(part.double().sub_(theta), alpha=factor)
            out.copy_(theta.add_(delta))
        return result

    return map_tensors(merged, base)


def contract(gradient: Mapping[str, Tensor], vectors: Mapping[str, Tensor]) -> Tensor:
    """Return dL/dlambda [T, G] from dL/dtheta: inner products of each group's gradient with its task vectors."""
    columns = [vectors[name].flatten(1) @ gradient[name].flatten() for name in vectors]
    return torch.stack(columns, dim=1)


def add_delta(base: Mapping[str, Tensor], delta: Mapping[str, Tensor]) -> Weights:
    """Return theta_0 + delta for the tensors of `delta`; the rest of `base` is kept."""
    return {name: weight + delta[name].to(weight.dtype) if name in delta else weight for name, weight in base.items()}
