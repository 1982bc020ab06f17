"""Our accuracies beside those published for the same checkpoints, in per cent of the test split.

Anchors are the accuracies of the base and of the experts themselves. Nothing is merged, so ours must agree with them:
then weights, images, class names and prompts are the published ones. Published results of merging methods need not
agree: they stand beside ours with what each method saw, and nothing ranks them together.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from pipeline.report.evidence import Evidence, on_top
from pipeline.report.tables import Cell, Table, number
from pipeline.report.view import Look, Sheet, View
from pipeline.runtime.errors import BenchmarkError
from pipeline.statistics.accuracy import AVERAGE, CEILING, FLOOR

ORDER = 40

ROWS = {FLOOR: "zero-shot", CEILING: "expert"}
SPLIT = "test"
TOLERANCE = 0.1
"""Points that a reproduced accuracy may differ by."""
PRECISION = 9
"""Decimals beyond which a difference is rounding of floating-point numbers."""
RUN, PUBLISHED = "this run", "published"
LINE = ("method", "hyperparameters", "protocol", "source")
"""What makes up one published row."""
CAPTION = "published results on the same checkpoints; protocols differ: see the column"


def view(evidence: Evidence, look: Look) -> View:
    """Anchors and published results, where the suite has them and the split is that of the published accuracies."""
    runs, tasks, split, tables = evidence.runs, evidence.tasks, evidence.protocol.evaluation_split, {}
    compared = compare(runs, tasks, evidence.origin["anchors"])
    if len(compared) and split == SPLIT:
        tables["anchors"] = Sheet(anchor_table(compared, reproduced(evidence)), "Anchors", anchor_csv(compared))
    if rows := evidence.origin["published"]:
        lines = ours(runs, tasks, _told(evidence), split), published(rows, tasks)
        table = published_table(*lines, tasks, look.decimals, split)
        tables["published"] = Sheet(table, "Published results", published_csv(*lines))
    return View(tables=tables)


def reproduced(evidence: Evidence) -> str:
    """How many anchors were reproduced, as a sentence; empty for a suite without anchors."""
    compared = compare(evidence.runs, evidence.tasks, evidence.origin["anchors"])
    return sentence(compared, evidence.protocol.evaluation_split)


def _told(evidence: Evidence) -> dict[str, dict[str, str]]:
    """{method: its name, parameters and protocol}, in the order of the tables."""
    params, chosen = evidence.parameters, evidence.chosen
    learned = (*chosen.calibrated, *map(on_top, chosen.operated))
    sees = dict.fromkeys((FLOOR, CEILING), "not merged")
    sees |= {name: evidence.protocol.sees(evidence.samples[name]) for name in learned}
    told = {}
    for name, reference in evidence.references.items():
        top_level = {key: params[key] for key in reference.settings if key in params}
        values = params.get(f"merge.{name}", params.get(f"calibrate.{name}", top_level))
        settings = ", ".join(f"{key} {value}" for key, value in values.items())
        told[name] = {"method": reference.title, "hyperparameters": settings}
        told[name]["protocol"] = sees.get(name, "data-free")
    return told


def compare(runs: pd.DataFrame, tasks: Sequence[str], anchors: Mapping[str, Mapping[str, float]]) -> pd.DataFrame:
    """Columns task, row, ours, published, difference, reproduced; ours is undefined for a method that was not run."""
    means = runs.groupby("method")[list(tasks)].mean().reindex(list(ROWS))
    found = pd.DataFrame(
        [
            (task, row, means.loc[method, task], anchors[task][method])
            for method, row in ROWS.items()
            for task in tasks
            if task in anchors
        ],
        columns=["task", "row", "ours", "published"],
    )
    found["difference"] = found.ours - found.published
    found["reproduced"] = found.difference.abs().round(PRECISION) <= TOLERANCE
    return found


def sentence(compared: pd.DataFrame, split: str) -> str:
    """How many anchors were reproduced, and which were not; nothing is said of a suite without anchors."""
    if compared.empty:
        return ""
    if split != SPLIT:
        return f"Anchors: not compared; they are accuracies on the {SPLIT} split, this run scored the {split} split."
    missing, failed = compared[compared.ours.isna()], compared[compared.ours.notna() & ~compared.reproduced]
    odd = [f"{row.task} {row.row} ({number(row.difference, 3, '+')})" for row in failed.itertuples()]
    said = [
        f"Anchors: {compared.reproduced.sum()} of {len(compared)} published accuracies of these checkpoints "
        f"reproduced within {TOLERANCE} points",
        *([f"NOT reproduced: {', '.join(odd)}"] if odd else []),
        *([f"not run: {', '.join(missing.row.unique())}"] if len(missing) else []),
    ]
    return f"{'; '.join(said)}."


def anchor_table(compared: pd.DataFrame, caption: str) -> Table:
    """The comparison, a section per row of the suite's table."""

    def cells(row: Any) -> tuple[Cell, ...]:
        verdict = "not run" if np.isnan(row.ours) else "yes" if row.reproduced else "NO"
        shown = (number(row.ours, 2), number(row.published, 2), number(row.difference, 3, "+"), verdict)
        return tuple(Cell(text, "", "") for text in shown)

    sections = compared.groupby("row", sort=False)
    return Table(
        caption,
        ("ours", "published", "difference", "reproduced"),
        tuple((name, tuple((row.task, cells(row)) for row in rows.itertuples())) for name, rows in sections),
        "Task",
        ("reproduced",),
    )


def anchor_csv(compared: pd.DataFrame) -> str:
    """The comparison with six decimals; a method that was not run has empty cells."""
    verdicts = compared.reproduced.map({True: "yes", False: "no"}).where(compared.ours.notna(), "")
    shown = compared.assign(reproduced=verdicts)
    return shown.to_csv(index=False, float_format="%.6f", lineterminator="\n")


def ours(runs: pd.DataFrame, tasks: Sequence[str], told: Mapping[str, Mapping[str, str]], split: str) -> pd.DataFrame:
    """Our methods as rows like `published`'s, in the order of `told`, which says what their columns of text hold."""
    means = runs.groupby("method")[[*tasks, AVERAGE]].mean().loc[list(told)].reset_index(drop=True)
    source = RUN if split == SPLIT else f"{RUN}, {split} split"
    return pd.DataFrame([{"source": source, "note": "", **texts} for texts in told.values()]).join(means)[_order(tasks)]


def published(rows: Sequence[Mapping[str, Any]], tasks: Sequence[str]) -> pd.DataFrame:
    """One line per method, hyperparameters, protocol and source, as listed; no average where a task is missing."""
    lines: dict[tuple[str, ...], dict[str, Any]] = {}
    for row in rows:
        key = tuple(row[name] for name in LINE)
        line = lines.setdefault(key, {**dict(zip(LINE, key, strict=True)), "note": []})
        if row["task"] in line:
            raise BenchmarkError(f"published results: {row['method']} of {row['source']} has {row['task']} twice")
        line[row["task"]] = row["accuracy"]
        line["note"] += [f"{row['task']}: {row['note']}"] if row["note"] else []
    found = pd.DataFrame([{**line, "note": "; ".join(line["note"])} for line in lines.values()])
    found = found.reindex(columns=[*LINE, "note", *tasks])
    return found.assign(**{AVERAGE: found[list(tasks)].mean(axis=1, skipna=False)})[_order(tasks)]


def published_table(own: pd.DataFrame, others: pd.DataFrame, tasks: Sequence[str], decimals: int, split: str) -> Table:
    """Ours first, nothing ranked."""
    numbers, words = [*tasks, AVERAGE], ("protocol", "hyperparameters", "source", "note")

    def rows(frame: pd.DataFrame) -> tuple[tuple[str, tuple[Cell, ...]], ...]:
        shown = [
            (line["method"], *(number(line[name], decimals) for name in numbers), *(line[name] for name in words))
            for line in frame.to_dict("records")
        ]
        return tuple((name, tuple(Cell(text, "", "") for text in texts)) for name, *texts in shown)

    other = f". Published accuracies are of the {SPLIT} split, this run scored the {split} split" * (split != SPLIT)
    return Table(CAPTION + other, (*numbers, *words), ((RUN, rows(own)), (PUBLISHED, rows(others))), words=words)


def published_csv(own: pd.DataFrame, others: pd.DataFrame) -> str:
    """Both, with six decimals."""
    return pd.concat([own, others]).to_csv(index=False, float_format="%.6f", lineterminator="\n")


def _order(tasks: Sequence[str]) -> list[str]:
    return ["method", "hyperparameters", *tasks, AVERAGE, "protocol", "source", "note"]
