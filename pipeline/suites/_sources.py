"""Places that checkpoints and data sets come from: repositories of the hub, or folders and files of this machine.

A place on this machine starts with `.`, `/` or `~`; any other is a repository's id, owner/name. Nothing is fetched but
by `fetch`, and the ends of parquet files.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from pipeline.runtime.errors import BenchmarkError
from pipeline.suites import _hub, _parquet

FOOTER = 2**16
"""Bytes at the end of a parquet file that are read at first; most footers are shorter."""
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


def plan_fetches(sources: Sequence[FileSource]) -> list[_hub.Listing]:
    """Plan the downloads of `sources`, tell the user what they take, and check that the disk has room for them."""
    remote = [source for source in sources if not source.local]
    plans = _hub.plan_downloads([_hub.Request(s.repo, s.kind, s.revision, s.names) for s in remote])
    tqdm.write("\n".join([_hub.describe_downloads(plans), *_hub.describe_moved(plans)]))
    _hub.check_room(plans)
    return plans


def locate_checkpoint(repo: str, revision: str, more: Sequence[str] = (), optional: Sequence[str] = ()) -> FileSource:
    """Locate the files of a checkpoint: `more`, those of `optional` that it has, and last the file with the tensors.

    Raises BenchmarkError if one of `more` or the tensors are missing.
    """
    names = list_names(repo, "model", revision)
    tensors = next((name for name in WEIGHT_FILES if name in names), None)
    if Path(repo).is_file():
        tensors = ""
    missing = [name for name in more if name not in names]
    if tensors is None or missing:
        wanted = missing[0] if missing else " or ".join(WEIGHT_FILES)
        raise BenchmarkError(f"{repo}: no {wanted}; it has {', '.join(names[:8]) or 'no files'}")
    return FileSource(repo, "model", revision, (*more, *(name for name in optional if name in names), tensors))


def read_footers(source: FileSource, plans: Sequence[_hub.Listing]) -> list[_parquet.Footer]:
    """Read the footers of parquet files; of those on the hub, only the ends are fetched."""
    listing = next((plan for plan in plans if plan.repo == source.repo), None)
    if listing is None:
        return [_parquet.read_footer(Path(source.repo) / name) for name in source.names]
    files = {file.name: file for file in listing.files}
    return [_fetch_footer(listing, files[name]) for name in source.names]


def list_names(repo: str, kind: _hub.Kind, revision: str) -> list[str]:
    """Return the names of all files of a place; BenchmarkError if there is none on this machine."""
    if not is_local(repo):
        return _hub.list_files(repo, kind, revision)
    root = Path(repo)
    if not root.exists():
        raise BenchmarkError(
            f"{repo}: no such file or folder on this machine; an id of the hub has the form owner/name"
        )
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def _fetch_footer(listing: _hub.Listing, file: _hub.RemoteFile) -> _parquet.Footer:
    tail = _hub.read_end(listing, file, FOOTER)
    if (length := _parquet.footer_length(tail)) > len(tail):
        tail = _hub.read_end(listing, file, length)
    return _parquet.parse_footer(f"{listing.page}: {file.name}", tail)
