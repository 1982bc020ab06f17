"""The labels of a task in its parquet files: whole numbers or class names, in the suite's order of classes."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from pipeline.runtime.errors import BenchmarkError
from pipeline.suites._parquet import Footer, find_column, holds_text, open_parquet, read_footer


class LabelColumn(NamedTuple):
    """Where the labels of a task are, and what they mean."""

    task: str
    columns: tuple[str, ...]
    """Names of the column; of several, the first that a file has."""
    classes: tuple[str, ...]
    """Class names in the order of the stored labels."""
    offset: int = 0
    """The stored label of the first class."""


def plain_name(name: str) -> str:
    """Return a class name without case, spaces and punctuation, as data sets and prompts write it differently."""
    return "".join(filter(str.isalnum, name.lower()))


def find_label(text: str, classes: Sequence[str]) -> int | None:
    """Return the label of the class that `text` names: as it stands, or else in the one plain spelling; None if none.

    "C" and "C++" have the same plain spelling, so that neither is found by it.
    """
    if text in classes:
        return classes.index(text)
    alike = [label for label, name in enumerate(classes) if plain_name(name) == plain_name(text)]
    return alike[0] if len(alike) == 1 else None


def check_label_column(footer: Footer, labels: LabelColumn) -> None:
    """Check type and class names of a file's labels by its footer; raises BenchmarkError."""
    label = find_column(footer, labels.columns)
    kind = footer.schema.field(label).type
    if not (holds_text(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
        raise BenchmarkError(f"{footer.title}: {label} is {kind}, expected whole numbers or class names")
    _class_names(footer, labels)


def check_class_names(title: str, label: str, names: Sequence[str], labels: LabelColumn) -> None:
    """Check that `names`, by label, are the task's classes in its order, as far as they are known to it.

    A name that is spelt otherwise is no contradiction, a name of another class is. Raises BenchmarkError with `title`
    and the name of the `label`.
    """
    places = [find_label(name, labels.classes) for name in names]
    moved = next((index for index, place in enumerate(places) if place is not None and place != index), None)
    if len(names) == len(labels.classes) and moved is None:
        return
    agreeing = sum(index == place for index, place in enumerate(places))
    first = "" if moved is None else f"; {names[moved]!r} is {moved} in the file, {places[moved]} in the suite"
    raise BenchmarkError(
        f"{title}: {label} has {len(names)} classes, {', '.join(names[:3])} ..., expected those of {labels.task} in "
        f"their order: {len(labels.classes)}, {', '.join(labels.classes[:3])} ...; {agreeing} names agree{first}"
    )


def read_labels(path: Path, labels: LabelColumn) -> np.ndarray:
    """Read a file's labels, int64 [N], 0 for the first class; BenchmarkError for one that is no class of the task."""
    footer = read_footer(path)
    name = find_column(footer, labels.columns)
    with open_parquet(path) as file:
        column = file.read(columns=[name]).column(name)
    stored = _class_names(footer, labels)
    if column.null_count:
        raise BenchmarkError(f"{path}: {name} has {column.null_count} nulls, expected a label for every row")
    if holds_text(column.type):
        texts = column.to_pylist()
        known = {text: find_label(text, stored) for text in {*texts}}
        numbers = {text: -1 if label is None else label for text, label in known.items()}
        values = np.array([numbers[text] for text in texts], dtype=np.int64)
    else:
        values = column.cast(pa.int64()).to_numpy() - labels.offset
    if (wrong := np.flatnonzero((values < 0) | (values >= len(labels.classes)))).size:
        raise BenchmarkError(
            f"{path}: row {wrong[0]}: {name} {column[int(wrong[0])].as_py()!r} is none of the {len(labels.classes)} "
            f"classes of {labels.task} (first label {labels.offset})"
        )
    return values


def _class_names(footer: Footer, labels: LabelColumn) -> Sequence[str]:
    """Return the class names in the file's order: those that `datasets` wrote into its schema, else the task's.

    Raises BenchmarkError if they contradict the task's.
    """
    label = find_column(footer, labels.columns)
    try:
        metadata = json.loads((footer.schema.metadata or {}).get(b"huggingface", b"{}"))
        names = metadata.get("info", {}).get("features", {}).get(label, {}).get("names") or labels.classes
        check_class_names(footer.title, label, names, labels)
    except (ValueError, AttributeError, TypeError) as error:
        raise BenchmarkError(
            f"{footer.title}: the schema's metadata `huggingface` is not what the datasets library writes "
            f"({type(error).__name__}); write the file again, or remove that key"
        ) from error
    return names
