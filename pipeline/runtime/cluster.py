"""Independent pieces of work on a Ray cluster, as `pipeline.runtime.parallel` runs them on one machine.

Ray does the scheduling, retrying and moving of data. Environment variables:

RAY_ADDRESS       where the cluster is, as Ray's own tools read it ("auto" on one of its nodes)
SAMERGING_GPUS    GPUs per piece, a fraction if several pieces share one; default 0
SAMERGING_SHIP    set on a node: copy inputs to its disk even if it sees them, because the disk is faster

A node that sees the driver's folder (shared storage) reads a stage's inputs there. Otherwise they are copied to the
node, once for every group of pieces. A piece whose node dies runs again on another.
"""

import logging
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
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
"""How often a piece runs again because its node or process died; an error in the piece itself is raised at once."""


def is_configured() -> bool:
    """Return whether pieces run on a cluster: RAY_ADDRESS is set."""
    return bool(os.environ.get("RAY_ADDRESS"))


def gpus_per_piece() -> float:
    """Return how many GPUs one piece needs: SAMERGING_GPUS, by default none."""
    setting = os.environ.get("SAMERGING_GPUS", "0")
    try:
        count = float(setting)
    except ValueError:
        count = -1.0
    if not 0 <= count < float("inf") or (count > 1 and count != int(count)):
        raise BenchmarkError(f"SAMERGING_GPUS={setting!r}: expected a fraction of one GPU, or a whole number of them")
    return count


def iter_cluster_results(
    function: Callable[..., Any],
    todo: Sequence[Sequence[Any]],
    title: str,
    need: int,
    done: int,
    inputs: Sequence[Path],
) -> Iterator[tuple[int, Any]]:
    """Yield (index, function(*todo[index])) as pieces end, as `pipeline.runtime.parallel.iter_results` does.

    `inputs`: files and folders that the pieces read, relative to the root. Raises BenchmarkError if there is no Ray, no
    cluster, or no node that could run a piece.
    """
    try:
        import ray
    except ImportError as error:
        raise BenchmarkError(
            "RAY_ADDRESS is set but Ray is not installed; install the optional extra `cluster`, or unset RAY_ADDRESS"
        ) from error
    share, address = gpus_per_piece(), os.environ["RAY_ADDRESS"]
    try:
        _reach(address)
        ray.init(
            runtime_env={"py_modules": [str(Path(pipeline.__file__).parent)]},
            log_to_driver=False,
            logging_level=logging.WARNING,
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise BenchmarkError(f"RAY_ADDRESS={address!r}: no cluster answers there: {error}") from error
    try:
        _require(ray, {"GPU": share} if share else {"CPU": 1, "memory": need}, title)
        options = {"num_gpus": share} if share else {"num_cpus": 1, "memory": need}
        with _marked(Path.cwd()) as mark, tqdm(desc=title, unit="run", total=done + len(todo), initial=done) as bar:
            source = InputLocation(mark, tuple(map(str, _files(inputs))), ray.get_runtime_context().get_node_id())
            remote = ray.remote(_run_piece).options(max_retries=RETRIES, **options)
            waiting = {remote.remote(function, piece, source): index for index, piece in enumerate(todo)}
            try:
                while waiting:
                    (ready,), _ = ray.wait([*waiting])
                    yield waiting.pop(ready), _result(ray, ready, title)
                    bar.update()
            finally:
                for piece in waiting:
                    ray.cancel(piece, force=True)
                _remove_copies(ray, source)
    finally:
        ray.shutdown()


def _reach(address: str) -> None:
    """Raise OSError if nothing listens at host:port, for which Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "/" not in host:
        socket.create_connection((host, int(port)), timeout=10).close()


@dataclass(frozen=True)
class InputLocation:
    """Where the inputs of the pieces are."""

    mark: Path
    """A file in the driver's root with a unique name: a node that sees it sees the inputs too."""
    files: tuple[str, ...]
    """The inputs, relative to the root."""
    node: str
    """The driver's node."""

    @property
    def copy(self) -> Path:
        """The folder of the inputs on a node that has a copy."""
        return Path(tempfile.gettempdir()) / self.mark.name


@contextmanager
def _marked(root: Path) -> Generator[Path, None, None]:
    mark = root / f".samerging-{secrets.token_hex(8)}"
    mark.touch()
    try:
        yield mark
    finally:
        mark.unlink()


def _files(inputs: Sequence[Path]) -> list[Path]:
    """List the inputs that are files, and the files below those that are folders or links to folders."""
    below = (
        Path(folder, name) for path in inputs for folder, _, names in os.walk(path, followlinks=True) for name in names
    )
    return [*filter(Path.is_file, inputs), *sorted(below)]


def _require(ray: ModuleType, resources: dict[str, float], title: str) -> None:
    """Raise BenchmarkError unless some node has the resources of one piece; Ray would wait for such a node forever."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(all(node.get(name, 0) >= amount for name, amount in resources.items()) for node in nodes):
        most = {name: max((node.get(name, 0) for node in nodes), default=0) for name in resources}
        raise BenchmarkError(
            f"{title}: one piece needs {resources}, but the most that nodes of the cluster have is {most}"
        )


def _run_piece(function: Callable[..., Any], piece: Sequence[Any], source: InputLocation) -> Any:
    """Run one piece, on a node."""
    os.chdir(_fetch_inputs(source))
    device()
    return function(*piece)


def _fetch_inputs(source: InputLocation) -> Path:
    """Return the folder from which this node reads the inputs; copy them if it does not see them."""
    if source.mark.exists() and not os.environ.get("SAMERGING_SHIP"):
        return source.mark.parent
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    home = NodeAffinitySchedulingStrategy(source.node, soft=False)
    read = ray.remote(_read).options(num_cpus=0, scheduling_strategy=home)
    source.copy.mkdir(parents=True, exist_ok=True)
    with FileLock(source.copy.with_suffix(".lock")):
        for file in source.files:
            if not (source.copy / file).exists():
                content: np.ndarray = ray.get(read.remote(source.mark.parent / file))
                store.write_bytes(source.copy / file, content.data)
    return source.copy


def _read(path: Path) -> np.ndarray:
    return np.fromfile(path, np.uint8)


def _result(ray: ModuleType, ready: Any, title: str) -> Any:
    try:
        return ray.get(ready)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    except ray.exceptions.RayError as error:
        raise BenchmarkError(f"{title}: a piece was lost, and again in each of {RETRIES} retries: {error}") from error


def _remove_copies(ray: ModuleType, source: InputLocation) -> None:
    """Remove the copies of the inputs from all nodes."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=True) for node in ray.nodes() if node["Alive"]]
    remove = ray.remote(num_cpus=0)(_remove_copy)
    ray.get([remove.options(scheduling_strategy=node).remote(source) for node in nodes])


def _remove_copy(source: InputLocation) -> None:
    shutil.rmtree(source.copy, ignore_errors=True)
    source.copy.with_suffix(".lock").unlink(missing_ok=True)
