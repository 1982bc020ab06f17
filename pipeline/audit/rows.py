"""Scores and rows of studies as numbers, and what makes them impossible."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

WHOLE = (
    *("seed", "k", "samples", "correct", "total", "merges", "passed", "severity", "size", "merged", "published"),
    *("default", "replicate"),
)
VARIED = (
    *("setting", "k", "method", "knob", "value", "corruption", "severity", "subset", "split", "replicate"),
    "seed",
)
"""Columns that tell one run from another."""


def read_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with numbers, seed -1 for none, accuracies in %, and the bits of `right` as `answers`.

    Raises ValueError if a count is not whole, or `right` not hexadecimal.
    """
    kinds = dict.fromkeys((name for name in WHOLE if name in table), "int64")
    rows = table.replace({"seed": {"": "-1"}}).astype(kinds)
    if "total" in rows:
        rows["accuracy"] = 100 * rows["correct"] / rows["total"]
    if "right" in rows:
        bits = [np.unpackbits(np.frombuffer(bytes.fromhex(digits), np.uint8)) for digits in rows["right"]]
        rows["answers"] = pd.Series(bits, rows.index, dtype=object)
    return rows


def find_impossible(rows: pd.DataFrame, totals: Mapping[str, int], tasks: Sequence[str]) -> Iterator[str]:
    """Yield counts beyond their totals, other totals than those scored, bits that do not fit, runs without a task.

    totals: {task: examples} that the study must have scored; empty if it scores other examples. tasks: of every run;
    empty if they differ from run to run.
    """
    counts = [rows[name].tolist() for name in ("task", "correct", "total") if "total" in rows]
    answers = rows["answers"] if "answers" in rows else [None] * len(rows)
    for line, (task, correct, total, bits) in enumerate(zip(*counts, answers, strict=True) if counts else (), start=2):
        if not 0 <= correct <= total or total < 1:
            yield f"row {line}: {correct} of {total} correct"
        elif totals and total != totals.get(task):
            yield f"row {line}: {task} scored on {total} examples, the suite has {totals.get(task)}"
        elif bits is not None and (len(bits) != 8 * -(-total // 8) or bits[total:].any()):
            yield f"row {line}: {len(bits)} bits of `right` do not fit {total} examples"
        elif bits is not None and bits.sum() != correct:
            yield f"row {line}: {correct} correct, but `right` has {bits.sum()} ones"
    if tasks and ({"total", "method"} <= {*rows} or "answers" in rows):
        for run, part in rows.groupby([name for name in VARIED if name in rows]):
            if sorted(part["task"]) != sorted(tasks):
                name, expected = " ".join(map(str, run)), f"expected each of {', '.join(tasks)} once"
                yield f"{name}: tasks {', '.join(part['task'])}, {expected}"
