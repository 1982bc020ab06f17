"""Images in folders or WebDataset tars as parquet files, so that there is one way to read images.

A folder of this machine holds train/<class>/<image> and test/<class>/<image>. Images that lie flat, train/<image>, have
no labels. If all images lie flat in the folder itself, `test_size` of them are drawn for the test split.
"""

import re
import tarfile
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from PIL import Image
from pyarrow import parquet

from pipeline.runtime.errors import BenchmarkError
from pipeline.suites._clip_tasks import ClipTask
from pipeline.suites._labels import find_label

Image.init()
SUFFIXES = frozenset(suffix for suffix, kind in Image.EXTENSION.items() if kind in Image.OPEN)
PACKED = {"packed": "from the files that the rows name"}
"""The metadata of a packed file."""
GROUP = 512
"""Images of a row group."""


class PackedSplit(NamedTuple):
    """The parquet file of a split, and whether its labels are labels."""

    path: Path
    labelled: bool


def find_tars(names: Sequence[str], split: str) -> list[str]:
    """Return the tars of a split, <split>/<number>.tar, in order of their numbers."""
    tars = {int(match[1]): name for name in names if (match := re.fullmatch(rf"{re.escape(split)}/(\d+)\.tar", name))}
    return [tars[number] for number in sorted(tars)]


def pack_tars(task: ClipTask, tars: Sequence[Path], path: Path) -> PackedSplit:
    """Write the pairs <key>.<image suffix>, <key>.cls of tars, in their order, to a parquet file.

    Raises BenchmarkError for a damaged tar, and for a member without its pair.
    """
    _write(_tar_rows(task, tars), task, path)
    return PackedSplit(path, labelled=True)


def pack_folder(task: ClipTask, names: Sequence[str], folder: Path) -> dict[str, PackedSplit]:
    """Write the images `names` of the folder `task.dataset` as {"train": parquet file, "test": parquet file}.

    Raises BenchmarkError for a folder that is neither a split nor a class, and for a split without images.
    """
    root, splits = Path(task.dataset), {"train": task.train_split, "test": task.test_split}
    whole = not any("/" in name for name in names)
    if whole:
        size = min(task.test_size, len(names))
        drawn = {*np.random.default_rng(0).choice(len(names), size, replace=False).tolist()}
        parts = {
            split: [name for index, name in enumerate(names) if (index in drawn) == (split == "test")]
            for split in splits
        }
    else:
        parts = {split: [name for name in names if name.startswith(f"{stored}/")] for split, stored in splits.items()}
    packed = {}
    for split, part in parts.items():
        stored, depth = splits[split], max((name.count("/") for name in part), default=0)
        if whole and not part:
            raise BenchmarkError(
                f"{task.name}: {root} has {len(names)} images, test_size {task.test_size} leaves none for {split}"
            )
        if not part:
            raise BenchmarkError(
                f"{task.name}: {root} has no images in {stored}/; expected {stored}/<class>/<image>, or images "
                "without folders"
            )
        if odd := next((name for name in part if name.count("/") != min(depth, 2)), None):
            raise BenchmarkError(
                f"{task.name}: {root / odd}: expected every image of {stored} in a folder of its class, or none"
            )
        names_of_classes = sorted({name.split("/")[1] for name in part}) if depth == 2 else []
        labels = _number_classes(task, root / stored, names_of_classes)
        numbered = [(root / name, labels[name.split("/")[1]] if labels else 0) for name in part]
        rows = ((file.read_bytes(), str(file), label + task.label_offset) for file, label in numbered)
        packed[split] = PackedSplit(folder / f"{split}.parquet", bool(labels))
        _write(rows, task, packed[split].path)
    return packed


def _number_classes(task: ClipTask, root: Path, folders: Sequence[str]) -> dict[str, int]:
    """Return {folder: label}; BenchmarkError for a folder that is no class of the task."""
    numbers = {}
    for name in folders:
        if (label := find_label(name, task.classes)) is None:
            near = get_close_matches(name, task.classes, 1, 0)
            raise BenchmarkError(
                f"{task.name}: {root / name}: {name!r} is no class of the suite; did you mean {near[0]!r}? "
                f"Expected a folder for each of {', '.join(task.classes[:8])}"
            )
        numbers[name] = label
    return numbers


def _tar_rows(task: ClipTask, tars: Sequence[Path]) -> Iterator[tuple[bytes, str, int]]:
    for path in tars:
        content, label = {}, {}
        try:
            with tarfile.open(path) as tar:
                for member in tar:
                    key, _, kind = member.name.rpartition(".")
                    reader = tar.extractfile(member)
                    if reader is None or f".{kind}".lower() not in {*SUFFIXES, ".cls"}:
                        continue
                    data = reader.read()
                    if kind == "cls":
                        label[key] = int(data)
                    else:
                        content[key] = data, f"{path}: {member.name}"
        except (OSError, EOFError, tarfile.TarError, ValueError) as error:
            raise BenchmarkError(
                f"{task.name}: {path}: cannot be read as a WebDataset ({error}); fetch it again"
            ) from error
        if odd := sorted(content.keys() ^ label.keys()):
            raise BenchmarkError(f"{task.name}: {path}: {odd[0]} has no image or no .cls; fetch it again")
        yield from ((*content[key], label[key]) for key in content)


def _write(rows: Iterator[tuple[bytes, str, int]], task: ClipTask, path: Path) -> None:
    """Write (image file, name, label) to the parquet file `path`, under the task's column names."""
    image = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    schema = pa.schema({task.image_column[0]: image, task.label_column[0]: pa.int64()}, PACKED)
    path.parent.mkdir(parents=True, exist_ok=True)
    with parquet.ParquetWriter(path, schema) as writer:
        while group := list(islice(rows, GROUP)):
            cells = [{"bytes": data, "path": name} for data, name, _ in group]
            writer.write_table(pa.table([cells, [label for _, _, label in group]], schema=schema))
