"""Cells: pieces of a stage's work whose results outlive a stage that is killed, one file each.

A cell's file is named by everything that it depends on: the stage's code and inputs (the folder), the function and its
arguments (the file). What ran it and in which order is no part of that. A stage that is started again therefore does
only what is not there yet; of other code or inputs nothing is left. Cells run on the cores or the GPU of this machine,
or on a Ray cluster (`pipeline.cluster`).
"""

import hashlib
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pipeline import cluster, parallel, store

FOLDER = Path("data/.cells")


class Form(NamedTuple):
    """How results are kept in files."""

    suffix: str
    write: Callable[[Path, Any], None]
    read: Callable[[Path], Any]


JSON = Form(".json", store.write_json, store.read_json)
"""For numbers, texts, lists and dictionaries of them."""


@dataclass(frozen=True)
class Cells:
    """The cells of a stage with certain code and inputs."""

    folder: Path
    inputs: tuple[Path, ...] = ()
    """What the pieces read."""

    def run(
        self,
        function: Callable[..., Any],
        pieces: Iterable[Sequence[Any]],
        title: str,
        need: int = 0,
        form: Form = JSON,
    ) -> list[Any]:
        """[function(*piece) for piece in pieces] as `form` reads it; only what is not there yet is computed.

        `function` and `need` as in `pipeline.parallel.completed`. The arguments must tell all in their `repr`: numbers,
        texts, paths, parameters, and tuples and dataclasses of them.
        """
        todo = [tuple(piece) for piece in pieces]
        names = [_digest((function.__module__, function.__qualname__, *piece)) for piece in todo]
        files = [self.folder / f"{name}{form.suffix}" for name in names]
        pieces_of = dict(zip(files, todo, strict=True))
        missing = [file for file in pieces_of if not file.exists()]
        work, done = [pieces_of[file] for file in missing], len(pieces_of) - len(missing)
        if work and cluster.chosen():
            results = cluster.completed(function, work, title, need, done, self.inputs)
        else:
            results = parallel.completed(function, work, title, need, done)
        for index, result in results:
            form.write(missing[index], result)
        return [form.read(file) for file in files]

    def clear(self) -> None:
        """Remove every cell."""
        shutil.rmtree(self.folder, ignore_errors=True)


def cells(stage: str, inputs: Sequence[Path], *basis: Any) -> Cells:
    """The cells of a stage; `basis` tells its code and what is in its inputs. Those of another basis are removed."""
    found = Cells(FOLDER / stage / _digest(basis), tuple(inputs))
    for other in found.folder.parent.glob("*"):
        if other != found.folder:
            shutil.rmtree(other)
    return found


def _digest(basis: Any) -> str:
    return hashlib.sha256(repr(basis).encode("utf-8")).hexdigest()[:32]
