"""What was measured on a suite, read from the files that the suites and methods of params.yaml name.

What an earlier choice of suites and methods left behind in the same folders is ignored.
"""

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline import scores, store, tables
from pipeline.errors import BenchmarkError
from pipeline.scores import CEILING, FLOOR, MAIN

ORIGIN = ("source", "embedded", "fetched", "overlap", "anchors", "published")
"""What data/origins/<suite>.json holds."""


@dataclass(frozen=True)
class Results:
    """What was measured on a suite."""

    suite: str
    tasks: tuple[str, ...]
    runs: pd.DataFrame
    study: pd.DataFrame
    """As `runs`, with k."""
    used: pd.DataFrame
    """Columns k, method, task, samples of the study."""
    losses: Mapping[str, np.ndarray]
    """[S, steps] per calibrated method, seeds ascending."""
    coefficients: np.ndarray
    """[T, G], SAMerging's mean over seeds."""
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
    studied: tuple[str, ...]
    """Those of the calibrated ones whose data efficiency was measured."""

    @property
    def names(self) -> tuple[str, ...]:
        """All of them, in the order of the tables."""
        return (*self.data_free, *self.calibrated)

    @property
    def groups(self) -> dict[str, list[str]]:
        """The sections of a table."""
        fixed = [name for name in (FLOOR, CEILING) if name in self.data_free]
        free = [name for name in self.data_free if name not in fixed]
        return {"Floor and ceiling, not merged": fixed, "Data-free": free, "Calibrated": list(self.calibrated)}


def choose(merge: Sequence[str], calibrate: Sequence[str], study: Sequence[str]) -> Chosen:
    """The methods that params.yaml names, and SAMerging."""
    return Chosen(tuple(merge), (*calibrate, MAIN), (*study, MAIN))


def read(inputs: Sequence[Path], suite: str, chosen: Chosen) -> Results:
    """The results of a suite; inputs: the folders of scores, studies, merges, previews, origins, run records."""
    counted, studied, merged, previews, origins, recorded = inputs
    images = store.read_arrays(previews / f"{suite}.npz")
    tasks = tuple(images)
    frame = _scores([counted / suite / f"{name}.csv" for name in chosen.names])
    study = _scores([studied / suite / name / "scores.csv" for name in chosen.studied], ("k",))
    runs = scores.runs(frame, tasks)
    about = store.read_json(merged / suite / MAIN / "merge.json")
    if tuple(about["tasks"]) != tasks:
        raise BenchmarkError(f"{merged / suite / MAIN}: tasks {about['tasks']}, expected {list(tasks)}; run dvc repro")
    values = store.TensorFile(merged / suite / MAIN / "coefficients.safetensors")["coefficients"].numpy()
    losses = {name: _losses(merged / suite / name / "losses.csv") for name in chosen.calibrated}
    origin = _origin(origins / f"{suite}.json")
    records = tuple(store.read_json(recorded / f"{name}.json") for name in _records(suite, chosen))
    params = parameters(suite, records)
    used = frame[frame.method.isin(chosen.calibrated)].groupby("task").samples.min()
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
        suite,
        tasks,
        runs,
        scores.runs(study, tasks, runs),
        study[["k", "method", "task", "samples"]],
        losses,
        values.mean(axis=0)[0],
        tuple(about["groups"]),
        images,
        records,
        protocol,
        origin,
    )


def _origin(path: Path) -> dict[str, Any]:
    origin = store.read_json(path)
    if missing := [key for key in ORIGIN if key not in origin]:
        raise BenchmarkError(f"{path}: no {', '.join(missing)}; prepare the suite again")
    return origin


def _scores(paths: Iterable[Path], extra: Sequence[str] = ()) -> pd.DataFrame:
    return pd.concat([scores.parse(store.read_text(path), path, extra) for path in paths], ignore_index=True)


def _losses(path: Path) -> np.ndarray:
    return pd.read_csv(io.StringIO(store.read_text(path))).pivot(index="seed", columns="step", values="loss").to_numpy()


def _records(suite: str, chosen: Chosen) -> list[str]:
    """The names of the run records, in the order of the pipeline."""
    baselines = chosen.calibrated[:-1]
    return [
        *(f"{stage}-{suite}" for stage in ("prepare", "teach")),
        *(f"merge-{suite}-{name}" for name in chosen.data_free),
        *(f"calibrate-{suite}-{name}" for name in baselines),
        f"{MAIN}-{suite}",
        *(f"evaluate-{suite}-{name}" for name in chosen.names),
        *(f"study-{suite}-{name}" for name in chosen.studied[:-1]),
        f"study_{MAIN}-{suite}",
    ]


def parameters(suite: str, records: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The parameters of all stages; BenchmarkError if two stages ran with different values of one."""
    found: dict[str, Any] = {}
    for record in records:
        for key, value in record["params"].items():
            if found.setdefault(key, value) != value:
                raise BenchmarkError(f"{suite}: stages ran with {key} = {found[key]} and {value}; run dvc repro")
    return found
