"""The rows of the studies, and what they state, by code that shares nothing with what made them.

Rows are whole and possible, and their counts are those of the answers to single examples. A study that keeps answers
writes what it compares, reports/studies/<suite>/tables/<study>-contrasts.csv: a weight for every setting, the mean of
the weighted accuracies, and its intervals. These are computed again from the rows, to the digit, see
`pipeline.audit.intervals`. Numbers per task that are no answers are those of `pipeline.audit.statements`.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import TypeAlias

import numpy as np
import pandas as pd

from pipeline.audit import statements
from pipeline.audit.finding import Finding
from pipeline.audit.intervals import Runs, weigh_runs
from pipeline.audit.repository import EVIDENCE
from pipeline.audit.rows import find_impossible, read_rows
from pipeline.audit.suite import AuditedSuite

PRINTED = 10
"""Significant digits of a comparison."""
SEPARATE = ("conflict", "label_spaces")
"""Studies with a check of their own."""
PARTS = ("robustness", "landscape", "theory", "language")
"""Studies that score a part of the test examples, or other examples."""
SETTINGS: Mapping[str, Sequence[str]] = {
    "ablation": ("objective", "sharpness", "granularity"),
    "efficiency": ("method", "k"),
    "protocol": ("method", "k", "setting"),
    "flatness": ("setting",),
    "sensitivity": ("method", "knob", "value"),
    "replicates": ("method",),
    "conventions": ("method", "setting"),
}
"""Studies that keep answers, and the columns that their settings are values of."""

Setting: TypeAlias = tuple[str, ...]
Weights: TypeAlias = Mapping[Setting, float]


def check(suite: AuditedSuite) -> list[Finding]:
    """Check every study of params.yaml; one finding where there is none."""
    folder = f"{EVIDENCE}/studies/{suite.name}"
    if not suite.repository.names(folder, ".csv"):
        return [Finding(f"{suite.name}: studies", "rows of studies").skip(folder)]
    return [_check_study(suite, study) for study in sorted({*suite.repository.studies} - {*SEPARATE})]


def check_apart(
    suite: AuditedSuite,
    study: str,
    what: str,
    steps: Sequence[Callable[[Finding, AuditedSuite, pd.DataFrame], None]],
) -> list[Finding]:
    """Check a study of SEPARATE by `steps`, up to the first that complains; no finding where it was not chosen."""
    folder, repository = f"{EVIDENCE}/studies/{suite.name}", suite.repository
    if study not in repository.studies or not repository.names(folder, ".csv"):
        return []
    finding, path = Finding(f"{suite.name}: {study}", what), f"{folder}/{study}/rows.csv"
    table = repository.table(path)
    if table is None:
        finding.expect(False, f"{path}: no such file")
        return [finding]
    try:
        rows = read_rows(table)
    except ValueError as error:
        finding.expect(False, f"{path}: counts must be whole, answers hexadecimal ({error})")
        return [finding]
    finding.compared += len(rows)
    for complaint in find_impossible(rows, {}, ()):
        finding.complain(f"{path}, {complaint}")
    for step in steps:
        if len(rows) and not finding.wrong:
            step(finding, suite, rows)
    return [finding]


def _check_study(suite: AuditedSuite, study: str) -> Finding:
    finding, repository = Finding(f"{suite.name}: {study}", "rows, and what is stated of them"), suite.repository
    folder = f"{EVIDENCE}/studies/{suite.name}/{study}"
    paths = repository.names(folder, ".csv")
    finding.expect(bool(paths), f"{folder} has no tables")
    scores = None if study in PARTS else suite.scores
    totals = {} if scores is None else dict(zip(scores.task, scores.total.tolist(), strict=True))
    tables: dict[str, pd.DataFrame] = {}
    for path in paths:
        table = repository.table(path)
        if table is None:
            continue
        try:
            rows = tables[PurePosixPath(path).stem] = read_rows(table)
        except ValueError as error:
            finding.expect(False, f"{path}: counts must be whole, answers hexadecimal ({error})")
            continue
        finding.compared += len(rows)
        for complaint in find_impossible(rows, totals, suite.tasks):
            finding.complain(f"{path}, {complaint}")
        if not finding.wrong and study in SETTINGS and len(rows):
            _check_contrasts(finding, suite, study, rows)
    if study in statements.STUDIES and not finding.wrong and any(map(len, tables.values())):
        statements.check(finding, suite, study, tables)
    return finding


def _check_contrasts(finding: Finding, suite: AuditedSuite, study: str, rows: pd.DataFrame) -> None:
    """Check every comparison of a study that keeps answers."""
    path = f"reports/studies/{suite.name}/tables/{study}-contrasts.csv"
    contrasts = suite.repository.rows(path)
    if contrasts is None or "answers" not in rows:
        finding.skip(path if contrasts is None else "answers to single examples (`right`)")
        return
    if study == "ablation":
        names = rows["setting"].str.split("/", expand=True).set_axis([*SETTINGS[study]], axis=1)
        rows = pd.concat([rows, names], axis=1)
    replicated = "replicate" in rows
    parts = {
        "all": group_settings(rows, SETTINGS[study]),
        "first": group_settings(rows[rows["replicate"] == 0] if replicated else rows, SETTINGS[study]),
    }
    comparisons = [(row, "first" if row["replicates"] == "first" else "all", _weights(row)) for row in contrasts]
    clusters = suite.clusters(f"{EVIDENCE}/studies/{suite.name}", suite.tasks)
    runs: dict[str, dict[Setting, Runs]] = {which: {} for which in parts}
    for _, which, weights in comparisons:
        for setting in (setting for setting in weights if setting in parts[which]):
            runs[which].setdefault(setting, read_runs(parts[which][setting], suite.tasks))
    for row, which, weights in comparisons:
        if missing := [", ".join(setting) for setting in weights if setting not in runs[which]]:
            complaint = f"{row['name']} compares runs that are not there (no rows of {'; '.join(missing)})"
            finding.expect(False, f"{path}: {complaint}")
            continue
        name, expected = row["name"], compute_contrast(runs[which], weights, clusters)
        if replicated:  # orders of methods count no tasks won, and are not over tasks on one replicate
            name = f"{name} ({row['replicates']} replicates)"
            for column in ("won", "lost", *["like low", "like high"] * (which == "first")):
                del expected[column]
        for column, value in expected.items():
            finding.expect_number(f"{path}: {name}, {column}", row.get(column, ""), value, PRINTED)


def check_derived_comparisons(
    finding: Finding,
    suite: AuditedSuite,
    study: str,
    weights: Mapping[str, Weights],
    values: Mapping[str, Mapping[str, float]],
) -> None:
    """Check that a study's file of comparisons has these, in this order, with these weights and values."""
    path = f"reports/studies/{suite.name}/tables/{study}-contrasts.csv"
    lines = suite.repository.rows(path)
    if lines is None:
        finding.skip(path)
        return
    names = [line["name"] for line in lines]
    finding.expect(names == [*values], f"{path}: other comparisons than those of the study")
    for line in lines:
        if line["name"] in values:
            stated = {tuple(map(str, setting)): weight for *setting, weight in json.loads(line["weights"])}
            finding.expect(stated == weights[line["name"]], f"{path}: {line['name']} weighs other settings")
            for column, value in values[line["name"]].items():
                finding.expect_number(f"{path}: {line['name']}, {column}", line.get(column, ""), value, PRINTED)


def compute_contrast(
    runs: Mapping[Setting, Runs], weights: Mapping[Setting, float], clusters: Sequence[np.ndarray | None]
) -> dict[str, float]:
    """Return mean, low, high, like low, like high, won and lost of the weighted sum of settings, in points.

    clusters: as for `pipeline.audit.intervals.weigh_runs`.
    """
    total = weigh_runs(runs, weights, clusters)
    return {
        "mean": float(total.tasks.mean()),
        "won": float(sum(bounds.low > 0 for bounds in total.each)),
        "lost": float(sum(bounds.high < 0 for bounds in total.each)),
        "low": total.average.low,
        "high": total.average.high,
        "like low": total.like.low,
        "like high": total.like.high,
    }


def group_settings(rows: pd.DataFrame, columns: Sequence[str]) -> dict[Setting, pd.DataFrame]:
    """Return the rows of every setting, by the values of its columns as plain texts, in the order of the rows."""
    texts = rows[[*columns]].map(_plain)
    groups = rows.groupby([texts[name] for name in columns], sort=False)
    return {tuple(map(str, setting)): part for setting, part in groups}


def read_runs(rows: pd.DataFrame, tasks: Sequence[str]) -> Runs:
    """Return the runs of one setting; ValueError if a replicate lacks seeds of another one."""
    replicated = "replicate" in rows
    replicates, seeds = rows["replicate"].nunique() if replicated else 1, _seeds(rows)
    ordered = rows.sort_values(["replicate", "seed"] if replicated else ["seed"])
    right = []
    for task in tasks:
        part = ordered[ordered["task"] == task]
        bits = np.stack([*part["answers"]])[:, : part["total"].iloc[0]]
        right.append(bits.reshape(replicates, len(seeds), -1))
    return Runs(seeds, right)


def _seeds(rows: pd.DataFrame) -> tuple[int, ...]:
    return tuple(sorted(rows["seed"].unique().tolist()))


def _weights(row: Mapping[str, str]) -> dict[Setting, float]:
    """Return the weights of a comparison: a JSON list of the values of each setting and its weight."""
    return {tuple(map(_plain, setting)): weight for *setting, weight in json.loads(row["weights"])}


def _plain(value: object) -> str:
    """Return a value as text: 1, 1.0 and "1.0" are the same."""
    try:
        return f"{float(str(value)):g}"
    except ValueError:
        return str(value)
