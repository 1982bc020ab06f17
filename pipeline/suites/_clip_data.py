"""The images of a CLIP suite: checked by their footers, fetched, packed where they are no parquet files, decoded once.

Decoded images are stored next to the hub's cache and shared between suites by hard links.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from pipeline.models.suite import SPLITS
from pipeline.runtime import store
from pipeline.runtime.errors import BenchmarkError
from pipeline.runtime.parallel import count_workers
from pipeline.suites import _clip_images as images
from pipeline.suites import _hub, _packing, _parquet
from pipeline.suites._clip_tasks import ClipTask
from pipeline.suites._labels import check_label_column
from pipeline.suites._parquet import find_parquet_files
from pipeline.suites._sources import FileSource, fetch, read_footers
from pipeline.suites._splits import LEAST, count_overlap, draw_pool, split_validation

PUBLISHED = "published accuracies would not be comparable"


@dataclass(frozen=True)
class TaskFiles:
    """The local parquet files of a task's images."""

    train: list[Path]
    test: list[Path]
    key: str
    """Identifies their content."""
    unlabelled: tuple[str, ...] = ()
    """The splits whose labels are none: the expert's answers stand for them."""


def check_footers(tasks: Sequence[tuple[ClipTask, FileSource]], plans: Sequence[_hub.Listing]) -> None:
    """Check rows, columns and class names of all parquet files, by their footers alone."""
    for task, place in tqdm(tasks, desc="footers", unit="task"):
        if not place.names[0].endswith(".parquet"):
            continue
        footers = read_footers(place, plans)
        count = len(_parquet_names(place, task))
        check_train(task, footers[:count])
        check_test(task, footers[count:])


def check_test(task: ClipTask, footers: Sequence[_parquet.Footer]) -> None:
    """Check the files of the test split: their columns, class names and number of rows; raises BenchmarkError."""
    if (size := _check_columns(task, footers)) != task.test_size:
        raise BenchmarkError(
            f"{task.name}: the test split ({task.test_split} of {task.dataset}) has {size} images, expected "
            f"{task.test_size}; {PUBLISHED if task.anchors else 'add what is missing, or correct test_size'}"
        )


def check_train(task: ClipTask, footers: Sequence[_parquet.Footer]) -> None:
    """Check the files of the training split: their columns and class names, and that validation gets an image."""
    if (size := _check_columns(task, footers)) < LEAST:
        raise BenchmarkError(
            f"{task.name}: {task.train_split} of {task.dataset} has {size} images; at least {LEAST} are needed, "
            "10 % become validation"
        )


def check_image_room(tasks: Sequence[ClipTask], pool: int, side: int) -> None:
    """Check that the disk of the decoded images has room for those that are missing; raises BenchmarkError."""
    cache = _cache()
    needed = sum(task.test_size + 2 * pool for task in tasks) * side * side * 3
    existing = next(path for path in (cache, *cache.absolute().parents) if path.exists())
    decoded = sum(file.stat().st_size for file in cache.glob("*/images.npy"))
    free = shutil.disk_usage(existing).free
    if needed - decoded > free:
        raise BenchmarkError(
            f"decoded images need up to {needed / _hub.GIB:.1f} GiB in {cache}, {free / _hub.GIB:.1f} GiB are free; "
            "make room, set HF_HOME to a folder on a larger disk, or lower the recipe's pool"
        )


@contextmanager
def local_files(
    tasks: Sequence[tuple[ClipTask, FileSource]], plans: Sequence[_hub.Listing]
) -> Generator[list[TaskFiles], None, None]:
    """Fetch the files of all tasks, and yield them during the block; images in tars and folders are packed meanwhile.

    Raises BenchmarkError for a class, a number of images or a tar that is wrong, before any image is decoded.
    """
    cache = _cache()
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".packed-") as scratch:
        yield [_local_files(task, place, plans, Path(scratch) / task.name) for task, place in tasks]


def write_images(task: ClipTask, files: TaskFiles, draw: tuple[int, int], side: int, folder: Path) -> dict[str, int]:
    """Write the images and labels of a task's splits into the suite `folder`.

    draw: size and seed of the pools of training and validation images. Returns the number of training and of validation
    images that occur in the test split, by content.
    """
    learn, validate = split_validation(len(images.ParquetSplit(files.train, task)))
    rows = {"train": learn, "validation": validate}
    indices = {split: part[draw_pool(len(part), *draw)] for split, part in rows.items()}
    for split in SPLITS:
        decoded = _decode(task, files.test if split == "test" else files.train, files.key, indices.get(split), side)
        for name in ("images", "labels"):
            _link(decoded / f"{name}.npy", folder / name / split / f"{task.name}.npy")
    arrays = {split: store.read_array(folder / "images" / split / f"{task.name}.npy") for split in SPLITS}
    return {split: count_overlap(arrays[split], arrays["test"]) for split in rows}


def _check_columns(task: ClipTask, footers: Sequence[_parquet.Footer]) -> int:
    """Check columns and class names of a split's files; return the number of rows."""
    for footer in footers:
        image = _parquet.find_column(footer, task.image_column)
        kind = footer.schema.field(image).type
        stored = kind.field("bytes").type if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0 else kind
        if not (pa.types.is_binary(stored) or pa.types.is_large_binary(stored) or pa.types.is_binary_view(stored)):
            raise BenchmarkError(
                f"{footer.title}: {image} is {kind}, expected the bytes of image files, or a struct with them; "
                "paths alone do not travel"
            )
        check_label_column(footer, task.labels)
    return sum(sum(footer.groups) for footer in footers)


def _decode(task: ClipTask, paths: Sequence[Path], key: str, rows: np.ndarray | None, side: int) -> Path:
    """Return the cached folder with the images and labels of these rows, decoded by now or by an earlier suite."""
    drawn = "all" if rows is None else hashlib.sha256(rows.tobytes()).hexdigest()
    names = [path.name for path in paths]
    identity = (task.dataset, key, names, task.label_offset, task.transpose, side, drawn)
    place = _cache() / hashlib.sha256(repr(identity).encode()).hexdigest()[:32]
    pixels, labels = place / "images.npy", place / "labels.npy"
    if not (pixels.exists() and labels.exists()):
        images.decode_split(paths, task, pixels, labels, rows, count_workers(), side)
    return place


def _parquet_names(source: FileSource, task: ClipTask) -> list[str]:
    """Return the names of the parquet files of the training split."""
    return find_parquet_files(source.names, task.config, task.train_split)


def _local_files(task: ClipTask, place: FileSource, plans: Sequence[_hub.Listing], scratch: Path) -> TaskFiles:
    """Fetch the files of a task's images; images in tars and folders are packed into parquet files in `scratch`."""
    commit = next((plan.commit for plan in plans if plan.repo == place.repo), None)
    suffix = Path(place.names[0]).suffix
    if suffix == ".parquet":
        paths, count = fetch(plans, [place]), len(_parquet_names(place, task))
        return TaskFiles(paths[:count], paths[count:], commit or _hash_contents(paths))
    if suffix == ".tar":
        train = _packing.find_tars(place.names, task.train_split)
        parts = {"train": train, "test": [name for name in place.names if name not in train]}
        packed = {
            split: _packing.pack_tars(task, fetch(plans, [place.only(*names)]), scratch / f"{split}.parquet")
            for split, names in parts.items()
        }
    else:
        packed = _packing.pack_folder(task, place.names, scratch)
    for split, check in (("train", check_train), ("test", check_test)):
        check(task, [_parquet.read_footer(packed[split].path)])
    files = [packed[split].path for split in ("train", "test")]
    unlabelled = {"train": ("train", "validation"), "test": ("test",)}
    splits = tuple(name for split in unlabelled if not packed[split].labelled for name in unlabelled[split])
    return TaskFiles(files[:1], files[1:], _hash_contents(files), splits)


def _hash_contents(paths: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system
        with store.replacing(target) as temporary:
            shutil.copyfile(source, temporary)


def _cache() -> Path:
    """Return the folder of decoded images, next to the cache of the hub's client."""
    return Path(_hub.constants.HF_ASSETS_CACHE) / "samerging" / "images"
