"""Resumable work: pieces whose results outlive a killed stage, one file each.

The name of a file is a digest of all that its piece depends on: the stage's code, inputs and packages (the folder), the
function and its arguments (the file). Where and in which order pieces ran does not matter. A stage that starts again
computes only the missing results; those of another folder are removed. Pieces run on the cores or the GPU of this
machine, or on a Ray cluster (`pipeline.runtime.cluster`).
"""

import hashlib
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.runtime import cluster, parallel, store

FOLDER = Path("data/.resumable")


class Form(NamedTuple):
    """The file format of results."""

    suffix: str
    write: Callable[[Path, Any], None]
    read: Callable[[Path], Any]


JSON = Form(".json", store.write_json, store.read_json)
"""For numbers, strings, and lists and dictionaries of them."""


@dataclass(frozen=True)
class Resumable:
    """The pieces of work of a stage, for one state of its code, inputs and packages."""

    folder: Path
    """Where the results are."""
    inputs: tuple[Path, ...] = ()
    """Files and folders that the pieces read, among them what the stage writes for them."""

    def run(
        self,
        function: Callable[..., Any],
        pieces: Iterable[Sequence[Any]],
        title: str,
        need: int = 0,
        form: Form = JSON,
    ) -> list[Any]:
        """Return [function(*piece) for piece in pieces], as `form` reads it; compute only what is missing.

        `function`, `title` and `need` as in `pipeline.runtime.parallel.iter_results`. The `repr` of an argument must
        identify it: numbers, strings, paths, parameters, and tuples and dataclasses of them.
        """
        todo = [tuple(piece) for piece in pieces]
        names = [_digest((function.__module__, function.__qualname__, *piece)) for piece in todo]
        files = [self.folder / f"{name}{form.suffix}" for name in names]
        pieces_of = dict(zip(files, todo, strict=True))
        missing = [file for file in pieces_of if not file.exists()]
        left, done = [pieces_of[file] for file in missing], len(pieces_of) - len(missing)
        if left and cluster.is_configured():
            results = cluster.iter_cluster_results(function, left, title, need, done, self.inputs)
        else:
            results = parallel.iter_results(function, left, title, need, done)
        for index, result in results:
            form.write(missing[index], result)
        return [form.read(file) for file in files]

    def clear(self) -> None:
        """Remove all results."""
        shutil.rmtree(self.folder, ignore_errors=True)


def open_work(stage: str, inputs: Sequence[Path], *basis: Any) -> Resumable:
    """Open the work of a stage and remove its results of any other basis: its code, inputs and packages."""
    work = Resumable(FOLDER / stage / _digest(basis), tuple(inputs))
    for other in work.folder.parent.glob("*"):
        if other != work.folder:
            shutil.rmtree(other)
    return work


def _digest(basis: Any) -> str:
    return hashlib.sha256(repr(basis).encode("utf-8")).hexdigest()[:32]
