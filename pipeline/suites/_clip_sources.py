"""Locate the files of a CLIP suite: in repositories of the hub, or on this machine; nothing is fetched.

A place on this machine starts with `.`, `/` or `~`; any other is a repository's id, owner/name.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.runtime.errors import BenchmarkError
from pipeline.suites import _hub
from pipeline.suites._clip_tasks import ClipTask, find_parquet_files
from pipeline.suites._packing import SUFFIXES, find_tars

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
"""Files that may hold a checkpoint's tensors; the first that exists is used."""
PLACE = re.compile(r"[./].*|[\w.-]+/[\w.-]+")


def expand_place(place: str) -> str:
    """Return `place` with `~` expanded; ValueError if it is neither a path nor a repository's id, or could be both."""
    if place.startswith("~"):
        try:
            return str(Path(place).expanduser())
        except RuntimeError as error:
            raise ValueError(f"{error}; write the whole path") from error
    if not PLACE.fullmatch(place):
        raise ValueError("expected a path that starts with ., / or ~, or a repository's id, owner/name")
    if place[0] not in "./" and Path(place).exists():
        raise ValueError(f"it exists on this machine too; write ./{place} for that, or rename it")
    return place


def is_local(place: str) -> bool:
    """Return whether an expanded place is on this machine."""
    return place.startswith((".", "/"))


@dataclass(frozen=True)
class FileSource:
    """Files of a repository of the hub or of a place on this machine, by their names there."""

    repo: str
    kind: _hub.Kind
    revision: str
    names: tuple[str, ...]

    @property
    def local(self) -> bool:
        """Whether the files are on this machine."""
        return is_local(self.repo)

    def paths(self, fetched: Mapping[tuple[str, str], Path]) -> list[Path]:
        """Return the files' paths; `fetched`: those of the hub, by repository and name."""
        return [Path(self.repo) / name if self.local else fetched[self.repo, name] for name in self.names]

    def only(self, *names: str) -> "FileSource":
        """Return the source with these files alone."""
        return replace(self, names=names)


def fetch(plans: Sequence[_hub.Listing], sources: Sequence[FileSource]) -> list[Path]:
    """Fetch the files of `sources`, and no others of the plans; return their paths, in order."""
    names = {(source.repo, name) for source in sources for name in source.names}
    fetched = _hub.fetch_files([plan.only(names) for plan in plans])
    return [path for source in sources for path in source.paths(fetched)]


def locate_checkpoint(repo: str, revision: str, more: Sequence[str] = ()) -> FileSource:
    """Locate the files of a checkpoint: `more`, then the file with the tensors; BenchmarkError if there is none."""
    names = _list_names(repo, "model", revision)
    tensors = next((name for name in WEIGHT_FILES if name in names), None)
    if Path(repo).is_file():
        tensors = ""
    missing = [name for name in more if name not in names]
    if tensors is None or missing:
        wanted = missing[0] if missing else " or ".join(WEIGHT_FILES)
        raise BenchmarkError(f"{repo}: no {wanted}; it has {', '.join(names[:8]) or 'no files'}")
    return FileSource(repo, "model", revision, (*more, tensors))


def locate_dataset(task: ClipTask) -> FileSource:
    """Locate the files of a task's images, those of the training split before those of the test split.

    Parquet files, WebDataset tars, or images in folders of this machine. Of several revisions, the first that has both
    splits. Raises BenchmarkError with what is wrong at each of them.
    """
    problems = []
    for revision in task.revision:
        try:
            names = _list_names(task.dataset, "dataset", revision)
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


def _list_names(repo: str, kind: _hub.Kind, revision: str) -> list[str]:
    if not is_local(repo):
        return _hub.list_files(repo, kind, revision)
    root = Path(repo)
    if not root.exists():
        raise BenchmarkError(
            f"{repo}: no such file or folder on this machine; an id of the hub has the form owner/name"
        )
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
