"""Resumable on a Ray cluster: what `pipeline.runtime.parallel` is on one machine. Ray schedules, retries and moves data; we do not.

RAY_ADDRESS       where the cluster is, as Ray's own tools read it ("auto" on a node of it)
SAMERGING_GPUS    GPUs that one cell needs, a fraction if several share one; default 0
SAMERGING_SHIP    on a node, if set: ship inputs although it sees them, because its own disk is faster

The inputs of a stage are read where the driver has them if a node sees that folder too (shared storage). Otherwise they
are shipped, once for every node. A cell whose node dies is run again elsewhere.
"""

import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from filelock import FileLock
from tqdm import tqdm

import pipeline
from pipeline.runtime import store
from pipeline.runtime.device import device
from pipeline.runtime.errors import BenchmarkError

RETRIES = 10
"""How often a cell is run again because its node or process died; an error of the cell itself is raised at once."""


def chosen() -> bool:
    """Whether cells run on a cluster: RAY_ADDRESS is set."""
    return bool(os.environ.get("RAY_ADDRESS"))


def gpus() -> float:
    """GPUs that one cell needs: SAMERGING_GPUS, or none."""
    given = os.environ.get("SAMERGING_GPUS", "0")
    try:
        count = float(given)
    except ValueError:
        count = -1.0
    if not 0 <= count < float("inf") or (count > 1 and count != int(count)):
        raise BenchmarkError(f"SAMERGING_GPUS={given!r}: expected a fraction of one GPU, or a whole number of them")
    return count


def completed(
    function: Callable[..., Any],
    todo: Sequence[Sequence[Any]],
    title: str,
    need: int,
    done: int,
    inputs: Sequence[Path],
) -> Iterator[tuple[int, Any]]:
    """As `pipeline.runtime.parallel.completed`; `inputs`: files and folders that the pieces read, relative to the root."""
    try:
        import ray
    except ImportError as error:
        raise BenchmarkError(
            "RAY_ADDRESS is set but Ray is not installed; install the optional extra `cluster`, or unset RAY_ADDRESS"
        ) from error
    share, address = gpus(), os.environ["RAY_ADDRESS"]
    try:
        _reach(address)
        ray.init(
            runtime_env={"py_modules": [str(Path(pipeline.__file__).parent)]},
            log_to_driver=False,
            logging_level="WARNING",
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise BenchmarkError(f"RAY_ADDRESS={address!r}: no cluster answers there: {error}") from error
    try:
        wanted = {"GPU": share} if share else {"CPU": 1, "memory": need}
        _require(ray, wanted, title)
        options = {"num_gpus": share} if share else {"num_cpus": 1, "memory": need}
        with _marked(Path.cwd()) as mark, tqdm(desc=title, unit="run", total=done + len(todo), initial=done) as bar:
            source = Source(mark, tuple(map(str, _files(inputs))), ray.get_runtime_context().get_node_id())
            cell = ray.remote(max_retries=RETRIES, **options)(_cell)
            waiting = {cell.remote(function, piece, source): index for index, piece in enumerate(todo)}
            while waiting:
                (ready,), _ = ray.wait([*waiting])
                yield waiting.pop(ready), _result(ray, ready, title)
                bar.update()
            _forget_everywhere(ray, source)
    finally:
        ray.shutdown()


def _reach(address: str) -> None:
    """Raise OSError if nothing listens at host:port; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "/" not in host:
        socket.create_connection((host, int(port)), timeout=10).close()


@dataclass(frozen=True)
class Source:
    """Where the inputs of the cells are."""

    mark: Path
    """A file in the driver's root, of a name that no other run has: a node that sees it sees the inputs too."""
    files: tuple[str, ...]
    """The inputs, relative to the root."""
    node: str
    """The driver's node."""

    @property
    def copy(self) -> Path:
        """The folder of the inputs on a node to which they were shipped."""
        return Path(tempfile.gettempdir()) / self.mark.name


@contextmanager
def _marked(root: Path) -> Iterator[Path]:
    mark = root / f".samerging-{secrets.token_hex(8)}"
    mark.touch()
    try:
        yield mark
    finally:
        mark.unlink()


def _files(inputs: Sequence[Path]) -> list[Path]:
    found = [file for path in inputs for file in ([path] if path.is_file() else sorted(path.rglob("*")))]
    return [file for file in found if file.is_file()]


def _require(ray: ModuleType, wanted: dict[str, float], title: str) -> None:
    """Raise unless some node could ever run one cell; Ray would wait for such a node for ever."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(all(node.get(name, 0) >= amount for name, amount in wanted.items()) for node in nodes):
        most = {name: max((node.get(name, 0) for node in nodes), default=0) for name in wanted}
        raise BenchmarkError(f"{title}: one cell needs {wanted}, but the most that nodes of the cluster have is {most}")


def _cell(function: Callable[..., Any], piece: Sequence[Any], source: Source) -> Any:
    """One cell, on a node."""
    os.chdir(_place(source))
    device()
    return function(*piece)


def _place(source: Source) -> Path:
    """The folder on this node from which the inputs can be read; they are fetched if they are not there yet."""
    if source.mark.exists() and not os.environ.get("SAMERGING_SHIP"):
        return source.mark.parent
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    home = NodeAffinitySchedulingStrategy(source.node, soft=False)
    read = ray.remote(num_cpus=0, scheduling_strategy=home)(_read)
    source.copy.mkdir(parents=True, exist_ok=True)
    with FileLock(source.copy.with_suffix(".lock")):
        for file in source.files:
            if not (source.copy / file).exists():
                store.write_bytes(source.copy / file, ray.get(read.remote(source.mark.parent / file)).data)
    return source.copy


def _read(path: Path) -> np.ndarray:
    return np.fromfile(path, np.uint8)


def _result(ray: ModuleType, ready: Any, title: str) -> Any:
    try:
        return ray.get(ready)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    except ray.exceptions.RayError as error:
        raise BenchmarkError(f"{title}: a cell was lost and {RETRIES} times run again in vain: {error}") from error


def _forget_everywhere(ray: ModuleType, source: Source) -> None:
    """Remove what was shipped."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=True) for node in ray.nodes() if node["Alive"]]
    forget = ray.remote(num_cpus=0)(_forget)
    ray.get([forget.options(scheduling_strategy=node).remote(source) for node in nodes])


def _forget(source: Source) -> None:
    shutil.rmtree(source.copy, ignore_errors=True)
    source.copy.with_suffix(".lock").unlink(missing_ok=True)
