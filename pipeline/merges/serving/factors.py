"""Per task low-rank factors of every matrix, from a mean and a basis that all tasks share: theta + A_t B_t.

`tensors`: "<group>/mean" [m + n, r], "<group>/basis" [m + n, r, p], "<group>/coordinates" [m + n, p, T]. The positions
are the rows of A_t [m, r], then the columns of B_t [r, n].
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from torch import Tensor

from pipeline.merges.serving import Served
from pipeline.models.weights import Weights


def serve(served: Served, base: Weights, tensors: Mapping[str, Tensor]) -> Iterator[Served]:
    """Yield one model per task."""
    names = [name for name in served.weights if f"{name}/mean" in tensors]
    for index, task in enumerate(served.tasks):
        weights = dict(served.weights)
        for name in names:
            mean, basis, coordinates = (tensors[f"{name}/{part}"].double() for part in ("mean", "basis", "coordinates"))
            change = rebuild(mean, basis, coordinates[..., index], len(weights[name]))
            weights[name] = (weights[name].double() + change).to(weights[name].dtype)
        yield replace(served, weights=weights, tasks=(task,))


def rebuild(mean: Tensor, basis: Tensor, coordinates: Tensor, rows: int) -> Tensor:
    """Return A_t B_t [m, n] from the task's coordinates [m + n, p]; rows: m."""
    vectors = mean + (basis @ coordinates[..., None])[..., 0]
    return vectors[:rows] @ vectors[rows:].mT
