"""The studies in the report: a file per study with the function `view(rows, context) -> View`."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.report.evidence import SEVERAL, STUDIES, load_json, load_table, load_text, merge_parameters
from pipeline.report.figures import Style, styles
from pipeline.report.view import Look, View
from pipeline.statistics import accuracy
from pipeline.statistics.accuracy import AVERAGE, CEILING, FLOOR


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
    params: Mapping[str, Any]
    """The parameters that the studies ran with, by their keys."""
    width: float
    """Of a text column, in inches."""
    decimals: int
    """Of an accuracy in per cent."""

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


def views(folder: Path, look: Look) -> dict[str, View]:
    """Return {study: its view} of a suite's evidence, in the order of the page; see `pipeline.report.collect`."""
    context = _context(folder, look)
    return {study: import_module(f"{__name__}.{study}").view(_rows(folder, study), context) for study in STUDIES}


def _context(folder: Path, look: Look) -> Context:
    """Read what the views share; raise EvidenceError if studies ran with different values of a parameter."""
    frame = accuracy.parse_scores(load_text(folder / "scores.csv"), folder / "scores.csv")
    suite, tasks = folder.name, tuple(frame.task.drop_duplicates())
    means = accuracy.tabulate_runs(frame, tasks).groupby("method").mean()
    experts = {task: float(means[task][CEILING]) for task in tasks}
    params = merge_parameters(suite, load_json(folder / "records.json").values())
    return Context(
        suite=suite,
        tasks=tasks,
        titles=load_json(folder / "titles.json"),
        floor=float(means[AVERAGE][FLOOR]),
        ceiling=float(means[AVERAGE][CEILING]),
        experts=experts,
        calibration_split=params["calibration_split"],
        evaluation_split=params["evaluation_split"],
        params=params,
        width=look.width,
        decimals=look.decimals,
    )


def _rows(folder: Path, study: str) -> pd.DataFrame | dict[str, pd.DataFrame]:
    """Read the rows of a study; `right` is text even where it looks like a number."""
    if study in SEVERAL:
        files = sorted((folder / study).glob("*.csv"))
        return {file.stem: load_table(file, (), keep_default_na=False) for file in files}
    return load_table(folder / f"{study}.csv", (), dtype={"right": "str"})
