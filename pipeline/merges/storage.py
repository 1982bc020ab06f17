"""The artefact of a merge: all that evaluation knows of a method.

merge.json                  form, seeds, tasks and groups in order, examples used per task
coefficients.safetensors    form "coefficients": [S, M, T, G] for S seeds and M models (1, or T: one per task)
delta-<i>.safetensors       form "delta": the merged delta of the i-th seed, where it is not linear in the raw tau
extras-<i>.safetensors      what the i-th seed's model needs besides the merged weights; merge.json names the kind, and
                            `pipeline.merges.serving` has a module per kind
losses.csv                  of methods that take steps: the loss before each step
draws.safetensors           of calibrated methods: the indices of the examples used
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from pipeline.merges import serving
from pipeline.merges.serving import Served
from pipeline.merges.solution import Extras, Solution
from pipeline.models.suite import SuiteFolder
from pipeline.models.task_vectors import add_delta, merge_experts
from pipeline.runtime import store
from pipeline.runtime.errors import BenchmarkError


@dataclass(frozen=True)
class Merges:
    """A method's merges on a suite, one per seed."""

    seeds: tuple[int | None, ...]
    """None for a method without randomness."""
    samples: dict[str, int]
    """task -> number of unlabelled examples used, tasks in order; 0 for a data-free method."""
    groups: tuple[str, ...]
    """The tensors that are merged: the last axis of the coefficients."""
    solutions: Sequence[Solution]
    """One per seed, all of the same form."""
    draws: dict[str, Tensor] | None = None
    """Per task [S, samples]: indices into the calibration pool."""


def save(merges: Merges, folder: Path) -> None:
    """Write the artefact into `folder`; StoreError if a tensor has a value that is not finite."""
    first = merges.solutions[0]
    matrices = [solution.coefficients for solution in merges.solutions if solution.coefficients is not None]
    if matrices:
        stacked = torch.stack(matrices)
        coefficients = stacked if stacked.ndim == 4 else stacked[:, None]
        store.write_tensors(folder / "coefficients.safetensors", {"coefficients": coefficients})
    for index, solution in enumerate(merges.solutions):
        if solution.delta is not None:
            store.write_tensors(folder / f"delta-{index}.safetensors", solution.delta)
        if solution.extras is not None:
            store.write_tensors(folder / f"extras-{index}.safetensors", solution.extras.tensors)
    if first.losses is not None:
        rows = [
            (seed, step, f"{loss:.6g}")
            for seed, solution in zip(merges.seeds, merges.solutions, strict=True)
            if solution.losses is not None
            for step, loss in enumerate(solution.losses.tolist())
        ]
        store.write_csv(folder / "losses.csv", ("seed", "step", "loss"), rows)
    if merges.draws is not None:
        store.write_tensors(folder / "draws.safetensors", merges.draws)
    content = {
        "form": "delta" if first.coefficients is None else "coefficients",
        "extras": first.extras.kind if first.extras else None,
        "losses": first.losses is not None,
        "seeds": merges.seeds,
        "samples": merges.samples,
        "tasks": [*merges.samples],
        "groups": merges.groups,
    }
    store.write_json(folder / "merge.json", content)


class _MergeFile(BaseModel):
    """The content of merge.json."""

    model_config = ConfigDict(extra="forbid", strict=True)
    form: Literal["delta", "coefficients"]
    extras: Literal["masks", "adapters", "routed", "heads", "factors", "ensemble"] | None
    losses: bool
    seeds: list[int | None] = Field(min_length=1)
    samples: dict[str, int]
    tasks: list[str]
    groups: list[str]


def load(folder: Path) -> tuple[dict[str, Any], Tensor | None]:
    """Return (merge.json, coefficients [S, M, T, G] or None); BenchmarkError if they are not as `save` writes them."""
    try:
        content = _MergeFile.model_validate(store.read_json(folder / "merge.json"))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BenchmarkError(f"{folder / 'merge.json'}: {where}: {first['msg']}; {store.REMAKE}") from error
    if content.form == "delta":
        return content.model_dump(), None
    path = folder / "coefficients.safetensors"
    expected = len(content.seeds), len(content.tasks), len(content.groups)
    shape = store.TensorFile(path).shapes().get("coefficients", ())
    if len(shape) != 4 or (shape[0], *shape[2:]) != expected or shape[1] not in (1, len(content.tasks)):
        raise BenchmarkError(f"{path}: shape {list(shape)}, expected seeds, models, tasks, groups; {store.REMAKE}")
    return content.model_dump(), store.TensorFile(path)["coefficients"]


def write_solution(path: Path, solution: Solution) -> None:
    """Write one seed's solution to one file."""
    parts = {"coefficients": solution.coefficients, "losses": solution.losses}
    tensors = {name: value for name, value in parts.items() if value is not None}
    tensors |= {f"delta/{name}": tensor for name, tensor in (solution.delta or {}).items()}
    if solution.extras:
        tensors |= {f"extras/{solution.extras.kind}/{name}": value for name, value in solution.extras.tensors.items()}
    store.write_tensors(path, tensors)


def read_solution(path: Path) -> Solution:
    """Read a file of `write_solution`."""
    file = store.TensorFile(path)
    delta = {name.removeprefix("delta/"): file[name] for name in file if name.startswith("delta/")}
    extras: dict[str, dict[str, Tensor]] = {}
    for name in file:
        if name.startswith("extras/"):
            _, kind, rest = name.split("/", 2)
            extras.setdefault(kind, {})[rest] = file[name]
    return Solution(
        coefficients=file.get("coefficients"),
        delta=delta or None,
        losses=file.get("losses"),
        extras=next((Extras(kind, tensors) for kind, tensors in extras.items()), None),
    )


def load_models(suite: SuiteFolder, folder: Path, index: int) -> Iterator[Served]:
    """Yield the models of the `index`-th seed of an artefact, each with the tasks that it serves."""
    content, coefficients = load(folder)
    kind = content["extras"]
    solution = Solution(
        None if coefficients is None else coefficients[index],
        store.TensorFile(folder / f"delta-{index}.safetensors") if coefficients is None else None,
        extras=Extras(kind, store.TensorFile(folder / f"extras-{index}.safetensors")) if kind else None,
    )
    yield from serve(suite, solution)


def serve(suite: SuiteFolder, solution: Solution) -> Iterator[Served]:
    """Yield the models of a solution, each with the tasks that it serves.

    They are merged one at a time, tensor by tensor, in float64 and rounded once, so that one-hot coefficients give that
    expert exactly.
    """
    if solution.extras is None:
        yield from _merged(suite, solution)
        return
    for served in _merged(suite, solution):
        yield from serving.load(solution.extras.kind).serve(served, dict(suite.base()), solution.extras.tensors)


def _merged(suite: SuiteFolder, solution: Solution) -> Iterator[Served]:
    tasks, encoder, heads = suite.suite.task_names, suite.suite.encoder(), suite.heads()
    base = suite.base()
    if solution.delta is not None:
        yield Served(encoder, add_delta(base, solution.delta), heads, tasks)
    if solution.coefficients is not None:
        matrices = solution.coefficients if solution.coefficients.ndim == 3 else solution.coefficients[None]
        served = [tasks] if len(matrices) == 1 else [(task,) for task in tasks]
        experts = [suite.expert(task) for task in tasks]
        for matrix, names in zip(matrices, served, strict=True):
            yield Served(encoder, merge_experts(base, experts, suite.suite.groups, matrix), heads, names)
