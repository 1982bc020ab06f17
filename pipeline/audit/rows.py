"""The rows of a study: read as numbers, and whether their counts are whole, possible and those of their answers."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from pipeline.audit.evidence import Evidence, EvidenceError, integers
from pipeline.audit.known import title_of
from pipeline.audit.studied import Study

WHOLE = (
    *("seed", "k", "samples", "correct", "total", "merges", "passed", "severity", "size", "merged", "published"),
    *("default", "replicate"),
)
MEASURED = ("loss", "rise", "radius", "value")
VARIED = (
    *("setting", "k", "method", "knob", "value", "corruption", "severity", "subset", "split", "replicate"),
    "seed",
)
"""Columns that tell one run from another."""
PARTS = ("robustness", "landscape")
"""Studies that score a part of the test images, or other images."""


def read(evidence: Evidence, suite: str, name: str, tasks: tuple[str, ...]) -> Study | None:
    """The study as reports/studies has it; None if it is not there, EvidenceError if a count is no whole number."""
    folder, listed = f"reports/studies/{suite}", evidence.table(f"reports/tables/{suite}.csv")
    stems = {path: path.rpartition("/")[2].removesuffix(".csv") for path in evidence.names(folder, ".csv")}
    tables = {
        stem.removeprefix(name).removeprefix("-"): _numbers(evidence.table(path), path)
        for path, stem in stems.items()
        if stem.partition("-")[0] == name and "-table-" not in stem
    }
    titles = {} if listed is None else dict(zip(listed.method, listed.title, strict=True))
    study = Study(name, tables, tasks, titles)
    unlisted = {method: title_of(evidence, method) for method in study.methods if method not in titles}
    titles |= {method: title for method, title in unlisted.items() if title is not None}
    return study if tables else None


def wrong(evidence: Evidence, suite: str, study: Study) -> list[str]:
    """What makes its rows impossible, or other than the answers beside them and the images that are scored."""
    scores, found = integers(evidence, suite), []
    scored = {} if scores is None or study.name in PARTS else scores.groupby("task").total.first().to_dict()
    for name, rows in study.tables.items():
        path = f"{study.name}{'-' * bool(name)}{name}.csv"
        if "total" in rows:
            found += [f"{path}, {complaint}" for complaint in _counts(rows, scored)]
        if name in ("", "solutions"):
            found += [f"{path}, {complaint}" for complaint in _whole(rows, study.tasks)]
    return found


def _numbers(table: pd.DataFrame, path: str) -> pd.DataFrame:
    """The rows with numbers, seed -1 for none; `accuracy` in %, and `answers` where images are told apart."""
    kinds = dict.fromkeys((name for name in WHOLE if name in table), "int64")
    kinds |= dict.fromkeys((name for name in MEASURED if name in table), "float64")
    try:
        found = table.replace({"seed": {"": "-1"}}).astype(kinds)
        more = {"accuracy": 100 * found.correct / found.total} if "total" in found else {}
        if "right" in found:
            more["answers"] = [np.unpackbits(np.frombuffer(bytes.fromhex(one), np.uint8)) for one in found.right]
    except ValueError as error:
        raise EvidenceError(
            f"{path}: counts must be whole, answers hexadecimal ({error}); run the study again"
        ) from error
    return found.assign(**more)


def _counts(rows: pd.DataFrame, scored: dict[str, int]) -> Iterator[str]:
    """Counts within their totals, totals those that are scored, and bits that are as many as their count."""
    for row in rows.itertuples():
        where = f"row {row.Index + 2}"
        if not 0 <= row.correct <= row.total or row.total < 1:
            yield f"{where}: {row.correct} of {row.total} correct"
        elif scored and row.total != scored.get(row.task):
            yield f"{where}: {row.task} scored on {row.total} images, the suite has {scored.get(row.task)}"
        elif hasattr(row, "answers"):
            bits = row.answers
            if len(bits) != 8 * -(-row.total // 8) or bits[row.total :].any():
                yield f"{where}: {len(bits)} bits of `right` do not fit {row.total} images"
            elif bits.sum() != row.correct:
                yield f"{where}: {row.correct} correct, but `right` has {bits.sum()} ones"


def _whole(rows: pd.DataFrame, tasks: tuple[str, ...]) -> Iterator[str]:
    """Every run has each task once."""
    for run, part in rows.groupby([name for name in VARIED if name in rows]):
        if sorted(part.task) != sorted(tasks):
            yield f"{' '.join(map(str, run))}: tasks {', '.join(part.task)}, expected each of {', '.join(tasks)} once"
