"""The files of a repository, their hashes, and the files of data/ that its evidence restores.

    reports/evidence/suites/<suite>/scores.csv    -> data/scores/<suite>/<method>.csv
    reports/evidence/suites/<suite>/previews.npz  -> data/previews/<suite>.npz
    reports/evidence/*/<suite>/clusters.npz       -> data/clusters/<suite>.npz
    reports/evidence/studies/<suite>/<study>/...  -> data/studies/<suite>/<study>/...
    reports/evidence/**/records.json              -> data/runs, data/origins, data/costs: {path: content}

What is restored has the very bytes that the stages wrote, so that dvc.lock's hashes hold for it.
"""

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar
from zipfile import BadZipFile

import numpy as np
import pandas as pd
import yaml  # pyrefly: ignore[untyped-import]  # it has no stubs

from pipeline.runtime.errors import BenchmarkError

FOLDERS = ("pipeline", "stages", "reports", "data")
EVIDENCE = "reports/evidence"
SCORES = ("suite", "method", "task", "seed", "samples", "correct", "total")
PRIVATE = "data/.partial/"
"""Where stages write before they succeed."""
KINDS = {"F64": "<f8", "F32": "<f4", "I64": "<i8", "I32": "<i4", "U8": "|u1"}
"""Types of safetensors, as NumPy names them."""

Restored = Iterator[tuple[Path, str, bytes]]
"""(file below EVIDENCE, path in data/ that it restores, content)."""


class RepositoryError(BenchmarkError):
    """A file without which, or with which, nothing can be audited."""


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """YAML 1.2, as DVC reads it: `on` is a text, 1e-05 a number, a key stands once."""

    yaml_implicit_resolvers: ClassVar = {  # pyrefly: ignore[bad-override]  # PyYAML looks it up on the class
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":bool", ":float"))]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    mapping = loader.construct_mapping(node, deep=True)
    if len(mapping) < len(node.value):
        raise yaml.constructor.ConstructorError(None, None, "a key stands twice", node.start_mark)
    return mapping


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

    @cached_property
    def params(self) -> dict[str, Any]:
        """params.yaml, read once."""
        return self.yaml("params.yaml")

    @property
    def suites(self) -> list[str]:
        """The suites that params.yaml names; RepositoryError if it names none."""
        return self._names("suites")

    @property
    def studies(self) -> list[str]:
        """The studies that params.yaml names; RepositoryError if it names none."""
        return self._names("studies")

    def _names(self, key: str) -> list[str]:
        names = self.params.get(key) if isinstance(self.params, dict) else None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise RepositoryError(f"params.yaml: expected a list `{key}` of names, found {names!r}; get the file again")
        return names

    def bytes(self, path: str) -> bytes | None:
        """Return the content of a file, on disk or else restored; None if there is neither."""
        place = self.root / path
        return place.read_bytes() if place.is_file() else self.restored.get(path)

    def text(self, path: str) -> str | None:
        """Return the content as text; RepositoryError if it is not UTF-8."""
        content = self.bytes(path)
        return None if content is None else _decode(content, path)

    def json(self, path: str) -> Any:
        """Return the content of a JSON file, None if there is none; RepositoryError if it is not JSON."""
        text = self.text(path)
        return None if text is None else _parse_json(text, path)

    def yaml(self, path: str) -> Any:
        """Return the content of a YAML file; RepositoryError if it is missing or not YAML."""
        text = self.text(path)
        if text is None:
            raise RepositoryError(f"{self.root / path}: no such file; run the audit at the root of the repository")
        try:
            return yaml.load(text, _Loader)
        except yaml.YAMLError as error:
            raise RepositoryError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error

    def table(self, path: str) -> pd.DataFrame | None:
        """Return a CSV file, every cell as text; None if there is no file."""
        text = self.text(path)
        return None if text is None else pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)

    def rows(self, path: str) -> list[dict[str, str]] | None:
        """Return the rows of a CSV file, every cell as text; None if there is no file."""
        table = self.table(path)
        return (
            None
            if table is None
            else [{str(key): cell for key, cell in row.items()} for row in table.to_dict("records")]
        )

    def names(self, folder: str, pattern: str = "*") -> list[str]:
        """Return the paths below `folder`, on disk or restored, whose end matches, sorted."""
        paths = {*self.stamps, *self.restored}
        return sorted(path for path in paths if path.startswith(f"{folder}/") and fnmatch(path, f"*{pattern}"))

    def members(self, folder: str) -> dict[str, Stamp]:
        """Return {path relative to `folder`: stamp} of its files on disk."""
        prefix = f"{folder}/"
        return {name.removeprefix(prefix): stamp for name, stamp in self.stamps.items() if name.startswith(prefix)}

    def tensors(self, path: str) -> dict[str, np.ndarray] | None:
        """Return the tensors of a .safetensors file; None if there is no file.

        The format: 8 bytes n, n bytes of JSON {name: dtype, shape, data_offsets}, then the values, little-endian.
        Raises RepositoryError if the file is damaged or has a type that NumPy lacks.
        """
        content = self.bytes(path)
        if content is None:
            return None
        try:
            size = int.from_bytes(content[:8], "little")
            header, body = json.loads(content[8 : 8 + size]), content[8 + size :]
            return {
                name: np.frombuffer(body[slice(*entry["data_offsets"])], KINDS[entry["dtype"]]).reshape(entry["shape"])
                for name, entry in header.items()
                if name != "__metadata__"
            }
        except (ValueError, KeyError) as error:
            raise RepositoryError(f"{path}: not a safetensors file of numbers ({error}); get the file again") from error

    def array(self, path: str) -> np.ndarray | None:
        """Return a .npy array, memory-mapped; None if there is no file."""
        place = self.root / path
        return np.load(place, mmap_mode="r", allow_pickle=False) if place.is_file() else None

    def arrays(self, path: str) -> dict[str, np.ndarray] | None:
        """Return the arrays of a .npz file; None if there is no file, RepositoryError if it is damaged."""
        place = self.root / path
        if not place.is_file():
            return None
        try:
            with np.load(io.BytesIO(place.read_bytes()), allow_pickle=False) as arrays:
                return dict(arrays)
        except (ValueError, OSError, EOFError, BadZipFile) as error:
            raise RepositoryError(f"{path}: cannot be read as .npz arrays ({error}); get the file again") from error


def gather(root: Path) -> Repository:
    """Read the repository at `root`; every file is hashed once.

    Raises RepositoryError if its evidence cannot be read or contradicts itself.
    """
    ignored = _ignored_patterns(root)
    names = (path.relative_to(root).as_posix() for folder in FOLDERS for path in _files(root / folder, "*"))
    stamps = {
        name: _stamp_file(root / name)
        for name in names
        if not (name.startswith(PRIVATE) or any(_matches(name, pattern) for pattern in ignored))
    }
    restored: dict[str, bytes] = {}
    params = Repository(root, stamps, {}).params if (root / "params.yaml").is_file() else None
    lists = [params.get(key) if isinstance(params, dict) else None for key in ("suites", "studies")]
    for restore in (_records, _scores, _copies):
        for source, path, content in restore(root):
            folders = zip(source.parts[1:-1], lists, strict=False)
            if any(isinstance(names, list) and folder not in names for folder, names in folders):
                continue  # of a suite or a study that another run was about
            if restored.setdefault(path, content) != content:
                raise RepositoryError(f"{path}: two files of {EVIDENCE} hold other contents of it; get the files again")
    return Repository(root, stamps, restored)


def stamp_bytes(content: bytes) -> Stamp:
    """Return the stamp of a file with this content."""
    return Stamp(hashlib.md5(content).hexdigest(), len(content))


def list_directory(members: Mapping[str, Stamp]) -> bytes:
    """Return the list that DVC keeps of a directory's files, members by their paths relative to it."""
    return json.dumps([{"md5": stamp.md5, "relpath": name} for name, stamp in sorted(members.items())]).encode()


def hash_directory(members: Mapping[str, Stamp]) -> str:
    """Return a directory's hash as dvc.lock has it: the MD5 of its list, and `.dir`."""
    return f"{stamp_bytes(list_directory(members)).md5}.dir"


def _files(folder: Path, pattern: str) -> list[Path]:
    return sorted(path for path in folder.rglob(pattern) if path.is_file())


def _ignored_patterns(root: Path) -> list[str]:
    path = root / ".dvcignore"
    lines = path.read_text("utf-8").splitlines() if path.is_file() else []
    return ["__pycache__/", "*.pyc", *(line.strip() for line in lines if line.strip() and line[0] != "#")]


def _matches(name: str, pattern: str) -> bool:
    """Return whether a pattern without a path names the file or a folder that it lies in."""
    parts = PurePosixPath(name).parts
    return any(fnmatch(part, pattern.rstrip("/")) for part in (parts[:-1] if pattern.endswith("/") else parts))


def _stamp_file(path: Path) -> Stamp:
    with path.open("rb") as file:
        return Stamp(hashlib.file_digest(file, "md5").hexdigest(), path.stat().st_size)


def _decode(content: bytes, path: str) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RepositoryError(f"{path}: not UTF-8 text ({error}); get the file again") from error


def _parse_json(text: str, path: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise RepositoryError(f"{path}: not valid JSON ({error}); get the file again") from error


def _records(root: Path) -> Restored:
    for path in _files(root / EVIDENCE, "records.json"):
        name = path.relative_to(root).as_posix()
        records = _parse_json(_decode(path.read_bytes(), name), name)
        if not isinstance(records, dict):
            raise RepositoryError(f"{name}: expected an object, a record by its path; get the file again")
        for record, content in records.items():
            text = f"{json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False)}\n"
            yield path.relative_to(root / EVIDENCE), record, text.encode()


def _scores(root: Path) -> Restored:
    for path in _files(root / EVIDENCE, "scores.csv"):
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
            restored = f"data/scores/{path.parent.name}/{method}.csv"
            yield path.relative_to(root / EVIDENCE), restored, buffer.getvalue().encode()


def _copies(root: Path) -> Restored:
    """Previews, clusters and rows of studies, which the evidence keeps as they are."""
    evidence = root / EVIDENCE
    for kind in ("previews", "clusters"):
        for path in sorted(evidence.glob(f"*/*/{kind}.npz")):
            yield path.relative_to(evidence), f"data/{kind}/{path.parent.name}.npz", path.read_bytes()
    for path in _files(evidence / "studies", "*.csv"):
        if path.name != "scores.csv":
            yield path.relative_to(evidence), f"data/{path.relative_to(evidence).as_posix()}", path.read_bytes()
