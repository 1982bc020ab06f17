"""Atomic reading and writing of files: a reader sees the old file, the new file or none, never half of one.

Bytes are a function of the content alone (sorted JSON keys, fixed float format, no timestamps), so that a rerun of a
stage gives the same hashes.
"""

import csv
import fcntl
import io
import json
import os
import shutil
import struct
import tempfile
import tokenize
import zlib
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from safetensors import SafetensorError, safe_open

from pipeline.runtime.errors import BenchmarkError

if TYPE_CHECKING:
    import torch

REMAKE = "`dvc repro` makes it again"
DAMAGED = (
    OSError, ValueError, EOFError, SyntaxError, TypeError, LookupError, RuntimeError, OverflowError, MemoryError,
    struct.error, tokenize.TokenError, zlib.error, BadZipFile,
)  # fmt: skip
"""What NumPy raises for files that are damaged or of another format."""


class StoreError(BenchmarkError):
    """A file that is missing, damaged or of another format; the message names it."""


@contextmanager
def writing(path: Path, command: str = "dvc repro") -> Generator[None, None, None]:
    """Turn an OSError of the block (disk full, read-only, no permission) into a StoreError that names `path`.

    command: what is to be run again.
    """
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"{path}: cannot be written ({error}); make room or fix the permissions, then run it again ({command})"
        ) from error


@contextmanager
def replacing(path: Path) -> Generator[Path, None, None]:
    """Yield a temporary path next to `path` that takes its place when the block ends without an error."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            mask = os.umask(0)
            os.umask(mask)
            temporary.chmod(0o666 & ~mask)
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def claiming(folder: Path) -> Generator[None, None, None]:
    """Hold `folder` exclusively, empty at first, during the block, and remove it afterwards.

    After an error its content stays until the next claim. Raises StoreError if another process holds it. The lock is
    the kernel's: it ends with the process, however that ends.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            locked = folder.exists() and folder.stat().st_ino == os.fstat(lock).st_ino
        except BlockingIOError:
            locked = False
        if not locked:
            raise StoreError(f"{folder}: another process does the same work; wait until it has ended, or end it")
        with writing(folder):
            for left in folder.iterdir():
                shutil.rmtree(left)
        yield
        shutil.rmtree(folder)
    finally:
        os.close(lock)


def move(written: Path, path: Path) -> None:
    """Move the file or folder `written` to `path`, replacing what is there, never with half of it in place.

    Only an empty folder can be replaced, so that an old folder is first moved next to `written`.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            path.rename(written.with_name(f"{written.name}.old"))
        written.replace(path)


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write `content` to `path`."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Write `content` to `path` as UTF-8."""
    write_bytes(path, content.encode("utf-8"))


def read_text(path: Path) -> str:
    """Return the text of `path`; StoreError if it is missing or not UTF-8."""
    try:
        return path.read_text("utf-8")
    except FileNotFoundError as error:
        raise StoreError(f"{path}: no such file; run the stage that writes it (dvc repro)") from error
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"{path}: cannot be read as text ({error}); {REMAKE}") from error


def write_json(path: Path, content: Any) -> None:
    """Write JSON with sorted keys; NaN and infinities are refused."""
    write_text(path, json.dumps(content, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Return the content of a JSON file; StoreError if it is missing or invalid, or holds NaN or an infinity."""
    try:
        return json.loads(read_text(path), parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{path}: not valid JSON ({error}); {REMAKE}") from error


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number")


def read_yaml(path: Path) -> Any:
    """Return the content of a YAML 1.2 file, as DVC reads it (1e-05 is a float).

    Raises StoreError if the file is missing or invalid.
    """
    try:
        return YAML(typ="safe", pure=True).load(path)  # the parser in C overflows its stack on deep nesting
    except FileNotFoundError as error:
        raise StoreError(f"{path}: no such file") from error
    except (YAMLError, ValueError, LookupError, RecursionError) as error:  # scalars such as 2020-99-99, !!bool x
        raise StoreError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a CSV table with a header line and Unix line endings."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_text(path, buffer.getvalue())


def write_tensors(path: Path, tensors: Mapping[str, "torch.Tensor"]) -> None:
    """Write named tensors as safetensors; StoreError, with the tensor's name, if a value is not finite."""
    from safetensors.torch import save

    for name, tensor in tensors.items():
        if not _finite(tensor):
            raise StoreError(f"{path}: tensor {name!r} holds non-finite values; nothing was written")
    write_bytes(path, save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}))


class TensorFile(Mapping[str, "torch.Tensor"]):
    """The tensors of a safetensors file, by name; each access reads a copy, `shapes` reads only the header.

    The file is mapped into memory only while a tensor is read, so that large files do not stay there. Reading a tensor
    with a value that is not finite raises StoreError.
    """

    def __init__(self, path: Path) -> None:
        """Open `path`; StoreError if it is missing, truncated or not a safetensors file."""
        self._path = path
        with self._open() as file:
            self._names = tuple(file.keys())

    def __getitem__(self, name: str) -> "torch.Tensor":
        if name not in self._names:
            raise KeyError(name)
        with self._open() as file:
            tensor = file.get_tensor(name).clone()
        if not _finite(tensor):
            raise StoreError(f"{self._path}: tensor {name!r} holds non-finite values; {REMAKE}")
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every tensor."""
        with self._open() as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in self._names}

    def _open(self) -> safe_open:
        try:
            return safe_open(self._path, "pt")
        except (OSError, SafetensorError) as error:
            raise StoreError(f"{self._path}: cannot be read as safetensors ({error}); {REMAKE}") from error


def _finite(tensor: "torch.Tensor") -> bool:
    """Return whether no value is infinite or NaN; a finite sum shows that much faster than a look at every value."""
    import torch

    if not tensor.is_floating_point() or bool(torch.isfinite(tensor.sum())):
        return True
    return bool(torch.isfinite(tensor).all())


def write_array(path: Path, array: np.ndarray) -> None:
    """Write one array as .npy."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, array, allow_pickle=False)


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], compress: bool = False) -> None:
    """Write named arrays as one .npz, deflated if `compress`."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        (np.savez_compressed if compress else np.savez)(file, **arrays)  # pyrefly: ignore[bad-argument-type]  # kwds


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a .npz file; StoreError if it is missing or damaged."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = dict(archive)
            if not all(isinstance(array, np.ndarray) for array in arrays.values()):
                raise ValueError("it holds something else")
            return arrays
    except DAMAGED as error:
        raise StoreError(f"{path}: cannot be read as .npz arrays ({error}); {REMAKE}") from error


def read_array(path: Path) -> np.ndarray:
    """Return a .npy array, memory-mapped read-only; StoreError if it is missing or damaged."""
    try:
        return np.lib.format.open_memmap(path, "r")
    except DAMAGED as error:
        raise StoreError(f"{path}: cannot be read as a .npy array ({error}); {REMAKE}") from error
