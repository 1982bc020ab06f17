"""The studies in the report: a file per study with the function `view(rows, context) -> View`."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.report.evidence import (
    AGAIN,
    STUDIES,
    EvidenceError,
    clusters_of,
    load_arrays,
    load_json,
    load_table,
    load_text,
    merge_parameters,
)
from pipeline.report.figures import Style, styles
from pipeline.report.view import Look, View
from pipeline.statistics import accuracy
from pipeline.statistics.accuracy import AVERAGE, CEILING, FLOOR

NEEDS = {
    "robustness": "images",
    "replicates": "a base that is trained here",
    "conflict": "a base that is trained here",
    "label_spaces": "two tasks on one domain",
    "language": "language models",
}
"""What a study needs that not every suite has; without it, it writes its tables with no rows."""


@dataclass(frozen=True)
class Context:
    """What the views of all studies of a suite share."""

    suite: str
    tasks: tuple[str, ...]
    titles: Mapping[str, str]
    """{method: its title}."""
    floor: float
    """Average accuracy of zero-shot, in per cent, on the split that is scored."""
    ceiling: float
    """That of the individual experts."""
    experts: Mapping[str, float]
    """{task: accuracy of its expert}, in per cent."""
    calibration_split: str
    evaluation_split: str
    """Empty, as the former, if none of the chosen studies depends on it."""
    params: Mapping[str, Any]
    """The parameters that the studies ran with, by their keys."""
    width: float
    """Of a text column, in inches."""
    decimals: int
    """Of an accuracy in per cent."""
    clusters: Mapping[str, np.ndarray] = field(default_factory=dict)
    """{task: int64 [n, 1 + C]} of the examples that are scored, where they are not independent."""

    @property
    def digits(self) -> int:
        """Decimals of a difference in points."""
        return self.decimals + 1

    def styles(self, methods: Iterable[str]) -> dict[str, Style]:
        """Return how these methods look in figures."""
        return styles({name: self.titles[name] for name in methods})

    def minus(self, method: str, other: str) -> str:
        """Return what a difference of two methods is called."""
        return f"{self.titles[method]} minus {self.titles[other]}"


def views(folder: Path, look: Look, chosen: Collection[str]) -> tuple[dict[str, View], list[str]]:
    """Return {study: its view} and the studies that do not apply to the suite, both in the order of the page.

    folder: see `pipeline.report.collect_studies`; chosen: the studies to show. EvidenceError where one is missing, or
    has no rows though it applies to every suite.
    """
    studies = [study for study in STUDIES if study in chosen]
    context, shown, absent = _context(folder, look, studies), {}, []
    for study in studies:
        rows = _rows(folder / study)
        if all(table.empty for table in (rows.values() if isinstance(rows, dict) else (rows,))):
            if study not in NEEDS:
                raise EvidenceError(f"{folder / study}: no rows; {AGAIN}")
            absent.append(study)
        else:
            shown[study] = import_module(f"{__name__}.{study}").view(rows, context)
    return shown, absent


def _context(folder: Path, look: Look, studies: Iterable[str]) -> Context:
    """Read what the views share; raise EvidenceError if studies ran with different values of a parameter."""
    frame = accuracy.parse_scores(load_text(folder / "scores.csv"), folder / "scores.csv")
    suite, tasks = folder.name, tuple(frame.task.drop_duplicates())
    means = accuracy.tabulate_runs(frame, tasks).groupby("method").mean()
    experts = {task: float(means[task][CEILING]) for task in tasks}
    records = [record for study in studies for record in load_json(folder / study / "records.json").values()]
    params = merge_parameters(suite, records)
    return Context(
        suite=suite,
        tasks=tasks,
        titles=load_json(folder / "titles.json"),
        floor=float(means[AVERAGE][FLOOR]),
        ceiling=float(means[AVERAGE][CEILING]),
        experts=experts,
        calibration_split=params.get("calibration_split", ""),
        evaluation_split=params.get("evaluation_split", ""),
        clusters=clusters_of(load_arrays(folder / "clusters.npz"), params.get("evaluation_split", "")),
        params=params,
        width=look.width,
        decimals=look.decimals,
    )


def _rows(folder: Path) -> pd.DataFrame | dict[str, pd.DataFrame]:
    """Read the rows of a study, or its tables by their names; `right` is text even where it looks like a number."""
    files = sorted(folder.glob("*.csv")) or [folder / "rows.csv"]
    if [file.name for file in files] == ["rows.csv"]:
        return load_table(files[0], (), dtype={"right": "str"})
    return {file.stem: load_table(file, (), keep_default_na=False) for file in files}
