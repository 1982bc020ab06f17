"""Images of the CLIP suites: from parquet files to uint8 [N, S, S, 3], as CLIP's processor sees them.

An image is decoded as by the `datasets` library (EXIF rotation is applied, truncated files are refused), converted to
RGB without regard to transparency, resized to S (224 by default) on its short side (bicubic) and cropped to the centre.
Nothing is skipped: the first image that cannot be decoded stops the split with an error that names file, row and path.
"""

import io
import multiprocessing
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps
from tqdm import tqdm

from pipeline.runtime import store
from pipeline.runtime.errors import BenchmarkError
from pipeline.runtime.processes import begin_worker
from pipeline.suites._clip_tasks import ClipTask
from pipeline.suites._labels import read_labels
from pipeline.suites._parquet import find_column, open_parquet, read_footer

IMAGE_SIDE = 224
BATCH = 16  # rows read at a time: an image may have megabytes
PIECE = 512  # rows that a process decodes as one piece of work
BROKEN = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, OverflowError, struct.error, zlib.error,
    Image.DecompressionBombError, Image.DecompressionBombWarning,
)  # fmt: skip
"""Exceptions that PIL raises for invalid files."""


def preprocess_image(image: Image.Image, side: int = IMAGE_SIDE) -> np.ndarray:
    """Apply CLIP's preprocessing without the normalisation: uint8 [side, side, 3]."""
    image = _rgb(image)
    short, long = sorted(image.size)
    length = int(side * long / short)
    if length * side > (Image.MAX_IMAGE_PIXELS or np.inf):
        raise Image.DecompressionBombError(f"{image.width} x {image.height} pixels: too elongated to be resized")
    width, height = (side, length) if image.width <= image.height else (length, side)
    left, top = (width - side) // 2, (height - side) // 2
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(resized.crop((left, top, left + side, top + side)))


def decode_image(content: bytes) -> Image.Image:
    """Decode a file's image, upright; raises one of BROKEN if it is damaged, truncated or far too large."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # damaged EXIF data
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        image = Image.open(io.BytesIO(content))
        image.load()
        return image if image.getexif().get(ExifTags.Base.Orientation, 1) == 1 else ImageOps.exif_transpose(image)


class RowGroup(NamedTuple):
    """A row group of a parquet file, its smallest readable part; `start` rows of the file come before it."""

    path: Path
    number: int
    start: int
    rows: int


class ParquetSplit:
    """A split of a task in local parquet files."""

    def __init__(self, files: Sequence[Path], task: ClipTask) -> None:
        """Read the files' footers; BenchmarkError for a file that is not parquet or lacks the task's columns."""
        self.files, self.task, self.groups = tuple(files), task, list[RowGroup]()
        for path in self.files:
            footer, start = read_footer(path), 0
            find_column(footer, task.image_column)
            for number, rows in enumerate(footer.groups):
                self.groups.append(RowGroup(path, number, start, rows))
                start += rows

    def __len__(self) -> int:
        return sum(group.rows for group in self.groups)

    def labels(self) -> np.ndarray:
        """Read the labels of all rows, int64 [N], 0 for the first class; BenchmarkError for an unknown label."""
        return np.concatenate([np.zeros(0, np.int64), *(read_labels(path, self.task.labels) for path in self.files)])

    def image(self, row: int, side: int = IMAGE_SIDE) -> np.ndarray:
        """Read the preprocessed image of a row, uint8 [side, side, 3]."""
        ((group, rows, _),) = self.pieces(np.array([row]))
        return next(_images(group, rows, self.task, side))

    def pieces(self, indices: np.ndarray) -> list[tuple[RowGroup, list[int], int]]:
        """Divide ascending rows into pieces of work: (row group, rows within it, number of `indices` before them).

        Raises BenchmarkError unless `indices` ascend and lie within the split.
        """
        if not len(indices) or indices[0] < 0 or indices[-1] >= len(self) or (np.diff(indices) <= 0).any():
            raise BenchmarkError(f"{self.task.name}: expected ascending rows of 0 to {len(self) - 1}, got {indices}")
        pieces, start = [], 0
        for group in self.groups:
            first, end = (int(place) for place in np.searchsorted(indices, (start, start + group.rows)))
            for place in range(first, end, PIECE):
                pieces.append((group, (indices[place : min(end, place + PIECE)] - start).tolist(), place))
            start += group.rows
        return pieces


def decode_split(
    files: Sequence[Path],
    task: ClipTask,
    out_images: Path,
    out_labels: Path,
    indices: np.ndarray | None,
    workers: int,
    side: int = IMAGE_SIDE,
) -> None:
    """Write the images and labels of a split, or of its ascending rows `indices`, decoded by `workers` processes.

    The bytes do not depend on `workers`; a process holds one row group. Files appear only when they are complete.
    """
    split = ParquetSplit(files, task)
    pieces = split.pieces(np.arange(len(split)) if indices is None else indices)
    labels = split.labels() if indices is None else split.labels()[indices]
    with store.replacing(out_images) as target:
        offset = np.lib.format.open_memmap(target, "w+", np.uint8, (len(labels), side, side, 3)).offset
        size = side * side * 3
        places = [(group, rows, task, target, offset + place * size, side) for group, rows, place in pieces]
        _run(places, task.name, workers)
        store.write_array(out_labels, labels)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode} have no known range")
    if "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def _images(group: RowGroup, rows: Sequence[int], task: ClipTask, side: int) -> Iterator[np.ndarray]:
    """Yield the preprocessed images at ascending rows of a row group."""
    footer = read_footer(group.path)
    name, packed = find_column(footer, task.image_column), b"packed" in (footer.schema.metadata or {})
    with open_parquet(group.path) as file:
        start, todo = 0, list(reversed(rows))
        for batch in file.iter_batches(BATCH, row_groups=[group.number], columns=[name]):
            while todo and todo[-1] < start + len(batch):
                row = todo.pop()
                cell = batch.column(0)[row - start].as_py()
                content, origin = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, None)
                where = origin if packed else f"{group.path}: row {group.start + row} ({origin or 'no path'})"
                if content is None:
                    raise BenchmarkError(
                        f"{where}: no bytes, a path alone; store the image files in the column, or name an image "
                        "folder as the data set"
                    )
                try:
                    image = decode_image(content)
                    upright = image.transpose(Image.Transpose.TRANSPOSE) if task.transpose else image
                    yield preprocess_image(upright, side)
                except BROKEN as error:
                    reason = f"{type(error).__name__}: {str(error).split(' <')[0]}"
                    cure = "replace or remove it" if packed else f"fetch the file of {task.dataset} again"
                    raise BenchmarkError(
                        f"{task.name}: {where}: the image cannot be decoded ({reason}); {cure}"
                    ) from error
            start += len(batch)
            if not todo:
                return


def _write(group: RowGroup, rows: Sequence[int], task: ClipTask, target: Path, offset: int, side: int) -> None:
    with target.open("r+b") as file:
        file.seek(offset)
        for image in _images(group, rows, task, side):
            file.write(image.tobytes())


def _run(pieces: Sequence[tuple[Any, ...]], title: str, workers: int) -> None:
    """Call _write(*piece) for all pieces, in processes even where stages compute on a GPU: decoding uses the CPU."""
    bar, columns = {"total": len(pieces), "desc": title, "unit": "piece"}, list(zip(*pieces, strict=True))
    if min(workers, len(pieces)) <= 1:
        list(tqdm(map(_write, *columns), **bar))
        return
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(min(workers, len(pieces)), mp_context=context, initializer=begin_worker) as pool:
        try:
            list(tqdm(pool.map(_write, *columns), **bar))
        except BrokenProcessPool as error:
            raise BenchmarkError(f"{title}: a process was killed; let fewer run (SAMERGING_WORKERS)") from error
