"""From the files of a suite to the tables of its diagnosis.

measures.csv         suite, measure, layer, task, other, value: all that was measured on the whole suite. `layer` is a
                     tensor, or "" for the whole model; `other` the second task of a pair, "" where there is none.
nodes.safetensors    <layer>: M-Loss per unit [T, d], row t on the images of task t
tasks.csv            per task: accuracy of its expert, every measure, loss of every merge of the whole suite
subsets.csv          the same for every task of every random subset
prediction.csv       rank correlations; scope "tasks": over the tasks; "subsets": over the subsets' means; "subsets of
                     one size": the same within each size

A loss is the expert's accuracy minus that of the merged model, in points, on the same validation images. No test image
is read. M-Loss and disentanglement see images of the calibration split, without labels.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.diagnostics import METHODS, SIZE, Settings, behaviour, directions, prediction, subspaces
from pipeline.diagnostics.ensembles import layer_name
from pipeline.diagnostics.subsets import Merged, Subset, among, draw_subsets, merged
from pipeline.models.sampling import generator
from pipeline.models.suite import SuiteFolder
from pipeline.runtime import store
from pipeline.runtime.errors import BenchmarkError
from pipeline.runtime.parallel import run

QUANTILES = (0.1, 0.5, 0.9, 0.99)
"""Of M-Loss over the units of a layer."""


@dataclass(frozen=True)
class Pairs:
    """What is measured on the whole suite, model-wide, [T, T] each: row i is about task i beside task j."""

    cosine: Tensor
    sign_conflict: Tensor
    transfer: Tensor
    """Accuracy on task i of the expert of task j."""
    disentanglement: Tensor


def diagnose(folder: Path, split: str, settings: Settings, output: Path) -> None:
    """Write the five files to `output`."""
    suite = SuiteFolder(folder)
    tasks = suite.suite.task_names
    if len(tasks) < 2:
        raise BenchmarkError(f"{suite.suite.name}: {len(tasks)} task; a diagnosis needs two experts to merge")
    whole = tuple(range(len(tasks)))
    subsets = [whole, *draw_subsets(len(tasks), settings.subsets, generator(settings.seed, "subsets"))]
    vectors, seed = suite.vectors(), settings.seed
    products = directions.inner_products(vectors)
    conflicts, mixed = directions.sign_conflicts(vectors, settings.keep)
    names = subspaces.matrices(suite.suite.groups)
    spaces = run(subspaces.measure, [(folder, name, subsets) for name in names], "subspaces")
    crossed = run(behaviour.transfer, [(folder, task, settings.images, seed) for task in tasks], "transfer")
    pieces = [(folder, task, split, settings.samples, settings.scale, seed) for task in whole]
    errors = torch.tensor(run(behaviour.disentanglement, pieces, "disentanglement"), dtype=torch.float64)
    found = run(merged, [(folder, subset, split, settings) for subset in subsets], "merges of subsets")
    pairs = Pairs(
        directions.cosines(products.sum(0)),
        conflicts,
        torch.tensor(crossed, dtype=torch.float64).T,
        errors[:, :-1],
    )
    values = {
        "norm": _inside(directions.norms(products.sum(0)).expand(len(subsets), -1), subsets),
        "cosine": among(pairs.cosine, subsets),
        "sign_conflict": among(pairs.sign_conflict, subsets),
        "sar": torch.stack([aligned for aligned, _ in spaces]).mean(0),
        "sti": torch.stack([shares for _, shares in spaces]).mean(0),
        "mloss": _ensembles(found, subsets, len(tasks), "layer"),
        "mloss_normalised": _ensembles(found, subsets, len(tasks), "normalised"),
        "transfer": among(pairs.transfer, subsets),
        "disentanglement": among(pairs.disentanglement, subsets),
    }
    experts = pairs.transfer.diagonal()
    losses = {name: _losses(found, subsets, experts, name) for name in METHODS}
    header = ("suite", "measure", "layer", "task", "other", "value")
    rows = [
        *_of_pairs(pairs, tasks),
        *_of_tensors(directions.cosines(products), suite.suite.groups, tasks),
        *_of_matrices(spaces, names, tasks),
        *_of_layers(found[0], tasks),
        *(("norm", "", task, "", values["norm"][0, index]) for index, task in enumerate(tasks)),
        ("sign_conflict_all", "", "", "", mixed),
        *(("disentanglement_all", "", task, "", errors[index, -1]) for index, task in enumerate(tasks)),
    ]
    suite_name = suite.suite.name
    store.write_csv(output / "measures.csv", header, [(suite_name, *row[:-1], number(row[-1])) for row in rows])
    nodes = [torch.stack([block.node for block in blocks]) for blocks in zip(*found[0].ensembles, strict=True)]
    store.write_tensors(output / "nodes.safetensors", {layer_name(index): one for index, one in enumerate(nodes)})
    columns = {"expert": _inside(experts.expand(len(subsets), -1), subsets)} | values
    columns |= {f"loss_{name}": lost for name, lost in losses.items()}
    table = list(_table(suite_name, tasks, subsets, columns))
    store.write_csv(
        output / "tasks.csv", ("suite", "task", *columns), [(row[0], *row[3:]) for row in table[: len(tasks)]]
    )
    store.write_csv(output / "subsets.csv", ("suite", "subset", SIZE, "task", *columns), table[len(tasks) :])
    predicted = [(suite_name, *row[:4], *map(number, row[4:])) for row in _predictions(values, losses, subsets, seed)]
    store.write_csv(output / "prediction.csv", ("suite", *prediction.HEADER), predicted)


def number(value: float) -> str:
    """Six significant digits; nothing for what is not defined."""
    return f"{float(value):.6g}" if math.isfinite(value) else ""


def _predictions(
    values: dict[str, Tensor], losses: dict[str, Tensor], subsets: list[Subset], seed: int
) -> list[prediction.Row]:
    per_task = [{name: one[0].double().numpy() for name, one in part.items()} for part in (values, losses)]
    singles = [(task,) for task in subsets[0]]
    rows = prediction.predict("tasks", *per_task, [0] * len(singles), singles, seed)
    if len(drawn := subsets[1:]) < 2:
        return rows
    means = [{name: one[1:].double().nanmean(1).numpy() for name, one in part.items()} for part in (values, losses)]
    sizes = [len(subset) for subset in drawn]
    measures, lost = means
    counted = {SIZE: np.array(sizes, dtype=float)} | measures
    rows += prediction.predict("subsets", counted, lost, [0] * len(drawn), drawn, seed)
    return rows + prediction.predict("subsets of one size", measures, lost, sizes, drawn, seed)


def _inside(values: Tensor, subsets: list[Subset]) -> Tensor:
    """[subsets, T] with NaN for tasks outside the subset."""
    member = torch.tensor([[task in subset for task in range(values.shape[1])] for subset in subsets])
    return torch.where(member, values, torch.nan)


def _ensembles(found: Sequence[Merged], subsets: list[Subset], tasks: int, kind: str) -> Tensor:
    """M-Loss, mean over layers, [subsets, T]."""
    values = torch.full((len(subsets), tasks), torch.nan, dtype=torch.float64)
    for row, (one, subset) in enumerate(zip(found, subsets, strict=True)):
        for task, ensemble in zip(subset, one.ensembles, strict=True):
            values[row, task] = torch.stack([getattr(block, kind) for block in ensemble]).double().mean()
    return values


def _losses(found: Sequence[Merged], subsets: list[Subset], experts: Tensor, method: str) -> Tensor:
    """Accuracy of the expert minus that of the merge, [subsets, T]."""
    lost = torch.full((len(subsets), len(experts)), torch.nan, dtype=torch.float64)
    for row, (one, subset) in enumerate(zip(found, subsets, strict=True)):
        reached = torch.tensor(one.accuracies[method], dtype=torch.float64)
        lost[row, [*subset]] = experts[[*subset]] - reached
    return lost


def _table(
    suite: str, tasks: Sequence[str], subsets: list[Subset], columns: dict[str, Tensor]
) -> Iterator[tuple[Any, ...]]:
    for row, subset in enumerate(subsets):
        together = "+".join(tasks[task] for task in subset)
        for task in subset:
            cells = [number(values[row, task]) for values in columns.values()]
            yield (suite, together, len(subset), tasks[task], *cells)


Measured = tuple[str, str, str, str, float]


def _of_pairs(pairs: Pairs, tasks: Sequence[str]) -> Iterator[Measured]:
    for measure, values in vars(pairs).items():
        for i, task in enumerate(tasks):
            for j, other in enumerate(tasks):
                if i != j or measure == "transfer":
                    yield measure, "", task, other, values[i, j]


def _of_tensors(cosines: Tensor, groups: Sequence[str], tasks: Sequence[str]) -> Iterator[Measured]:
    for name, values in zip(groups, cosines, strict=True):
        for i, task in enumerate(tasks):
            for j in range(i + 1, len(tasks)):
                yield "cosine", name, task, tasks[j], values[i, j]


def _of_matrices(
    spaces: Sequence[tuple[Tensor, Tensor]], names: Sequence[str], tasks: Sequence[str]
) -> Iterator[Measured]:
    for name, pair in zip(names, spaces, strict=True):
        for measure, values in zip(("sar", "sti"), pair, strict=True):
            for index, task in enumerate(tasks):
                yield measure, name, task, "", values[0, index]


def _of_layers(whole: Merged, tasks: Sequence[str]) -> Iterator[Measured]:
    for task, blocks in zip(tasks, whole.ensembles, strict=True):
        for index, found in enumerate(blocks):
            place = (layer_name(index), task, "")
            yield "mloss", *place, found.layer.mean()
            yield "mloss_normalised", *place, found.normalised.mean()
            for kind, nodes in (("", found.node), ("_normalised", found.node / found.power)):
                for share in QUANTILES:
                    yield f"node_mloss{kind}_q{100 * share:g}", *place, nodes.quantile(share)
