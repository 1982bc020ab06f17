"""A Ray cluster of two nodes computes the same bytes as one process, even when a node is killed halfway."""

import hashlib
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from pipeline import methods
from pipeline.runtime import cluster, store
from pipeline.runtime.errors import BenchmarkError
from pipeline.runtime.resumable import Resumable
from pipeline.runtime.schema import Schedule
from pipeline.steps.calibrate import Setting
from pipeline.steps.teach import compute_teacher_logits
from pipeline.studies._trials import score_trial
from tests.support import toy

pytestmark = pytest.mark.long

NODE = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": 80 << 20, "include_dashboard": False}
INPUTS = (Path("data/suites/tiny"), Path("data/teachers/tiny"))


@contextmanager
def two_nodes() -> Iterator[Cluster]:
    """Two nodes with one core each, whose workers find `hash_inputs`, which is not part of the package."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        patch.setenv("PYTHONPATH", str(toy.ROOT))
        ray_cluster = Cluster()
        for _ in range(2):
            ray_cluster.add_node(**NODE)
        ray_cluster.wait_for_nodes()
        yield ray_cluster
        ray.shutdown()
        ray_cluster.shutdown()


@pytest.fixture(scope="module")
def shared_nodes() -> Iterator[Cluster]:
    """The cluster of the tests that set nothing on its nodes."""
    with two_nodes() as ray_cluster:
        yield ray_cluster


@pytest.fixture
def nodes(shared_nodes: Cluster, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """`shared_nodes`, in RAY_ADDRESS."""
    monkeypatch.setenv("RAY_ADDRESS", shared_nodes.address)
    return shared_nodes


@pytest.fixture
def taught(workspace: Path, pristine_suite: Path) -> Path:
    """A checkout with a suite and its teachers."""
    shutil.copytree(pristine_suite, workspace / INPUTS[0])
    for task in toy.TASKS:
        store.write_array(INPUTS[1] / f"{task}.npy", compute_teacher_logits(INPUTS[0], task, "train").numpy())
    return workspace


def pieces(steps: int) -> list[tuple[Setting, int, int, str]]:
    """Six calibrations."""
    params = methods.load("distillation").Params(temperature=2.0, initial_coefficient=0.0, weight_decay=0.0)
    setting = Setting(*INPUTS, "distillation", params, Schedule(lr=0.01, steps=steps, batch_size=4), "train", "float32")
    return [(setting, 8, seed, "test") for seed in range(6)]


def hash_inputs(inputs: tuple[Path, ...], number: int) -> dict[str, Any]:
    """Return the folder that a piece runs in and the hashes of its inputs there."""
    walks = (walk for path in inputs for walk in os.walk(path, followlinks=True))
    files = sorted(Path(folder, name) for folder, _, names in walks for name in names)
    hashes = {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    return {"folder": str(Path.cwd()), "files": hashes}


def contents(work: Resumable) -> dict[str, bytes]:
    """Read the files of the finished pieces."""
    return {file.name: file.read_bytes() for file in work.folder.iterdir()}


@pytest.fixture
def alone(taught: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """The pieces as computed by this process."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("SAMERGING_WORKERS", "1")
    work = Resumable(Path("alone"), INPUTS)
    work.run(score_trial, pieces(30), "alone")
    return contents(work)


def test_nothing_is_lost_when_a_node_dies(alone: dict[str, bytes], nodes: Cluster):
    work = Resumable(Path("shared"), INPUTS)
    victim = nodes.add_node(**NODE)
    nodes.wait_for_nodes()

    def kill() -> None:
        while not (work.folder.exists() and contents(work)):
            time.sleep(0.05)
        nodes.remove_node(victim, allow_graceful=False)

    killer = threading.Thread(target=kill)
    killer.start()
    work.run(score_trial, pieces(30), "shared")
    killer.join()
    assert victim not in nodes.list_all_nodes()
    assert contents(work) == alone
    assert not [*Path().glob(".samerging-*")]


def test_inputs_are_shipped_to_nodes_that_do_not_see_them(taught: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SAMERGING_SHIP", "1")
    with two_nodes() as shipping:
        monkeypatch.setenv("RAY_ADDRESS", shipping.address)
        before = {*Path(tempfile.gettempdir()).glob(".samerging-*")}
        linked = Path("data/replicate")
        linked.mkdir()
        (linked / "images").symlink_to((INPUTS[0] / "images").resolve(), target_is_directory=True)
        inputs = (*INPUTS, linked)
        pieces_of_work = [(inputs, number) for number in range(2)]
        results = Resumable(Path("shipped"), inputs).run(hash_inputs, pieces_of_work, "shipped")
        here = hash_inputs(inputs, 0)
        assert f"{linked}/images/train/cats.npy" in here["files"]
        assert all(files == here["files"] for files in (result["files"] for result in results))
        assert here["folder"] not in {result["folder"] for result in results}
        assert {*Path(tempfile.gettempdir()).glob(".samerging-*")} == before


def test_copies_are_removed_after_an_error(taught: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SAMERGING_SHIP", "1")
    with two_nodes() as shipping:
        monkeypatch.setenv("RAY_ADDRESS", shipping.address)
        before = {*Path(tempfile.gettempdir()).glob(".samerging-*")}
        broken = [(piece[0], piece[1], piece[2], "nowhere") for piece in pieces(1)[:2]]
        with pytest.raises(BenchmarkError, match="nowhere"):
            Resumable(Path("broken"), INPUTS).run(score_trial, broken, "broken")
        assert {*Path(tempfile.gettempdir()).glob(".samerging-*")} == before


def test_an_error_of_a_piece_is_raised_unchanged(taught: Path, nodes: Cluster):
    broken = [(piece[0], piece[1], piece[2], "nowhere") for piece in pieces(1)[:1]]
    with pytest.raises(BenchmarkError, match="nowhere"):
        Resumable(Path("broken"), INPUTS).run(score_trial, broken, "broken")
    with pytest.raises(BenchmarkError, match=r"one piece needs .*'memory'.*the most that nodes of the cluster have"):
        Resumable(Path("large"), INPUTS).run(score_trial, pieces(1), "large", need=1 << 60)


def test_a_missing_cluster_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(BenchmarkError, match=r"RAY_ADDRESS='127\.0\.0\.1:1': no cluster answers there"):
        Resumable(tmp_path, ()).run(score_trial, pieces(1), "none")


@pytest.mark.parametrize("value", ["-1", "1.5", "half", "inf", "nan"])
def test_a_wrong_share_of_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch, value: str):
    monkeypatch.setenv("SAMERGING_GPUS", value)
    with pytest.raises(BenchmarkError, match="SAMERGING_GPUS"):
        cluster.gpus_per_piece()
