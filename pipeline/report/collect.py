"""data/ -> the evidence of a suite, see `pipeline.report.evidence`; only this and `collect_studies` read data/.

Only files of the suites and methods that params.yaml names are read: those of an earlier choice are ignored.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline import diagnostics, methods
from pipeline.merges import answers
from pipeline.models.weights import has_gradient
from pipeline.report import evidence
from pipeline.report.evidence import (
    MARK,
    ORIGIN,
    RESCALED,
    Chosen,
    Reference,
    format_csv,
    record_names,
    surgery_name,
    svc_name,
)
from pipeline.runtime import store
from pipeline.runtime.errors import BenchmarkError
from pipeline.statistics import accuracy
from pipeline.statistics.accuracy import MAIN

SVC = "Li et al., 2026, arXiv 2602.05536, on top of the merge"
SURGERY = "Yang et al., 2024, arXiv 2402.02705, on top of the merge"
NAMES = {
    "measures": {**diagnostics.MEASURES, diagnostics.SIZE_MEASURE: "number of tasks"},
    "merges": diagnostics.PREDICTED_MERGES,
    "unverified": diagnostics.UNVERIFIED,
}


def collect(inputs: Sequence[Path], suite: str, chosen: Chosen, output: Path) -> None:
    """Write the evidence of a suite.

    inputs: those of stages/collect.py, in order; output: a folder named after the suite. BenchmarkError
    where files are missing, damaged or do not fit together.
    """
    scores, answered, costs, diagnosis, merges, previews, clusters, origin, runs = inputs
    examples = store.read_arrays(previews)
    tasks, scaled = tuple(examples), [f"{name}{RESCALED}" for name in chosen.rescaled]
    scored = pd.concat([_scores(scores / f"{name}.csv") for name in (*chosen.names, *scaled)])
    described = {name: store.read_json(merges / name / "merge.json") for name in chosen.names}
    if tuple(described[MAIN]["tasks"]) != tasks:
        raise BenchmarkError(
            f"{merges / MAIN}: tasks {described[MAIN]['tasks']}, expected {list(tasks)}; run dvc repro"
        )
    records = {f"data/origins/{suite}.json": _origin(origin)}
    for name in chosen.names:
        records[f"data/costs/{suite}/{name}.json"] = store.read_json(costs / f"{name}.json")
    for name in record_names(suite, chosen):
        records[f"data/runs/{name}.json"] = store.read_json(runs / f"{name}.json")
    references = {name: asdict(reference) for name, reference in list_references(chosen).items()}
    several = [name for name, merge in described.items() if merge["extras"] not in (None, "heads")]
    lines = ["method,seed,step,loss\n"]
    for name in chosen.calibrated:
        if described[name]["losses"]:
            losses = _whole(merges / name / "losses.csv", ("seed", "step", "loss")).splitlines(keepends=True)
            lines += [f"{name},{line}" for line in losses[1:]]
    correct = answers.pack_correct(_correct(answered, scored, tasks))
    store.write_text(output / "scores.csv", format_csv(scored, None))
    store.write_arrays(output / "answers.npz", correct, compress=True)
    store.write_json(output / "methods.json", {"chosen": asdict(chosen), "references": references, "several": several})
    store.write_json(output / "measures.json", NAMES)
    for name in ("measures.csv", "prediction.csv"):
        store.write_text(output / name, _whole(diagnosis / name, ("suite", "measure")))
    store.write_text(output / "losses.csv", "".join(lines))
    store.write_text(output / "coefficients.csv", format_csv(_coefficients(merges / MAIN, described[MAIN]), None))
    store.write_arrays(output / "previews.npz", examples)
    store.write_arrays(output / "clusters.npz", store.read_arrays(clusters), compress=True)
    store.write_json(output / "records.json", records)
    evidence.load(output)


def list_references(chosen: Chosen) -> dict[str, Reference]:
    """Return {method: its reference}, in the order of the tables."""
    references = {}
    for name in (*chosen.data_free, *chosen.calibrated, *chosen.operated):
        module = methods.load(name)
        unverified = getattr(module, "UNVERIFIED", "")
        title = f"{module.TITLE} {MARK}" if unverified else module.TITLE
        references[name] = Reference(title, module.PAPER, unverified, tuple(module.Params.model_fields))
    for name in chosen.svc:
        reference = references[name]
        marked = f" {MARK}" * bool(reference.unverified)
        title = f"{reference.title.removesuffix(marked)} + SVC{marked}"
        references[svc_name(name)] = Reference(title, SVC, reference.unverified, ("svc",))
    for name in chosen.operated:
        title = f"Surgery on {references[name].title}"
        references[surgery_name(name)] = Reference(title, SURGERY, references[name].unverified, ("surgery",))
    return {name: references[name] for name in chosen.names}


def _scores(path: Path) -> pd.DataFrame:
    return accuracy.parse_scores(store.read_text(path), path)


def _origin(path: Path) -> dict[str, Any]:
    origin = store.read_json(path)
    if missing := [key for key in ORIGIN if key not in origin]:
        raise BenchmarkError(f"{path}: no {', '.join(missing)}; prepare the suite again")
    return origin


def _correct(folder: Path, scored: pd.DataFrame, tasks: Sequence[str]) -> dict[str, dict[str, np.ndarray]]:
    """Return right or wrong for every method of `scored`; BenchmarkError unless all classified the same examples."""
    correct, labels = {}, None
    for method in scored.method.unique():
        path = folder / f"{method}.npz"
        predictions = answers.load_answers(path, tasks)
        labels = labels or predictions.labels
        for task in tasks:
            if not np.array_equal(predictions.labels[task], labels[task]):
                raise BenchmarkError(f"{path}: methods were asked about different examples of {task}; run dvc repro")
        correct[method] = predictions.correct()
    return correct


def _whole(path: Path, columns: Collection[str]) -> str:
    """Read a CSV file as text; EvidenceError unless it has these columns and ends with a whole line."""
    evidence.load_table(path, columns)
    return store.read_text(path)


def _coefficients(folder: Path, merge: Mapping[str, Any]) -> pd.DataFrame:
    """Return seed, task, tensor, coefficient of the tensors with a gradient: the others are not learned."""
    values = store.TensorFile(folder / "coefficients.safetensors")["coefficients"].numpy()[:, 0]
    learned = [has_gradient(name) for name in merge["groups"]]
    names = [name for name, kept in zip(merge["groups"], learned, strict=True) if kept]
    index = pd.MultiIndex.from_product([merge["seeds"], merge["tasks"], names], names=["seed", "task", "tensor"])
    return pd.DataFrame({"coefficient": values[:, :, learned].ravel()}, index).reset_index()
