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
from tqdm import tqdm

from pipeline.models.suite import SPLITS
from pipeline.runtime import store
from pipeline.runtime.errors import BenchmarkError
from pipeline.runtime.parallel import count_workers
from pipeline.suites import _clip_images as images
from pipeline.suites import _hub, _packing, _parquet
from pipeline.suites._clip_sources import FileSource, fetch
from pipeline.suites._clip_tasks import ClipTask, find_parquet_files

FOOTER = 2**16
"""Bytes at the end of a parquet file that are read at first; most footers are shorter."""


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
    listings = {plan.repo: plan for plan in plans}
    for task, place in tqdm(tasks, desc="footers", unit="task"):
        if not place.names[0].endswith(".parquet"):
            continue
        footers = [_read_footer(place, name, listings.get(place.repo)) for name in place.names]
        count = len(_parquet_names(place, task))
        _parquet.check_train(task, footers[:count])
        _parquet.check_test(task, footers[count:])


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
    learn, validate = images.split_validation(len(images.ParquetSplit(files.train, task)))
    rows = {"train": learn, "validation": validate}
    indices = {split: part[images.draw_pool(len(part), *draw)] for split, part in rows.items()}
    for split in SPLITS:
        decoded = _decode(task, files.test if split == "test" else files.train, files.key, indices.get(split), side)
        for name in ("images", "labels"):
            _link(decoded / f"{name}.npy", folder / name / split / f"{task.name}.npy")
    arrays = {split: store.read_array(folder / "images" / split / f"{task.name}.npy") for split in SPLITS}
    return {split: images.count_overlap(arrays[split], arrays["test"]) for split in rows}


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


def _read_footer(source: FileSource, name: str, listing: _hub.Listing | None) -> _parquet.Footer:
    if listing is None:
        return _parquet.read_footer(Path(source.repo) / name)
    file = next(file for file in listing.files if file.name == name)
    tail = _hub.read_end(listing, file, FOOTER)
    if (length := _parquet.footer_length(tail)) > len(tail):
        tail = _hub.read_end(listing, file, length)
    return _parquet.parse_footer(f"{listing.page}: {name}", tail)


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
    for split, check in (("train", _parquet.check_train), ("test", _parquet.check_test)):
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
