"""Our accuracies next to those published for the same checkpoints, in per cent of the test split.

Anchors are the accuracies of the base, of the experts themselves and, where published, of their average. Nothing is
chosen in them, so ours must agree: then weights, data and heads are the published ones. Published results of other
merging methods need not agree: they stand next to ours with what each method saw, and nothing ranks them together.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from pipeline.report.evidence import Evidence, format_csv, surgery_name, svc_name
from pipeline.report.tables import Table, format_number, text_table
from pipeline.report.view import Look, Sheet, View
from pipeline.runtime.errors import BenchmarkError
from pipeline.statistics.accuracy import AVERAGE, CEILING, FLOOR

ORDER = 40

ROWS = {FLOOR: "zero-shot", CEILING: "expert", "average": "simple average"}
SPLIT = "test"
POINTS, EXAMPLES = 0.1, 3
"""A reproduced accuracy may differ by so many points, or by so many examples where that is more."""
PRECISION = 9
"""Decimals beyond which a difference is rounding of floating-point numbers."""
RUN, PUBLISHED = "this run", "published"
LINE = ("method", "hyperparameters", "protocol", "source")
"""The columns that identify a published row."""
CAPTION = "published results on the same checkpoints; protocols differ: see the column"


def view(evidence: Evidence, look: Look) -> View:
    """Show anchors, where the split is that of the published accuracies, and published results."""
    runs, tasks, split, tables = evidence.runs, evidence.tasks, evidence.protocol.evaluation_split, {}
    anchors = _compared(evidence)
    if len(anchors) and split == SPLIT:
        tables["anchors"] = Sheet(anchor_table(anchors, sentence(anchors, split)), "Anchors", anchor_csv(anchors))
    if results := evidence.origin["published"]:
        lines = our_rows(runs, tasks, describe_methods(evidence), split), published_rows(results, tasks)
        table = published_table(*lines, tasks, look.decimals, split)
        tables["published"] = Sheet(table, "Published results", format_csv(pd.concat(lines), "%.6f"))
    return View(tables=tables)


def reproduced(evidence: Evidence) -> str:
    """Say how many anchors were reproduced; empty for a suite without anchors."""
    return sentence(_compared(evidence), evidence.protocol.evaluation_split)


def _compared(evidence: Evidence) -> pd.DataFrame:
    sizes = evidence.scored.groupby("task").total.first()
    return compare_anchors(evidence.runs, evidence.tasks, evidence.origin["anchors"], sizes)


def describe_methods(evidence: Evidence) -> dict[str, dict[str, str]]:
    """Return {method: its name, parameters and protocol}, in the order of the tables."""
    params, chosen = evidence.parameters, evidence.chosen
    protocols = dict.fromkeys((*chosen.data_free, *map(svc_name, chosen.svc)), "data-free") | dict.fromkeys(
        (FLOOR, CEILING), "not merged"
    )
    for name in (*chosen.calibrated, *map(surgery_name, chosen.operated)):
        protocols[name] = evidence.protocol.sees(evidence.samples[name])
    descriptions = {}
    for name, reference in evidence.references.items():
        top_level = {key: params[key] for key in reference.settings if key in params}
        values = params.get(f"merge.{name}", params.get(f"calibrate.{name}", top_level))
        settings = ", ".join(f"{key} {value}" for key, value in values.items())
        descriptions[name] = {"method": reference.title, "hyperparameters": settings, "protocol": protocols[name]}
    return descriptions


def compare_anchors(
    runs: pd.DataFrame, tasks: Sequence[str], anchors: Mapping[str, Mapping[str, float]], sizes: pd.Series
) -> pd.DataFrame:
    """Columns task, row, ours, published, difference, reproduced; ours is undefined for a method that was not run.

    sizes: scored examples by task, of which a difference may be EXAMPLES.
    """
    means = runs.groupby("method")[list(tasks)].mean().reindex(list(ROWS))
    lines = [
        (task, row, means.loc[method, task], anchors[task][method])
        for method, row in ROWS.items()
        for task in tasks
        if method in anchors.get(task, {})
    ]
    frame = pd.DataFrame(lines, columns=["task", "row", "ours", "published"])
    frame["difference"] = frame.ours - frame.published
    tolerance = (100 * EXAMPLES / frame.task.map(sizes)).clip(lower=POINTS)
    frame["reproduced"] = frame.difference.abs().round(PRECISION) <= tolerance.round(PRECISION)
    return frame


def sentence(anchors: pd.DataFrame, split: str) -> str:
    """Say how many anchors were reproduced, and which were not; empty for a suite without anchors."""
    if anchors.empty:
        return ""
    if split != SPLIT:
        return f"Anchors: not compared; they are accuracies on the {SPLIT} split, this run scored the {split} split."
    missing, failed = anchors[anchors.ours.isna()], anchors[anchors.ours.notna() & ~anchors.reproduced]
    odd = [
        f"{task} {row} ({format_number(difference, 3, '+')})"
        for task, row, difference in zip(failed.task, failed.row, failed.difference, strict=True)
    ]
    parts = [
        f"Anchors: {anchors.reproduced.sum()} of {len(anchors)} published accuracies of these checkpoints "
        f"reproduced within {POINTS} points or {EXAMPLES} examples",
        *([f"NOT reproduced: {', '.join(odd)}"] if odd else []),
        *([f"not run: {', '.join(missing.row.unique())}"] if len(missing) else []),
    ]
    return f"{'; '.join(parts)}."


def anchor_table(anchors: pd.DataFrame, caption: str) -> Table:
    """Build the comparison, a section per row of the suite's table."""
    sections: dict[str, list[tuple[str, ...]]] = {}
    for line in anchors.to_dict("records"):
        verdict = "not run" if np.isnan(line["ours"]) else "yes" if line["reproduced"] else "NO"
        numbers = (format_number(line["ours"], 2), format_number(line["published"], 2))
        cells = (line["task"], *numbers, format_number(line["difference"], 3, "+"), verdict)
        sections.setdefault(line["row"], []).append(cells)
    columns = ("ours", "published", "difference", "reproduced")
    return text_table(caption, "Task", columns, sections, ("reproduced",))


def anchor_csv(anchors: pd.DataFrame) -> str:
    """Return the comparison with six decimals; a method that was not run has empty cells."""
    verdicts = anchors.reproduced.map({True: "yes", False: "no"}).where(anchors.ours.notna(), "")
    return format_csv(anchors.assign(reproduced=verdicts), "%.6f")


def our_rows(
    runs: pd.DataFrame, tasks: Sequence[str], descriptions: Mapping[str, Mapping[str, str]], split: str
) -> pd.DataFrame:
    """Return our methods as rows like those of `published_rows`, in the order of their descriptions."""
    means = runs.groupby("method")[[*tasks, AVERAGE]].mean().loc[list(descriptions)].reset_index(drop=True)
    source = RUN if split == SPLIT else f"{RUN}, {split} split"
    lines = pd.DataFrame([{"source": source, "note": "", **texts} for texts in descriptions.values()])
    return lines.join(means)[_order(tasks)]


def published_rows(results: Sequence[Mapping[str, Any]], tasks: Sequence[str]) -> pd.DataFrame:
    """Return a line per method, hyperparameters, protocol and source, as listed; no average where a task is missing."""
    lines: dict[tuple[str, ...], dict[str, Any]] = {}
    for result in results:
        key = tuple(result[name] for name in LINE)
        line = lines.setdefault(key, {**dict(zip(LINE, key, strict=True)), "note": []})
        if result["task"] in line:
            raise BenchmarkError(
                f"published results: {result['method']} of {result['source']} has {result['task']} twice"
            )
        line[result["task"]] = result["accuracy"]
        line["note"] += [f"{result['task']}: {result['note']}"] if result["note"] else []
    frame = pd.DataFrame([{**line, "note": "; ".join(line["note"])} for line in lines.values()])
    frame = frame.reindex(columns=[*LINE, "note", *tasks])
    return frame.assign(**{AVERAGE: frame[list(tasks)].mean(axis=1, skipna=False)})[_order(tasks)]


def published_table(own: pd.DataFrame, others: pd.DataFrame, tasks: Sequence[str], decimals: int, split: str) -> Table:
    """Build the table of both: ours first, nothing ranked."""
    numbers, words = [*tasks, AVERAGE], ("protocol", "hyperparameters", "source", "note")
    sections = {
        title: [
            (
                line["method"],
                *(format_number(line[name], decimals) for name in numbers),
                *(line[name] for name in words),
            )
            for line in frame.to_dict("records")
        ]
        for title, frame in ((RUN, own), (PUBLISHED, others))
    }
    other = f". Published accuracies are of the {SPLIT} split, this run scored the {split} split" * (split != SPLIT)
    return text_table(CAPTION + other, "Method", (*numbers, *words), sections, words)


def _order(tasks: Sequence[str]) -> list[str]:
    return ["method", "hyperparameters", *tasks, AVERAGE, "protocol", "source", "note"]
