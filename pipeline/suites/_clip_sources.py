"""Locate the files of a CLIP task's images; nothing is fetched."""

from collections.abc import Sequence
from pathlib import Path

from pipeline.runtime.errors import BenchmarkError
from pipeline.suites import _hub
from pipeline.suites._clip_tasks import ClipTask
from pipeline.suites._packing import SUFFIXES, find_tars
from pipeline.suites._parquet import find_parquet_files
from pipeline.suites._sources import FileSource, is_local, list_names


def locate_dataset(task: ClipTask) -> FileSource:
    """Locate the files of a task's images, those of the training split before those of the test split.

    Parquet files, WebDataset tars, or images in folders of this machine. Of several revisions, the first that has both
    splits. Raises BenchmarkError with what is wrong at each of them.
    """
    problems = []
    for revision in task.revision:
        try:
            names = list_names(task.dataset, "dataset", revision)
            return FileSource(task.dataset, "dataset", revision, tuple(_dataset_files(names, task)))
        except _hub.NoRevision as error:
            problems.append(str(error))
        except _hub.HubError:
            raise
        except BenchmarkError as error:
            where = task.dataset if is_local(task.dataset) else f"{task.dataset} at {revision!r}"
            problems.append(f"{where}: {error}")
    raise BenchmarkError(f"task {task.name}: {'; '.join(problems)}")


def _dataset_files(names: Sequence[str], task: ClipTask) -> list[str]:
    splits = task.train_split, task.test_split
    visible = [name for name in names if not any(part.startswith(".") for part in name.split("/"))]
    images = [name for name in visible if Path(name).suffix.lower() in SUFFIXES]
    tars = [find_tars(names, split) for split in splits]
    if any(name.endswith(".parquet") for name in names) or not (all(tars) or images):
        return [name for split in splits for name in find_parquet_files(names, task.config, split)]
    if all(tars):
        return [name for split in tars for name in split]
    if not is_local(task.dataset):
        raise BenchmarkError("its images are no parquet files; name a repository with parquet, or a local folder")
    if odd := next((name for name in visible if name not in images), None):
        raise BenchmarkError(f"{odd} is no image that Pillow opens; remove it, or convert it")
    return images
