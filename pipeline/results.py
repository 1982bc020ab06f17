"""What was measured on a suite, read from the files that the suites and methods of params.yaml name.

What an earlier choice of suites and methods left behind in the same folders is ignored.
"""

import io
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline import answers, scores, store, tables
from pipeline.errors import BenchmarkError
from pipeline.model import has_gradient
from pipeline.scores import CEILING, FLOOR, MAIN

ORIGIN = ("source", "embedded", "fetched", "overlap", "anchors", "published")
"""What data/origins/<suite>.json holds."""


@dataclass(frozen=True)
class Results:
    """What was measured on a suite."""

    suite: str
    tasks: tuple[str, ...]
    scored: pd.DataFrame
    """All counts: the methods in the order of the tables, then those with a chosen scale (`-rescaled`)."""
    correct: Mapping[str, Mapping[str, np.ndarray]]
    """{method: {task: bool [S, n]}} for the methods of `scored`: whether each test image was answered rightly."""
    drawn: Mapping[str, tuple[int, ...]]
    """The seeds of every method of `correct`, in its order; -1 without randomness."""
    runs: pd.DataFrame
    rescaled: pd.DataFrame
    """As `runs`: methods with the scale that unlabelled images chose, under the method's own name."""
    samples: Mapping[str, int]
    """Most unlabelled images per task that a method used."""
    costs: Mapping[str, Mapping[str, Any]]
    """Per method what `pipeline.costs` counted."""
    several: frozenset[str]
    """Methods that need more than one model's weights or computation at inference."""
    seconds: Mapping[str, float]
    """Per method how long its merge or calibration took."""
    measures: pd.DataFrame
    """What was measured before merging; columns as in `pipeline.diagnostics.collect`."""
    predictions: pd.DataFrame
    """How well those measures predict what merging costs."""
    losses: Mapping[str, np.ndarray]
    """[S, steps] per method that takes steps, seeds ascending."""
    coefficients: np.ndarray
    """[T, G], SAMerging's mean over seeds, of the groups with a gradient: the others are not learned."""
    groups: tuple[str, ...]
    images: Mapping[str, np.ndarray]
    records: tuple[Mapping[str, Any], ...]
    protocol: tables.Protocol
    origin: Mapping[str, Any]
    """Where the suite came from, see ORIGIN."""


@dataclass(frozen=True)
class Chosen:
    """The methods of the report; SAMerging is always one of the calibrated ones."""

    data_free: tuple[str, ...]
    calibrated: tuple[str, ...]
    operated: tuple[str, ...] = ()
    """Merges that Representation Surgery was put on top of."""
    rescaled: tuple[str, ...] = ()
    """Methods whose scale was chosen on unlabelled images as well."""

    @property
    def names(self) -> tuple[str, ...]:
        """All of them, in the order of the tables."""
        return (*self.data_free, *self.calibrated, *map(on_top, self.operated))

    def sections(self, several: Collection[str]) -> dict[str, list[str]]:
        """The sections of a table; `several`: methods with more than one model at inference."""
        fixed = [name for name in (FLOOR, CEILING) if name in self.data_free]
        free = [name for name in self.data_free if name not in (*fixed, *several)]
        learned = [name for name in self.calibrated if name not in several]
        more = [name for name in self.names if name in several and name not in fixed]
        sections = {"Floor and ceiling, not merged": fixed, "Data-free": free, "Calibrated": learned}
        return {**sections, "More than one model at inference": more}


def on_top(name: str) -> str:
    """The name of surgery on top of a method."""
    return f"surgery-{name}"


def choose(methods: Mapping[str, Sequence[str]]) -> Chosen:
    """The methods that params.yaml names, and SAMerging."""
    return Chosen(
        tuple(methods["merge"]),
        (*methods["calibrate"], MAIN),
        tuple(methods["surgery"]),
        tuple(methods["rescale"]),
    )


def read(inputs: Sequence[Path], suite: str, chosen: Chosen) -> Results:
    """The results of a suite; inputs: the folders that stages/report.py names, in order."""
    counted, answered, priced, diagnosed, merged, previews, origins, recorded = inputs
    images = store.read_arrays(previews / f"{suite}.npz")
    tasks = tuple(images)
    frame = _scores([counted / suite / f"{name}.csv" for name in chosen.names])
    scaled = [f"{name}-rescaled" for name in chosen.rescaled]
    scored = pd.concat([frame, *(_scores([counted / suite / f"{name}.csv"]) for name in scaled)], ignore_index=True)
    runs = scores.runs(frame, tasks)
    abouts = {name: store.read_json(merged / suite / name / "merge.json") for name in chosen.names}
    if tuple(abouts[MAIN]["tasks"]) != tasks:
        found = abouts[MAIN]["tasks"]
        raise BenchmarkError(f"{merged / suite / MAIN}: tasks {found}, expected {list(tasks)}; run dvc repro")
    values = store.TensorFile(merged / suite / MAIN / "coefficients.safetensors")["coefficients"].numpy()
    curves = {name: merged / suite / name / "losses.csv" for name in chosen.calibrated if abouts[name]["losses"]}
    origin = _origin(origins / f"{suite}.json")
    records = tuple(store.read_json(recorded / f"{name}.json") for name in record_names(suite, chosen))
    params = parameters(suite, records)
    used = frame[frame.method == MAIN].groupby("task").samples.min()
    protocol = tables.Protocol(
        suite,
        params["calibration_split"],
        params["evaluation_split"],
        params["samples_per_task"],
        {task: int(used[task]) for task in tasks},
        params["seeds"],
        origin["embedded"],
    )
    return Results(
        suite=suite,
        tasks=tasks,
        scored=scored,
        correct=_correct(answered / suite, scored, tasks),
        drawn={name: _seeds(rows) for name, rows in scored.groupby("method", sort=False)},
        runs=runs,
        rescaled=_rescaled(scored[scored.method.isin(scaled)], tasks, runs),
        samples=frame.groupby("method").samples.max().to_dict(),
        costs={name: store.read_json(priced / suite / f"{name}.json") for name in chosen.names},
        several=frozenset(name for name, about in abouts.items() if about["extras"] not in (None, "heads")),
        seconds={name: store.read_json(recorded / f"{one}.json")["seconds"] for name, one in _makers(suite, chosen)},
        measures=_measured(diagnosed / suite / "measures.csv"),
        predictions=_measured(diagnosed / suite / "prediction.csv"),
        losses={name: _losses(path) for name, path in curves.items()},
        coefficients=values.mean(axis=0)[0][:, [has_gradient(name) for name in abouts[MAIN]["groups"]]],
        groups=tuple(filter(has_gradient, abouts[MAIN]["groups"])),
        images=images,
        records=records,
        protocol=protocol,
        origin=origin,
    )


def _rescaled(frame: pd.DataFrame, tasks: Sequence[str], runs: pd.DataFrame) -> pd.DataFrame:
    if frame.empty:
        return runs.iloc[:0]
    return scores.runs(frame.assign(method=frame.method.str.removesuffix("-rescaled")), tasks, runs)


def _correct(folder: Path, scored: pd.DataFrame, tasks: Sequence[str]) -> dict[str, dict[str, np.ndarray]]:
    """Right or wrong for every method of `scored`; refused unless it is what was counted, on the same images."""
    found, labels = {}, None
    for method, rows in scored.groupby("method", sort=False):
        path = folder / f"{method}.npz"
        given = answers.load(path, tasks)
        labels = labels or given.labels
        found[method] = given.correct()
        for task, right in found[method].items():
            own = rows[rows.task == task]
            if own.correct.tolist() != right.sum(axis=1).tolist() or set(own.total) != {right.shape[1]}:
                raise BenchmarkError(
                    f"{path}: its right answers on {task} are not those counted in the scores; dvc repro"
                )
            if not np.array_equal(given.labels[task], labels[task]):
                raise BenchmarkError(f"{path}: methods were asked about different images of {task}; run dvc repro")
    return found


def _seeds(rows: pd.DataFrame) -> tuple[int, ...]:
    return tuple(rows.seed.fillna(-1).astype(int).unique().tolist())


def _origin(path: Path) -> dict[str, Any]:
    origin = store.read_json(path)
    if missing := [key for key in ORIGIN if key not in origin]:
        raise BenchmarkError(f"{path}: no {', '.join(missing)}; prepare the suite again")
    return origin


def _scores(paths: Iterable[Path]) -> pd.DataFrame:
    return pd.concat([scores.parse(store.read_text(path), path) for path in paths], ignore_index=True)


def _table(path: Path, columns: Collection[str]) -> pd.DataFrame:
    """A CSV file with at least these columns, to its last line; BenchmarkError names one that is damaged."""
    text = store.read_text(path)
    try:
        frame = pd.read_csv(io.StringIO(text))
    except ValueError as error:
        raise BenchmarkError(f"{path}: not a table ({' '.join(str(error).split())}); {store.MEND}") from error
    if missing := sorted({*columns} - {*frame.columns}):
        raise BenchmarkError(f"{path}: no column {', '.join(missing)}; {store.MEND}")
    if not text.endswith("\n"):
        raise BenchmarkError(f"{path}: ends in the middle of a line; {store.MEND}")
    return frame


def _measured(path: Path) -> pd.DataFrame:
    """A table of `pipeline.diagnostics`, in which an empty text is a text."""
    return _table(path, ("suite", "measure")).fillna(dict.fromkeys(("layer", "task", "other"), ""))


def _losses(path: Path) -> np.ndarray:
    curves = _table(path, ("seed", "step", "loss")).pivot(index="seed", columns="step", values="loss").to_numpy()
    if not curves.size or np.isnan(curves).any():
        raise BenchmarkError(f"{path}: steps are missing, expected a loss for every seed and step; {store.MEND}")
    return curves


def _makers(suite: str, chosen: Chosen) -> list[tuple[str, str]]:
    """(method, name of the run record of the stage that made its merge)."""
    return [
        *((name, f"merge-{suite}-{name}") for name in chosen.data_free),
        *((name, f"calibrate-{suite}-{name}") for name in chosen.calibrated[:-1]),
        (MAIN, f"{MAIN}-{suite}"),
        *((on_top(name), f"surgery-{suite}-{name}") for name in chosen.operated),
    ]


def record_names(suite: str, chosen: Chosen) -> list[str]:
    """The names of the run records, in the order of the pipeline."""
    scaled = [f"{name}-rescaled" for name in chosen.rescaled]
    return [
        *(f"{stage}-{suite}" for stage in ("train", "prepare", "teach", "diagnose")),
        *(record for _, record in _makers(suite, chosen)),
        *(f"rescale-{suite}-{name}" for name in chosen.rescaled),
        *(f"evaluate-{suite}-{name}" for name in (*chosen.names, *scaled)),
    ]


def parameters(suite: str, records: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The parameters of all stages; BenchmarkError if two stages ran with different values of one."""
    found: dict[str, Any] = {}
    for record in records:
        for key, value in record["params"].items():
            if found.setdefault(key, value) != value:
                raise BenchmarkError(f"{suite}: stages ran with {key} = {found[key]} and {value}; run dvc repro")
    return found
