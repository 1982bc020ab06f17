"""Diagnose a suite: write the tables of its measures, of its merges' losses and of how they correlate.

measures.csv         suite, measure, layer, task, other, value: every measure on the whole suite. `layer` is a tensor,
                     or "" for the whole model; `other` is the second task of a pair, or "".
nodes.safetensors    <layer>: M-Loss per unit [T, d], row t on the examples of task t
tasks.csv            per task: accuracy of its expert, every measure, loss of every merge of the whole suite
subsets.csv          the same for every task of every random subset
prediction.csv       rank correlations; scope "tasks": over the tasks; "subsets": over the subsets' means; "subsets of
                     one size": the same within each size

A loss is the expert's accuracy minus that of the merged model, in points, on the same validation examples. No test
example is read. M-Loss and disentanglement see examples of the calibration split, without labels.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.diagnostics import PREDICTED_MERGES, SIZE_MEASURE, Settings, behaviour, directions, prediction, subspaces
from pipeline.diagnostics.ensembles import layer_name
from pipeline.diagnostics.subsets import SubsetMerges, TaskSubset, average_pairs, draw_task_subsets, merge_subset
from pipeline.models.suite import SuiteFolder
from pipeline.runtime import store
from pipeline.runtime.errors import BenchmarkError
from pipeline.runtime.parallel import run_all
from pipeline.statistics.sampling import generator

QUANTILES = (0.1, 0.5, 0.9, 0.99)
"""Quantiles of M-Loss over the units of a layer that measures.csv lists."""


@dataclass(frozen=True)
class Pairs:
    """Measures of pairs of tasks on the whole model, [T, T] each: row i is about task i merged with task j."""

    cosine: Tensor
    sign_conflict: Tensor
    transfer: Tensor
    """The accuracy on task i of the expert of task j."""
    disentanglement: Tensor


def diagnose(folder: Path, split: str, settings: Settings, output: Path) -> None:
    """Diagnose a suite and write the five files to `output`."""
    suite = SuiteFolder(folder)
    tasks = suite.suite.task_names
    if len(tasks) < 2:
        raise BenchmarkError(f"{suite.suite.name}: {len(tasks)} task; a diagnosis needs two experts to merge")
    whole = tuple(range(len(tasks)))
    subsets = [whole, *draw_task_subsets(len(tasks), settings.subsets, generator(settings.seed, "subsets"))]
    vectors, seed = suite.vectors(), settings.seed
    products = directions.inner_products(vectors)
    conflicts, overall_conflict = directions.sign_conflicts(vectors, settings.keep)
    names = subspaces.select_matrices(suite.suite.groups)
    spaces = run_all(subspaces.measure_subspaces, [(folder, name, subsets) for name in names], "subspaces")
    accuracies = run_all(
        behaviour.measure_transfer, [(folder, task, settings.images, seed) for task in tasks], "transfer"
    )
    pieces = [(folder, task, split, settings.samples, settings.scale, seed) for task in whole]
    errors = torch.tensor(run_all(behaviour.measure_disentanglement, pieces, "disentanglement"), dtype=torch.float64)
    merges = run_all(merge_subset, [(folder, subset, split, settings) for subset in subsets], "merges of subsets")
    pairs = Pairs(
        directions.cosine_similarities(products.sum(0)),
        conflicts,
        torch.tensor(accuracies, dtype=torch.float64).T,
        errors[:, :-1],
    )
    values = {
        "norm": _mask_outside(directions.norms(products.sum(0)).expand(len(subsets), -1), subsets),
        "cosine": average_pairs(pairs.cosine, subsets),
        "sign_conflict": average_pairs(pairs.sign_conflict, subsets),
        "sar": torch.stack([aligned for aligned, _ in spaces]).mean(0),
        "sti": torch.stack([shares for _, shares in spaces]).mean(0),
        "mloss": _ensembles(merges, subsets, len(tasks), "layer"),
        "mloss_normalised": _ensembles(merges, subsets, len(tasks), "normalised"),
        "transfer": average_pairs(pairs.transfer, subsets),
        "disentanglement": average_pairs(pairs.disentanglement, subsets),
    }
    experts = pairs.transfer.diagonal()
    losses = {name: _losses(merges, subsets, experts, name) for name in PREDICTED_MERGES}
    header = ("suite", "measure", "layer", "task", "other", "value")
    rows: list[Measured] = [
        *_of_pairs(pairs, tasks),
        *_of_tensors(directions.cosine_similarities(products), suite.suite.groups, tasks),
        *_of_matrices(spaces, names, tasks),
        *_of_layers(merges[0], tasks),
        *(("norm", "", task, "", values["norm"][0, index]) for index, task in enumerate(tasks)),
        ("sign_conflict_all", "", "", "", overall_conflict),
        *(("disentanglement_all", "", task, "", errors[index, -1]) for index, task in enumerate(tasks)),
    ]
    suite_name = suite.suite.name
    store.write_csv(output / "measures.csv", header, [(suite_name, *row[:-1], format_value(row[-1])) for row in rows])
    nodes = [torch.stack([block.node for block in blocks]) for blocks in zip(*merges[0].ensembles, strict=True)]
    store.write_tensors(output / "nodes.safetensors", {layer_name(index): layer for index, layer in enumerate(nodes)})
    columns = {"expert": _mask_outside(experts.expand(len(subsets), -1), subsets)} | values
    columns |= {f"loss_{name}": loss for name, loss in losses.items()}
    table = list(_table(suite_name, tasks, subsets, columns))
    store.write_csv(
        output / "tasks.csv", ("suite", "task", *columns), [(row[0], *row[3:]) for row in table[: len(tasks)]]
    )
    store.write_csv(output / "subsets.csv", ("suite", "subset", SIZE_MEASURE, "task", *columns), table[len(tasks) :])
    correlations = _predictions(values, losses, subsets, seed)
    predicted = [(suite_name, *row[:4], *map(format_value, row[4:])) for row in correlations]
    store.write_csv(output / "prediction.csv", ("suite", *prediction.CORRELATION_COLUMNS), predicted)


def format_value(value: float | Tensor) -> str:
    """Format a value with six significant digits; "" if it is not finite."""
    return f"{float(value):.6g}" if math.isfinite(value) else ""


def _predictions(
    values: dict[str, Tensor], losses: dict[str, Tensor], subsets: list[TaskSubset], seed: int
) -> list[prediction.CorrelationRow]:
    measures, lost = ({name: row[0].double().numpy() for name, row in part.items()} for part in (values, losses))
    singles = [(task,) for task in subsets[0]]
    rows = prediction.correlate_measures("tasks", measures, lost, [0] * len(singles), singles, seed)
    if len(drawn := subsets[1:]) < 2:
        return rows
    measures, lost = (
        {name: stacked[1:].double().nanmean(1).numpy() for name, stacked in part.items()} for part in (values, losses)
    )
    sizes = [len(subset) for subset in drawn]
    with_size = {SIZE_MEASURE: np.array(sizes, dtype=float)} | measures
    rows += prediction.correlate_measures("subsets", with_size, lost, [0] * len(drawn), drawn, seed)
    return rows + prediction.correlate_measures("subsets of one size", measures, lost, sizes, drawn, seed)


def _mask_outside(values: Tensor, subsets: list[TaskSubset]) -> Tensor:
    """Put NaN for tasks outside the subset into `values` [subsets, T]."""
    member = torch.tensor([[task in subset for task in range(values.shape[1])] for subset in subsets])
    return torch.where(member, values, torch.nan)


def _ensembles(merges: Sequence[SubsetMerges], subsets: list[TaskSubset], tasks: int, kind: str) -> Tensor:
    """Return the mean M-Loss over layers [subsets, T]; NaN for tasks outside the subset."""
    values = torch.full((len(subsets), tasks), torch.nan, dtype=torch.float64)
    for row, (merge, subset) in enumerate(zip(merges, subsets, strict=True)):
        for task, ensemble in zip(subset, merge.ensembles, strict=True):
            values[row, task] = torch.stack([getattr(block, kind) for block in ensemble]).double().mean()
    return values


def _losses(merges: Sequence[SubsetMerges], subsets: list[TaskSubset], experts: Tensor, method: str) -> Tensor:
    """Return the accuracy of the expert minus that of the merge [subsets, T]; NaN for tasks outside the subset."""
    losses = torch.full((len(subsets), len(experts)), torch.nan, dtype=torch.float64)
    for row, (merge, subset) in enumerate(zip(merges, subsets, strict=True)):
        accuracies = torch.tensor(merge.accuracies[method], dtype=torch.float64)
        losses[row, [*subset]] = experts[[*subset]] - accuracies
    return losses


def _table(
    suite: str, tasks: Sequence[str], subsets: list[TaskSubset], columns: dict[str, Tensor]
) -> Iterator[tuple[str | int, ...]]:
    for row, subset in enumerate(subsets):
        subset_name = "+".join(tasks[task] for task in subset)
        for task in subset:
            cells = [format_value(values[row, task]) for values in columns.values()]
            yield (suite, subset_name, len(subset), tasks[task], *cells)


Measured = tuple[str, str, str, str, float | Tensor]
"""measure, layer, task, other, value: a row of measures.csv without the suite."""


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


def _of_layers(whole: SubsetMerges, tasks: Sequence[str]) -> Iterator[Measured]:
    for task, blocks in zip(tasks, whole.ensembles, strict=True):
        for index, block in enumerate(blocks):
            place = (layer_name(index), task, "")
            yield "mloss", *place, block.layer.mean()
            yield "mloss_normalised", *place, block.normalised.mean()
            for kind, nodes in (("", block.node), ("_normalised", block.node / block.power)):
                for share in QUANTILES:
                    yield f"node_mloss{kind}_q{100 * share:g}", *place, nodes.quantile(share)
