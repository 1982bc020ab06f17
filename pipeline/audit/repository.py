"""The files of a repository, their hashes, and the files of data/ that its evidence restores.

    reports/evidence/suites/<suite>/scores.csv    -> data/scores/<suite>/<method>.csv
    reports/evidence/suites/<suite>/images.npz    -> data/previews/<suite>.npz
    reports/evidence/studies/<suite>/<study>...   -> data/studies/<suite>/<study>...
    reports/evidence/**/records.json              -> data/runs, data/origins, data/costs: {path: content}

What is restored has the very bytes that the stages wrote, so that dvc.lock's hashes hold for it.
"""

import csv
import fnmatch
import hashlib
import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar
from zipfile import BadZipFile

import numpy as np
import pandas as pd
import yaml

from pipeline.runtime.errors import BenchmarkError

FOLDERS = ("pipeline", "stages", "reports", "data")
EVIDENCE = "reports/evidence"
SCORES = ("suite", "method", "task", "seed", "samples", "correct", "total")
PRIVATE = "data/.partial/"
"""Where stages write before they succeed."""


Restored = Iterator[tuple[str, bytes]]
"""(path in data/, content)."""


class RepositoryError(BenchmarkError):
    """A file without which, or with which, nothing can be audited."""


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """YAML 1.2, as DVC reads it: `on` is a text, 1e-05 a number, a key stands once."""

    yaml_implicit_resolvers: ClassVar = {
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":bool", ":float"))]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    found = loader.construct_mapping(node, deep=True)
    if len(found) < len(node.value):
        raise yaml.constructor.ConstructorError(None, None, "a key stands twice", node.start_mark)
    return found


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(true|True|TRUE|false|False|FALSE)$"), [*"tTfF"])
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$"),
    [*"-+0123456789."],
)


@dataclass(frozen=True)
class Stamp:
    """MD5 and bytes of a file, as DVC records them."""

    md5: str
    size: int


@dataclass(frozen=True)
class Repository:
    """The files under `root`, by their paths relative to it."""

    root: Path
    stamps: Mapping[str, Stamp]
    """Of the files in FOLDERS that .dvcignore does not name."""
    restored: Mapping[str, bytes]
    """Files of data/ made again from the evidence."""

    def bytes(self, path: str) -> bytes | None:
        """The content of a file, on disk or else restored; None if there is neither."""
        place = self.root / path
        return place.read_bytes() if place.is_file() else self.restored.get(path)

    def text(self, path: str) -> str | None:
        """The same as text; RepositoryError if it is none."""
        content = self.bytes(path)
        return None if content is None else _decoded(content, path)

    def json(self, path: str) -> Any:
        """The same as JSON; RepositoryError if it is none."""
        text = self.text(path)
        try:
            return None if text is None else json.loads(text)
        except json.JSONDecodeError as error:
            raise RepositoryError(f"{path}: not valid JSON ({error}); get the file again") from error

    def yaml(self, path: str) -> Any:
        """The content of a YAML file; RepositoryError if it is missing or none."""
        text = self.text(path)
        if text is None:
            raise RepositoryError(f"{self.root / path}: no such file; run the audit at the root of the repository")
        try:
            return yaml.load(text, _Loader)
        except yaml.YAMLError as error:
            raise RepositoryError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error

    def table(self, path: str) -> pd.DataFrame | None:
        """A CSV file, every cell as text."""
        text = self.text(path)
        return None if text is None else pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)

    def names(self, folder: str, pattern: str = "*") -> list[str]:
        """Paths below `folder`, on disk or restored, whose end matches, sorted."""
        paths = {*self.stamps, *self.restored}
        return sorted(path for path in paths if path.startswith(f"{folder}/") and fnmatch.fnmatch(path, f"*{pattern}"))

    def tensors(self, path: str) -> dict[str, np.ndarray] | None:
        """The tensors of a .safetensors file of numpy's types; None if there is no file."""
        content = self.bytes(path)
        return None if content is None else _tensors(content, path)

    def array(self, path: str) -> np.ndarray | None:
        """A .npy array, memory-mapped; None if there is no file."""
        place = self.root / path
        return np.load(place, mmap_mode="r", allow_pickle=False) if place.is_file() else None

    def arrays(self, path: str) -> dict[str, np.ndarray] | None:
        """The arrays of a .npz file; None if there is no file, RepositoryError if it is damaged."""
        place = self.root / path
        if not place.is_file():
            return None
        try:
            with np.load(io.BytesIO(place.read_bytes()), allow_pickle=False) as arrays:
                return dict(arrays)
        except (ValueError, OSError, EOFError, BadZipFile) as error:
            raise RepositoryError(f"{path}: cannot be read as .npz arrays ({error}); get the file again") from error


def gather(root: Path) -> Repository:
    """Read the repository at `root`; every file is hashed once."""
    ignored = _ignored(root)
    stamps = {
        name: _stamp(root / name) for folder in FOLDERS for name in _walk(root, folder) if not _matches(name, ignored)
    }
    restored: dict[str, bytes] = {}
    for make in (_records, _scores, _previews, _studies):
        for path, content in make(root):
            if restored.setdefault(path, content) != content:
                raise RepositoryError(f"{path}: two files of {EVIDENCE} hold other contents of it; get the files again")
    return Repository(root, stamps, restored)


def integers(repository: Repository, suite: str) -> pd.DataFrame | None:
    """The integer scores of a suite: SCORES, seed -1 without randomness; None if there are none.

    Read here and nowhere else.
    """
    path = f"{EVIDENCE}/suites/{suite}/scores.csv"
    paths = [path] if repository.text(path) else repository.names(f"data/scores/{suite}", ".csv")
    tables = [table for path in paths if {*SCORES} <= {*(table := repository.table(path))}]
    if not tables:
        return None
    whole = dict.fromkeys(("seed", "samples", "correct", "total"), "int64")
    try:
        return pd.concat(tables, ignore_index=True)[[*SCORES]].replace({"seed": {"": "-1"}}).astype(whole)
    except ValueError as error:
        raise RepositoryError(f"{paths[0]}: counts must be whole numbers ({error}); run dvc repro") from error


def _decoded(content: bytes, path: str) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RepositoryError(f"{path}: not UTF-8 text ({error}); get the file again") from error


def _walk(root: Path, folder: str) -> Iterator[str]:
    for path in sorted((root / folder).rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.is_file() and not name.startswith(PRIVATE):
            yield name


def _ignored(root: Path) -> list[str]:
    path = root / ".dvcignore"
    lines = path.read_text("utf-8").splitlines() if path.is_file() else []
    return ["__pycache__/", "*.pyc", *(line.strip() for line in lines if line.strip() and line[0] != "#")]


def _matches(name: str, ignored: list[str]) -> bool:
    """Whether a pattern without a path names the file or a folder that it lies in."""
    *folders, file = PurePosixPath(name).parts
    return any(
        any(
            fnmatch.fnmatch(part, pattern.rstrip("/")) for part in (folders if pattern[-1] == "/" else (*folders, file))
        )
        for pattern in ignored
    )


def _stamp(path: Path) -> Stamp:
    with path.open("rb") as file:
        return Stamp(hashlib.file_digest(file, "md5").hexdigest(), path.stat().st_size)


def stamp(content: bytes) -> Stamp:
    """The stamp of a file with this content."""
    return Stamp(hashlib.md5(content).hexdigest(), len(content))


def _records(root: Path) -> Restored:
    for path in sorted((root / EVIDENCE).rglob("records.json")):
        name = path.relative_to(root).as_posix()
        try:
            contents = json.loads(_decoded(path.read_bytes(), name))
        except json.JSONDecodeError as error:
            raise RepositoryError(f"{name}: not valid JSON ({error}); get the file again") from error
        if not isinstance(contents, dict):
            raise RepositoryError(f"{name}: expected an object, a record by its path; get the file again")
        written = {"indent": 1, "sort_keys": True, "ensure_ascii": False}
        yield from ((name, f"{json.dumps(content, **written)}\n".encode()) for name, content in contents.items())


def _scores(root: Path) -> Restored:
    for path in sorted((root / EVIDENCE).rglob("scores.csv")):
        name = path.relative_to(root).as_posix()
        try:
            header, *rows = csv.reader(io.StringIO(path.read_text("utf-8"), newline=""))
        except (ValueError, csv.Error) as error:
            raise RepositoryError(f"{name}: not a table ({error}); run dvc repro") from error
        if tuple(header) != SCORES or any(len(row) != len(SCORES) for row in rows):
            raise RepositoryError(f"{name}: expected the columns {', '.join(SCORES)} in every row; run dvc repro")
        for method in dict.fromkeys(row[1] for row in rows):
            buffer = io.StringIO()
            csv.writer(buffer, lineterminator="\n").writerows([header, *(row for row in rows if row[1] == method)])
            yield f"data/scores/{path.parent.name}/{method}.csv", buffer.getvalue().encode()


def _previews(root: Path) -> Restored:
    for path in sorted((root / EVIDENCE / "suites").glob("*/images.npz")):
        yield f"data/previews/{path.parent.name}.npz", path.read_bytes()


def _studies(root: Path) -> Restored:
    folder = root / EVIDENCE / "studies"
    for path in sorted(folder.rglob("*.csv")):
        if path.name != "scores.csv":
            yield f"data/studies/{path.relative_to(folder).as_posix()}", path.read_bytes()


def _tensors(content: bytes, path: str) -> dict[str, np.ndarray]:
    """The format: 8 bytes n, n bytes of JSON {name: dtype, shape, data_offsets}, then the values, little-endian."""
    kinds = {"F64": "<f8", "F32": "<f4", "I64": "<i8", "I32": "<i4", "U8": "|u1"}
    try:
        size = int.from_bytes(content[:8], "little")
        header, body = json.loads(content[8 : 8 + size]), content[8 + size :]
        return {
            name: np.frombuffer(body[slice(*one["data_offsets"])], kinds[one["dtype"]]).reshape(one["shape"])
            for name, one in header.items()
            if name != "__metadata__"
        }
    except (ValueError, KeyError, UnicodeDecodeError) as error:
        raise RepositoryError(f"{path}: not a safetensors file of numbers ({error}); get the file again") from error
