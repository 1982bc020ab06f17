"""Stages compute on one device: a pretended GPU gives the answers of the CPU, which computes with one thread.

No sum then depends on the number of cores.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor

from benchmarks.data_free import METHODS, merged
from pipeline import methods
from pipeline.calibration import information
from pipeline.calibration.problem import Problem
from pipeline.merges.solution import Solution
from pipeline.models.task_vectors import TaskVectors
from pipeline.runtime import store
from pipeline.runtime.schema import Schedule
from pipeline.steps.merge import merge_data_free
from tests.support import small_run, toy
from tests.support.pretend_gpu import GPU, OnGpu, pretended

pytestmark = pytest.mark.long

IDLE = {f"stages.{name}" for name in ("check", "train", "prepare", "collect", "render")}
"""The stages that compute neither merges nor scores."""
EXACT = ("teachers", "merges", "answers", "scores")
"""Folders of data/."""


def methods_with(kind: str) -> list[str]:
    """List the methods whose module has this function."""
    return [name for name in methods.names() if hasattr(methods.load(name), kind)]


def check_close(solution: Solution, reference: Solution) -> None:
    """Check that coefficients, deltas and extras agree in double precision, but for the order of sums."""
    for actual, expected in ((solution.coefficients, reference.coefficients), (solution.delta, reference.delta)):
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)
    assert (solution.extras is None) == (reference.extras is None)
    if reference.extras is not None:
        torch.testing.assert_close(dict(solution.extras.tensors), dict(reference.extras.tensors), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", methods_with("merge"))
def test_a_data_free_method_merges_on_the_device(name: str):
    method, (base, experts) = methods.load(name), transformer_experts()
    groups = [*experts[0]]
    expected = merge_data_free(method, TaskVectors(base, experts, groups, torch.float64), method.Params(), toy.TASKS)
    with pretended():
        vectors = TaskVectors(base, experts, groups, torch.float64, device="cuda")
        assert isinstance(vectors[groups[0]], OnGpu)
        merge = merge_data_free(method, vectors, method.Params(), toy.TASKS)
        moved = [result.cpu() for result in merge.solutions]
    for solution, reference in zip(moved, expected.solutions, strict=True):
        check_close(solution, reference)


@pytest.mark.parametrize("name", METHODS)
def test_a_data_free_merge_is_measured_on_the_device(name: str):
    base, experts = transformer_experts()
    with pretended():
        models = [*merged(name, base, experts, GPU)]
    assert models
    for model in models:
        assert not any(isinstance(tensor, OnGpu) for tensor in model.values())


@pytest.mark.parametrize("name", methods_with("calibrate"))
def test_a_calibrated_method_calibrates_on_the_device(name: str, monkeypatch: pytest.MonkeyPatch):
    method, problem = methods.load(name), toy.clip_problem()
    params = method.Params(**{"epochs": 2} if "epochs" in method.Params.model_fields else {})
    schedule = Schedule(lr=0.01, steps=3, batch_size=4)
    expected = method.calibrate(problem, schedule, 0, params)
    monkeypatch.setattr(information, "vmap", one_by_one)
    monkeypatch.setattr(information, "grad", slope)
    with pretended():
        solution = method.calibrate(on_gpu(problem), schedule, 0, params).cpu()
    check_close(solution, expected)


def stages(root: Path) -> Iterator[Callable[[], None]]:
    """Yield, in order, a function that runs each stage that computes merges or scores."""
    for command in small_run.ordered(root):
        _, _, module, *arguments = command.split()
        if module not in IDLE:
            script = import_module(module)
            yield partial(script.STAGE.run, script.run, dict(zip(script.STAGE.arguments, arguments, strict=True)))


def test_every_stage_gives_the_answers_of_the_cpu(small: Path, tmp_path: Path):
    copy = small_run.copy(small, tmp_path / "copy")
    with small_run.inside(copy), pretended():
        for run in stages(copy):
            run()
    for folder in EXACT:
        assert hashes(copy / "data" / folder) == hashes(small / "data" / folder)
    for file in (small / "data/diagnostics").rglob("*.csv"):
        actual, expected = pd.read_csv(copy / file.relative_to(small)), pd.read_csv(file)
        pd.testing.assert_frame_equal(actual, expected, rtol=1e-4, atol=1e-5)
    records = [store.read_json(path) for path in (copy / "data/runs").glob("merge-*")]
    assert {record["device"] for record in records} == {"a pretended GPU"}


def test_stages_write_results_of_one_thread(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    copy, write, threads = small_run.copy(small, tmp_path / "copy"), store.write_tensors, []

    def record_threads(path: Path, tensors: dict[str, Tensor]) -> None:
        threads.append(torch.get_num_threads())
        write(path, tensors)

    monkeypatch.setattr(store, "write_tensors", record_threads)
    with small_run.inside(copy):
        for run in stages(copy):
            torch.set_num_threads(2)
            run()
    assert len(threads) > 10
    assert {*threads} == {1}


@pytest.mark.parametrize(
    "mixed",
    [
        lambda there, here: there + here,
        lambda there, here: here.add_(there),
        lambda there, here: torch.stack([there, here]),
        lambda there, here: torch.where(here > 0, there, 0.0),
        lambda there, here: here[there.long()],
        lambda there, _: there.numpy(),
        lambda there, _: there + torch.zeros(2, device="cpu"),
    ],
)
def test_the_pretended_gpu_refuses_what_cuda_refuses(mixed: Callable[[Tensor, Tensor], object]):
    with pretended(), pytest.raises((RuntimeError, TypeError), match="cuda:0"):
        mixed(torch.ones(2).to("cuda"), torch.ones(2))


def test_the_pretended_gpu_allows_what_cuda_allows():
    with pretended():
        there, here = torch.ones(2, device=GPU), torch.ones(2)
        assert isinstance(there * torch.tensor(2.0), OnGpu)
        assert isinstance(there[torch.tensor([0])], OnGpu)
        assert isinstance(here.to(there), OnGpu)
        assert not isinstance(there.cpu(), OnGpu)
        assert not isinstance(here.copy_(there) + 1, OnGpu)
        assert there.cpu().numpy().tolist() == there.tolist() == [1, 1]


def transformer_experts() -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
    """theta_0 and the experts of `toy.clip_problem`."""
    problem = toy.clip_problem()
    return problem.base, [
        {name: problem.base[name] + stacked[task] for name, stacked in problem.vectors.items()}
        for task in range(len(problem.tasks))
    ]


def on_gpu(problem: Problem) -> Problem:
    """Move the problem to the pretended GPU."""
    moved = {
        key: tuple(tensor.to("cuda") for tensor in getattr(problem, key)) for key in ("heads", "examples", "teachers")
    }
    weights = {
        key: {name: tensor.to("cuda") for name, tensor in getattr(problem, key).items()} for key in ("base", "vectors")
    }
    return replace(problem, **moved, **weights)


def slope(function: Callable[..., Tensor]) -> Callable[..., dict[str, Tensor]]:
    """`torch.func.grad` for a dict, without wrappers that would hide a tensor's device."""

    def gradient(moving: dict[str, Tensor], *rest: Tensor) -> dict[str, Tensor]:
        leaves = {name: tensor.detach().requires_grad_() for name, tensor in moving.items()}
        slopes = torch.autograd.grad(function(leaves, *rest), [*leaves.values()])
        return dict(zip(leaves, slopes, strict=True))

    return gradient


def one_by_one(function: Callable[..., dict[str, Tensor]], in_dims: object) -> Callable[..., dict[str, Tensor]]:
    """`torch.func.vmap` over all arguments but the first, as a loop."""

    def loop(moving: dict[str, Tensor], *rest: Tensor) -> dict[str, Tensor]:
        results = [function(moving, *row) for row in zip(*rest, strict=True)]
        return {name: torch.stack([result[name] for result in results]) for name in moving}

    return loop


def hashes(folder: Path) -> dict[str, str]:
    """{relative path: SHA-256} of every file."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
