"""The studies in the report: a file per study with one function, `view(rows, context) -> View`."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import pandas as pd

from pipeline.report.evidence import SEVERAL, STUDIES, parameters, read_json, read_table, read_text
from pipeline.report.view import Look, View
from pipeline.statistics import accuracy
from pipeline.statistics.accuracy import AVERAGE, CEILING, FLOOR


@dataclass(frozen=True)
class Context:
    """What all studies of a suite are shown against."""

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
    params: Mapping[str, object]
    """The parameters that the studies ran with, by their keys."""
    width: float
    """Of a text column, in inches."""
    decimals: int


def views(folder: Path, look: Look) -> dict[str, View]:
    """{study: its view} of a suite's evidence, in the order of the page; see `pipeline.report.collect`."""
    context = _context(folder, look)
    return {study: import_module(f"{__name__}.{study}").view(_rows(folder, study), context) for study in STUDIES}


def _context(folder: Path, look: Look) -> Context:
    """EvidenceError if studies ran with different values of a parameter."""
    frame = accuracy.parse(read_text(folder / "scores.csv"), folder / "scores.csv")
    suite, tasks = folder.name, tuple(frame.task.drop_duplicates())
    means = accuracy.runs(frame, tasks).groupby("method").mean()
    params = parameters(suite, read_json(folder / "records.json").values())
    return Context(
        suite=suite,
        tasks=tasks,
        titles=read_json(folder / "titles.json"),
        floor=means.loc[FLOOR, AVERAGE],
        ceiling=means.loc[CEILING, AVERAGE],
        experts=means.loc[CEILING, list(tasks)].to_dict(),
        calibration_split=params["calibration_split"],
        evaluation_split=params["evaluation_split"],
        params=params,
        width=look.width,
        decimals=look.decimals,
    )


def _rows(folder: Path, study: str) -> pd.DataFrame | dict[str, pd.DataFrame]:
    """The rows of a study; `right` is a text even where it looks like a number."""
    if study in SEVERAL:
        files = sorted((folder / study).glob("*.csv"))
        return {file.stem: read_table(file, (), keep_default_na=False) for file in files}
    return read_table(folder / f"{study}.csv", (), dtype={"right": "str"})
