"""Task vectors, their merge, and the gradient with respect to its coefficients.

    theta_g(lambda) = theta_0,g + sum_t lambda[t, g] * tau_t,g        (one group g = one tensor)
    dL/dlambda[t, g] = <dL/dtheta_g, tau_t,g>

The second line is all that calibration needs: one forward and backward of the merged model, then one pass over the task
vectors. No autograd graph ever goes through the merge.
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from pipeline.models.weights import Weights


class TaskVectors(Mapping[str, Tensor]):
    """tau, formed when it is asked for: name -> [T, *shape], in the order of the suite's groups.

    `base` and `experts` are mappings from names to tensors; over files (`store.TensorFile`) this holds one stacked
    tensor at a time. `dtype` is the precision in which theta_t - theta_0 is formed: in float64 the difference of two
    float32 weights keeps what `merge` needs to give an expert back exactly. `task_names` are those of the experts in
    order, by default "0", "1", ... Tensors are formed on `device`, whatever holds the files.
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
            torch.sub(self._formed(expert[name]), base, out=row)
        return stacked

    @property
    def tasks(self) -> int:
        """T, the number of experts."""
        return len(self._experts)

    def task(self, index: int) -> Weights:
        """tau_t of one task: name -> tensor."""
        expert = self._experts[index]
        return {name: self._formed(expert[name]) - self.base(name) for name in self._groups}

    def base(self, name: str) -> Tensor:
        """The tensor of theta_0, in the precision of the task vectors."""
        return self._formed(self._base[name])

    def _formed(self, weight: Tensor) -> Tensor:
        return weight.to(self._device, self._dtype)


def combine(vectors: Mapping[str, Tensor], coefficients: Tensor) -> Weights:
    """The merged delta, sum_t lambda[t, g] tau_t,g of every group; arguments as in `merge`."""
    return {name: _weighted(vectors[name], coefficients[:, column]) for column, name in enumerate(vectors)}


def merge(base: Mapping[str, Tensor], vectors: Mapping[str, Tensor], coefficients: Tensor) -> Weights:
    """theta_0 + sum_t lambda[t, g] tau_t,g for every group; tensors of `base` without a task vector are kept.

    base: name -> tensor; vectors: name -> [T, *shape]; coefficients [T, G], G in the order of `vectors`. The sum is
    formed in the precision of the vectors and returned in that of the base.
    """
    columns = {name: column for column, name in enumerate(vectors)}
    return {
        name: _moved(weight, vectors[name], coefficients[:, columns[name]]) if name in columns else weight
        for name, weight in base.items()
    }


def _moved(weight: Tensor, stacked: Tensor, weights: Tensor) -> Tensor:
    return (weight.to(stacked.dtype) + _weighted(stacked, weights)).to(weight.dtype)


def _weighted(stacked: Tensor, weights: Tensor) -> Tensor:
    return torch.tensordot(weights.to(stacked.dtype), stacked, dims=1)


def contract(gradient: Mapping[str, Tensor], vectors: Mapping[str, Tensor]) -> Tensor:
    """dL/dlambda [T, G] from dL/dtheta: the inner product of each group's gradient with each task vector."""
    columns = [vectors[name].flatten(1) @ gradient[name].flatten() for name in vectors]
    return torch.stack(columns, dim=1)


def add(base: Mapping[str, Tensor], delta: Mapping[str, Tensor]) -> Weights:
    """theta_0 + delta for the tensors that `delta` names; the rest of `base` is kept."""
    return {name: weight + delta[name].to(weight.dtype) if name in delta else weight for name, weight in base.items()}
