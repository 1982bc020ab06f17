"""Parquet files of data sets, and their footers, which show most of what matters before any row is read.

A footer may come from a file of this machine, or from the last bytes of one that is not fetched yet.
"""

import io
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
from pyarrow import parquet

from pipeline.runtime.errors import BenchmarkError

MAGIC = b"PAR1"
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


def holds_text(kind: pa.DataType) -> bool:
    """Return whether a column of this type holds text, in plain or in dictionary form."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def find_parquet_files(names: Sequence[str], config: str | None, split: str) -> list[str]:
    """Find the parquet files of a split among the files of a dataset repository, in row order.

    Known layouts: [folder/]<split>-00000-of-00004[-<hash>].parquet, [folder/]<split>/0000.parquet (the hub's own
    conversion) and [folder/]<split>.parquet. The folder's last part is the configuration. Without a configuration, the
    folder is `data`, none or `default`, or else the only one. Raises BenchmarkError if there is no such file, or if a
    shard is missing.
    """
    kinds = r"(?:-(?P<shard>\d+)-of-(?P<count>\d+)(?:-[0-9a-f]+)?|/(?P<part>\d+))?"
    pattern = re.compile(rf"(?:(?P<folder>.+)/)?{re.escape(split)}{kinds}\.parquet")
    folders = defaultdict(list)
    for match in filter(None, map(pattern.fullmatch, names)):
        folders[match["folder"] or ""].append((int(match["shard"] or match["part"] or 0), match["count"], match.string))
    usual = [folder for folder in ("data", "", "default") if folder in folders]
    matching = (
        [folder for folder in folders if folder.split("/")[-1] == config] if config else usual[:1] or list(folders)
    )
    what = f"split {split!r}" + (f" of configuration {config!r}" if config else "")
    if len(matching) != 1:
        problem = f"several folders hold {what}, name a configuration" if matching else f"no parquet file of {what}"
        if any(f"partial-{split}/" in name for name in names):
            problem = f"only a part of {what} was converted to parquet (partial-{split})"
        raise BenchmarkError(f"{problem}; the repository has: {', '.join(sorted(names)[:20])} ({len(names)} files)")
    numbers, counts, shards = zip(*sorted(folders[matching[0]]), strict=True)
    total = int(counts[0] or len(shards))
    if numbers != tuple(range(total)) or len({*counts}) > 1:
        raise BenchmarkError(f"{what}: expected {total} files, each number once, found {', '.join(shards)}")
    return list(shards)


def _footer(title: str, file: parquet.ParquetFile) -> Footer:
    groups = tuple(file.metadata.row_group(number).num_rows for number in range(file.num_row_groups))
    return Footer(title, file.schema_arrow, groups)
