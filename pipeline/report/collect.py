"""data/ -> the evidence of a suite, see `pipeline.report.evidence`; the only part of the report that reads data/.

Files are those of the suites and methods that params.yaml names: what an earlier choice left behind is ignored.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline import diagnostics, methods
from pipeline.merges import answers
from pipeline.models.weights import has_gradient
from pipeline.report import evidence
from pipeline.report.evidence import ORIGIN, RESCALED, Chosen, Reference, on_top, record_names
from pipeline.runtime import store
from pipeline.runtime.errors import BenchmarkError
from pipeline.statistics import accuracy
from pipeline.statistics.accuracy import MAIN

SURGERY = "Yang et al., 2024, arXiv 2402.02705, on top of the merge"
MARK = "†"
"""Ends the title of a method of which something could not be checked against its source."""
NAMES = {
    "measures": {**diagnostics.MEASURES, diagnostics.SIZE: "number of tasks"},
    "merges": diagnostics.METHODS,
    "unverified": diagnostics.UNVERIFIED,
}


def collect(inputs: Sequence[Path], suite: str, chosen: Chosen, output: Path) -> None:
    """Write the evidence of a suite.

    inputs: those of stages/collect.py, in order; output: a folder called as the suite. BenchmarkError
    where files are missing, damaged or do not fit together.
    """
    counted, answered, priced, diagnosed, merged, previews, origin, recorded = inputs
    images = store.read_arrays(previews)
    tasks, scaled = tuple(images), [f"{name}{RESCALED}" for name in chosen.rescaled]
    scored = pd.concat([_scores(counted / f"{name}.csv") for name in (*chosen.names, *scaled)])
    about = {name: store.read_json(merged / name / "merge.json") for name in chosen.names}
    if tuple(about[MAIN]["tasks"]) != tasks:
        raise BenchmarkError(f"{merged / MAIN}: tasks {about[MAIN]['tasks']}, expected {list(tasks)}; run dvc repro")
    curves = {name: merged / name / "losses.csv" for name in chosen.calibrated if about[name]["losses"]}
    kept = {f"data/origins/{suite}.json": _origin(origin)}
    for name in chosen.names:
        kept[f"data/costs/{suite}/{name}.json"] = store.read_json(priced / f"{name}.json")
    for name in record_names(suite, chosen):
        kept[f"data/runs/{name}.json"] = store.read_json(recorded / f"{name}.json")
    several = [name for name, told in about.items() if told["extras"] not in (None, "heads")]
    store.write_text(output / "scores.csv", csv(scored))
    store.write_arrays(output / "answers.npz", answers.pack(_correct(answered, scored, tasks)), compress=True)
    store.write_json(output / "methods.json", _told(chosen, several))
    store.write_json(output / "measures.json", NAMES)
    for name in ("measures.csv", "prediction.csv"):
        store.write_text(output / name, _whole(diagnosed / name, ("suite", "measure")))
    store.write_text(output / "losses.csv", "".join(_joined(curves)))
    store.write_text(output / "coefficients.csv", csv(_coefficients(merged / MAIN, about[MAIN])))
    store.write_arrays(output / "images.npz", images)
    store.write_json(output / "records.json", kept)
    evidence.load(output)


def collect_studies(rows: Mapping[str, Path], fixed: Iterable[Path], records: Iterable[Path], output: Path) -> None:
    """Write the evidence of a suite's studies.

    rows: {study: what it wrote}, a file or a folder; fixed: the scores of zero-shot and of the experts; records: the
    studies' run records; output: a folder called as the suite.
    """
    for study, path in rows.items():
        for file in sorted(path.glob("*.csv")) if path.is_dir() else (path,):
            place = output / study / file.name if path.is_dir() else output / f"{study}.csv"
            store.write_text(place, store.read_text(file))
    store.write_text(output / "scores.csv", csv(pd.concat(map(_scores, fixed))))
    kept = {f"data/studies/runs/{path.name}": store.read_json(path) for path in records}
    store.write_json(output / "records.json", kept)
    store.write_json(output / "titles.json", {name: methods.load(name).TITLE for name in methods.names()})


def csv(frame: pd.DataFrame) -> str:
    """Rows without loss of precision; empty where undefined."""
    return frame.to_csv(index=False, lineterminator="\n")


def refer(chosen: Chosen) -> dict[str, Reference]:
    """{method: its reference}, in the order of the tables."""
    merges = dict.fromkeys((*chosen.data_free, *chosen.calibrated, *chosen.operated))
    references = {name: _reference(name) for name in merges}
    for name in chosen.operated:
        merge = references[name]
        references[on_top(name)] = Reference(f"Surgery on {merge.title}", SURGERY, merge.unverified, ("surgery",))
    return {name: references[name] for name in chosen.names}


def _reference(name: str) -> Reference:
    module = methods.load(name)
    unverified = getattr(module, "UNVERIFIED", "")
    title = f"{module.TITLE} {MARK}" if unverified else module.TITLE
    return Reference(title, module.PAPER, unverified, tuple(module.Params.model_fields))


def _told(chosen: Chosen, several: Sequence[str]) -> dict[str, Any]:
    references = {name: asdict(reference) for name, reference in refer(chosen).items()}
    return {"chosen": asdict(chosen), "references": references, "several": several}


def _scores(path: Path) -> pd.DataFrame:
    return accuracy.parse(store.read_text(path), path)


def _origin(path: Path) -> dict[str, Any]:
    origin = store.read_json(path)
    if missing := [key for key in ORIGIN if key not in origin]:
        raise BenchmarkError(f"{path}: no {', '.join(missing)}; prepare the suite again")
    return origin


def _correct(folder: Path, scored: pd.DataFrame, tasks: Sequence[str]) -> dict[str, dict[str, np.ndarray]]:
    """Right or wrong for every method of `scored`; BenchmarkError unless all were asked about the same images."""
    correct, labels = {}, None
    for method in scored.method.unique():
        path = folder / f"{method}.npz"
        given = answers.load(path, tasks)
        labels = labels or given.labels
        for task in tasks:
            if not np.array_equal(given.labels[task], labels[task]):
                raise BenchmarkError(f"{path}: methods were asked about different images of {task}; run dvc repro")
        correct[method] = given.correct()
    return correct


def _joined(curves: Mapping[str, Path]) -> Iterator[str]:
    """The lines of losses.csv."""
    yield "method,seed,step,loss\n"
    for name, path in curves.items():
        yield from (f"{name},{line}" for line in _whole(path, ("seed", "step", "loss")).splitlines(keepends=True)[1:])


def _whole(path: Path, columns: Collection[str]) -> str:
    """The text of a CSV file that has at least these columns and ends with its last line."""
    evidence.read_table(path, columns)
    return store.read_text(path)


def _coefficients(folder: Path, about: Mapping[str, Any]) -> pd.DataFrame:
    """seed, task, tensor, coefficient of the tensors with a gradient: the others are not learned."""
    values = store.TensorFile(folder / "coefficients.safetensors")["coefficients"].numpy()[:, 0]
    learned = [has_gradient(name) for name in about["groups"]]
    names = [name for name, kept in zip(about["groups"], learned, strict=True) if kept]
    index = pd.MultiIndex.from_product([about["seeds"], about["tasks"], names], names=["seed", "task", "tensor"])
    return pd.DataFrame({"coefficient": values[:, :, learned].ravel()}, index).reset_index()
