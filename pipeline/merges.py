"""The artefact of a merge: what `evaluate` knows, never the method.

merge.json                  form, seeds, tasks and groups in order, images used per task
coefficients.safetensors    form "coefficients": [S, M, T, G] for S seeds and M models (1, or T: one per task)
delta-<i>.safetensors       form "delta": the merged delta of the i-th seed, where it is not linear in the raw tau
losses.csv, draws.safetensors    of calibrated methods: the loss before each step, the indices of the images used
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pipeline import store
from pipeline.model import Weights
from pipeline.suite import Suite, SuiteFolder
from pipeline.vectors import add, merge


@dataclass(frozen=True)
class Merges:
    """A method's merges on a suite, one per seed."""

    seeds: tuple[int | None, ...]
    """None for a method without randomness."""
    samples: dict[str, int]
    """Unlabelled images used per task, tasks in order; 0 for a data-free method."""
    groups: tuple[str, ...]
    """Names of the last axis of the coefficients."""
    coefficients: Tensor | None = None
    """[S, M, T, G]."""
    deltas: Sequence[Weights] = ()
    losses: Tensor | None = None
    """[S, steps]."""
    draws: dict[str, Tensor] | None = None
    """Per task [S, samples]: indices into the calibration pool."""


def data_free(result: Tensor | Weights, suite: Suite) -> Merges:
    """What a data-free method returned, as an artefact."""
    samples = dict.fromkeys(suite.task_names, 0)
    if isinstance(result, Tensor):
        stacked = result if result.ndim == 3 else result[None]
        return Merges((None,), samples, suite.groups, coefficients=stacked[None])
    return Merges((None,), samples, suite.groups, deltas=(result,))


def save(merges: Merges, folder: Path) -> None:
    """Write the artefact; non-finite values are refused."""
    form = "coefficients" if merges.coefficients is not None else "delta"
    if merges.coefficients is not None:
        store.write_tensors(folder / "coefficients.safetensors", {"coefficients": merges.coefficients})
    for index, delta in enumerate(merges.deltas):
        store.write_tensors(folder / f"delta-{index}.safetensors", delta)
    if merges.losses is not None:
        steps = range(merges.losses.shape[1])
        rows = [
            (seed, step, f"{float(losses[step]):.6g}")
            for seed, losses in zip(merges.seeds, merges.losses, strict=True)
            for step in steps
        ]
        store.write_csv(folder / "losses.csv", ("seed", "step", "loss"), rows)
    if merges.draws is not None:
        store.write_tensors(folder / "draws.safetensors", merges.draws)
    about = {"form": form, "seeds": merges.seeds, "samples": merges.samples}
    store.write_json(folder / "merge.json", {**about, "tasks": [*merges.samples], "groups": merges.groups})


def load(folder: Path) -> tuple[dict, Tensor | None]:
    """(merge.json, coefficients [S, M, T, G] or None)."""
    about = store.read_json(folder / "merge.json")
    if about["form"] == "delta":
        return about, None
    return about, store.TensorFile(folder / "coefficients.safetensors")["coefficients"]


def models(suite: SuiteFolder, folder: Path, index: int) -> Iterator[tuple[Weights, tuple[str, ...]]]:
    """The models of the `index`-th seed: (weights of the whole image tower, the tasks they serve), one at a time.

    Merged in float64 tensor by tensor and rounded once, so that one-hot coefficients give that expert exactly.
    """
    _, coefficients = load(folder)
    tasks = suite.suite.task_names
    base = dict(suite.base())
    if coefficients is None:
        yield add(base, store.TensorFile(folder / f"delta-{index}.safetensors")), tasks
        return
    served = [tasks] if coefficients.shape[1] == 1 else [(task,) for task in tasks]
    for matrix, names in zip(coefficients[index], served, strict=True):
        yield merge(base, suite.vectors(torch.float64), matrix), names
