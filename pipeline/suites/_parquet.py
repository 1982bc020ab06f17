"""The parquet files of a task: columns, class names and labels. Their footers show most of it before any image is read.

A footer may come from a file of this machine, or from the last bytes of one that is not fetched yet.
"""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from pipeline.runtime.errors import BenchmarkError
from pipeline.suites._clip_tasks import ClipTask, find_label

MAGIC = b"PAR1"
LEAST = 10
"""Images that a training split needs: a tenth of them becomes the validation split."""
PUBLISHED = "published accuracies would not be comparable"
DAMAGED = (OSError, pa.ArrowException)


class Footer(NamedTuple):
    """The footer of a parquet file: its name for messages, its schema, the rows of every row group."""

    title: str
    schema: pa.Schema
    groups: tuple[int, ...]


def open_parquet(path: Path) -> parquet.ParquetFile:
    """Open a parquet file that is read in small pieces; BenchmarkError if it is none."""
    try:
        return parquet.ParquetFile(path, buffer_size=2**20, pre_buffer=False)
    except DAMAGED as error:
        raise BenchmarkError(f"{path}: cannot be read as parquet ({error}); export or fetch it again") from error


def read_footer(path: Path) -> Footer:
    """Read the footer of a local file; BenchmarkError if it is no parquet file."""
    with open_parquet(path) as file:
        return _footer(str(path), file)


def footer_length(tail: bytes) -> int:
    """Return how many bytes at a file's end hold its footer; `tail`: the last 8 bytes or more."""
    return int.from_bytes(tail[-8:-4], "little") + 8


def parse_footer(title: str, tail: bytes) -> Footer:
    """Parse the footer from the last bytes of a file; BenchmarkError, with `title`, if it is no parquet file."""
    try:
        with parquet.ParquetFile(io.BytesIO(MAGIC + tail[-footer_length(tail) :])) as file:
            return _footer(title, file)
    except DAMAGED as error:
        raise BenchmarkError(f"{title}: cannot be read as parquet ({error})") from error


def find_column(footer: Footer, names: Sequence[str]) -> str:
    """Return the first of `names` that is a column; BenchmarkError if there is none."""
    for name in names:
        if name in footer.schema.names:
            return name
    raise BenchmarkError(f"{footer.title}: no column {' or '.join(names)}, the file has {footer.schema.names}")


def check_test(task: ClipTask, footers: Sequence[Footer]) -> None:
    """Check the files of the test split: their columns, class names and number of rows; raises BenchmarkError."""
    if (size := _check(task, footers)) != task.test_size:
        raise BenchmarkError(
            f"{task.name}: the test split ({task.test_split} of {task.dataset}) has {size} images, expected "
            f"{task.test_size}; {PUBLISHED if task.anchors else 'add what is missing, or correct test_size'}"
        )


def check_train(task: ClipTask, footers: Sequence[Footer]) -> None:
    """Check the files of the training split: their columns and class names, and that validation gets an image."""
    if (size := _check(task, footers)) < LEAST:
        raise BenchmarkError(
            f"{task.name}: {task.train_split} of {task.dataset} has {size} images; at least {LEAST} are needed, "
            "10 % become validation"
        )


def read_labels(path: Path, task: ClipTask) -> np.ndarray:
    """Read a file's labels, int64 [N], 0 for the first class; BenchmarkError for one that is no class of the task."""
    with open_parquet(path) as file:
        footer = _footer(str(path), file)
        name = find_column(footer, task.label_column)
        column = file.read(columns=[name]).column(name)
    stored = _class_names(footer, task)
    if column.null_count:
        raise BenchmarkError(f"{path}: {name} has {column.null_count} nulls, expected a label for every image")
    if _holds_text(column.type):
        texts = column.to_pylist()
        known = {text: find_label(text, stored) for text in {*texts}}
        numbers = {text: -1 if label is None else label for text, label in known.items()}
        labels = np.array([numbers[text] for text in texts], dtype=np.int64)
    else:
        labels = column.cast(pa.int64()).to_numpy() - task.label_offset
    if (wrong := np.flatnonzero((labels < 0) | (labels >= len(task.classes)))).size:
        raise BenchmarkError(
            f"{path}: row {wrong[0]}: {name} {column[int(wrong[0])].as_py()!r} is none of the {len(task.classes)} "
            f"classes of {task.name} (first label {task.label_offset})"
        )
    return labels


def _footer(title: str, file: parquet.ParquetFile) -> Footer:
    groups = tuple(file.metadata.row_group(number).num_rows for number in range(file.num_row_groups))
    return Footer(title, file.schema_arrow, groups)


def _check(task: ClipTask, footers: Sequence[Footer]) -> int:
    """Check columns and class names of a split's files; return the number of rows."""
    for footer in footers:
        image, label = find_column(footer, task.image_column), find_column(footer, task.label_column)
        kind = footer.schema.field(image).type
        stored = kind.field("bytes").type if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0 else kind
        if not (pa.types.is_binary(stored) or pa.types.is_large_binary(stored) or pa.types.is_binary_view(stored)):
            raise BenchmarkError(
                f"{footer.title}: {image} is {kind}, expected the bytes of image files, or a struct with them; "
                "paths alone do not travel"
            )
        kind = footer.schema.field(label).type
        if not (_holds_text(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
            raise BenchmarkError(f"{footer.title}: {label} is {kind}, expected whole numbers or class names")
        _class_names(footer, task)
    return sum(sum(footer.groups) for footer in footers)


def _class_names(footer: Footer, task: ClipTask) -> Sequence[str]:
    """Return the class names in the file's order: those that `datasets` wrote into its schema, else the task's.

    Raises BenchmarkError if their number or order is not that of the task. A name that is spelt otherwise is no
    contradiction, a name of another class is.
    """
    label, expected = find_column(footer, task.label_column), task.stored_classes or task.classes
    try:
        metadata = json.loads((footer.schema.metadata or {}).get(b"huggingface", b"{}"))
        names = metadata.get("info", {}).get("features", {}).get(label, {}).get("names") or expected
        labels = [find_label(name, expected) for name in names]
    except (ValueError, AttributeError, TypeError) as error:
        raise BenchmarkError(
            f"{footer.title}: the schema's metadata `huggingface` is not what the datasets library writes "
            f"({type(error).__name__}); write the file again, or remove that key"
        ) from error
    moved = next((index for index, place in enumerate(labels) if place is not None and place != index), None)
    if len(names) == len(expected) and moved is None:
        return names
    agreeing = sum(index == place for index, place in enumerate(labels))
    first = "" if moved is None else f"; {names[moved]!r} is {moved} in the file, {labels[moved]} in the suite"
    raise BenchmarkError(
        f"{footer.title}: {label} has {len(names)} classes, {', '.join(names[:3])} ..., expected those of {task.name} "
        f"in their order: {len(expected)}, {', '.join(expected[:3])} ...; {agreeing} names agree{first}"
    )


def _holds_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
