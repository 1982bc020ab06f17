"""Files in and out, atomically: a reader sees the old file, the new file or none, never half of one.

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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from pipeline.runtime.errors import BenchmarkError

MEND = "`dvc repro` makes it anew"
DAMAGED = (
    OSError, ValueError, EOFError, SyntaxError, TypeError, LookupError, RuntimeError, OverflowError, MemoryError,
    struct.error, tokenize.TokenError, zlib.error, BadZipFile,
)  # fmt: skip
"""What NumPy raises for files that are not what they claim to be."""


class StoreError(BenchmarkError):
    """A file that is missing, truncated or not what it should be; the message names it."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """StoreError that names `path` where the disk refuses what the block does: full, read-only, not ours."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"{path}: cannot be written ({error}); make room or mend the permissions, then run it again (dvc repro)"
        ) from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that takes its place when the block ends without an error."""
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
def claiming(folder: Path) -> Iterator[None]:
    """Have `folder` empty and alone during the block; afterwards it is gone, after an error only emptied by the next.

    StoreError if another process has it. The lock is the kernel's: it ends with the process, however that ends.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            mine = folder.exists() and folder.stat().st_ino == os.fstat(lock).st_ino
        except BlockingIOError:
            mine = False
        if not mine:
            raise StoreError(f"{folder}: another process does the same work; wait until it has ended, or end it")
        with writing(folder):
            for left in folder.iterdir():
                shutil.rmtree(left)
        yield
        shutil.rmtree(folder)
    finally:
        os.close(lock)


def move(written: Path, path: Path) -> None:
    """Let a file or folder take the place of `path`: others see the old one, none or the new one, never half of one.

    An old folder goes to `written`'s place: only an empty one can be replaced.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            path.rename(written.with_name(f"{written.name}.old"))
        written.replace(path)


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path`."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Write `content` to `path` as UTF-8."""
    write_bytes(path, content.encode("utf-8"))


def read_text(path: Path) -> str:
    """The text of `path`; StoreError if it is missing or no UTF-8."""
    try:
        return path.read_text("utf-8")
    except FileNotFoundError as error:
        raise StoreError(f"{path}: no such file; run the stage that writes it (dvc repro)") from error
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"{path}: cannot be read as text ({error}); {MEND}") from error


def write_json(path: Path, content: Any) -> None:
    """Write JSON with sorted keys; NaN and infinities are refused."""
    write_text(path, json.dumps(content, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """The content of a JSON file; StoreError if it is missing or broken, or holds NaN or an infinity."""
    try:
        return json.loads(read_text(path), parse_constant=_refused)
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{path}: not valid JSON ({error}); {MEND}") from error


def _refused(constant: str) -> None:
    raise ValueError(f"{constant} is no number")


def read_yaml(path: Path) -> Any:
    """The content of a YAML 1.2 file, as DVC reads it (1e-05 is a float); StoreError if it is missing or broken."""
    try:
        return YAML(typ="safe").load(path)
    except FileNotFoundError as error:
        raise StoreError(f"{path}: no such file") from error
    except (YAMLError, ValueError, LookupError, RecursionError) as error:  # of scalars: 2020-99-99, !!bool x
        raise StoreError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a CSV table with a header line and Unix line ends."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_text(path, buffer.getvalue())


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write named tensors as safetensors; non-finite values are refused with the tensor's name."""
    for name, tensor in tensors.items():
        if not _finite(tensor):
            raise StoreError(f"{path}: tensor {name!r} holds non-finite values; nothing was written")
    write_bytes(path, save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}))


class TensorFile(Mapping[str, torch.Tensor]):
    """The tensors of a safetensors file, each a copy, read when it is asked for; `shapes` reads only the header.

    The file is mapped into memory only while a tensor is read: what has been read of many large files does not stay
    there. A tensor with a value that is not finite is refused with StoreError.
    """

    def __init__(self, path: Path) -> None:
        """Of `path`; StoreError if it is missing, truncated or no safetensors file."""
        self._path = path
        with self._open() as file:
            self._names = tuple(file.keys())

    def __getitem__(self, name: str) -> torch.Tensor:
        if name not in self._names:
            raise KeyError(name)
        with self._open() as file:
            tensor = file.get_tensor(name).clone()
        if not _finite(tensor):
            raise StoreError(f"{self._path}: tensor {name!r} holds non-finite values; {MEND}")
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor's shape."""
        with self._open() as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in self._names}

    def _open(self) -> safe_open:
        try:
            return safe_open(self._path, "pt")
        except (OSError, SafetensorError) as error:
            raise StoreError(f"{self._path}: cannot be read as safetensors ({error}); {MEND}") from error


def _finite(tensor: torch.Tensor) -> bool:
    """Whether no value is infinite or no number; a finite sum says so at a fraction of the cost of looking at each."""
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
        (np.savez_compressed if compress else np.savez)(file, **arrays)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a .npz; StoreError if it is missing or broken."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            found = dict(arrays)
            if not all(isinstance(array, np.ndarray) for array in found.values()):
                raise ValueError("it holds something else")
            return found
    except DAMAGED as error:
        raise StoreError(f"{path}: cannot be read as .npz arrays ({error}); {MEND}") from error


def read_array(path: Path) -> np.ndarray:
    """One .npy array, memory-mapped read-only; StoreError if it is missing or truncated."""
    try:
        return np.lib.format.open_memmap(path, "r")
    except DAMAGED as error:
        raise StoreError(f"{path}: cannot be read as a .npy array ({error}); {MEND}") from error
