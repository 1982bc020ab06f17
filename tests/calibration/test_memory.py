"""Memory of a calibration: the estimate against measured use, and the error where it does not fit."""

import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pipeline import methods
from pipeline.calibration import memory
from pipeline.calibration.problem import Footprint, Problem
from pipeline.embedded.training import MEAN, STD
from pipeline.models.encoder import Transformer
from pipeline.models.suite import Suite, SuiteFolder, Task
from pipeline.models.weights import FROZEN
from pipeline.runtime.schema import Schedule
from tests.support import toy, toy_texts

CPU = torch.device("cpu")


def make_suite(width: int, layers: int, patch: int, size: int) -> Suite:
    """Return a suite of one task on a tower of these dimensions."""
    vision = {"layers": layers, "width": width, "head_width": 32, "patch_size": patch, "image_size": size}
    model = {**toy.CLIP, "vision_cfg": vision}
    return Suite(name="one", tasks=(Task(name="a", classes=("b",)),), model=model, mean=MEAN, std=STD, groups=())


def blank(suite: Suite, count: int = 1) -> Tensor:
    """Return black images for a suite."""
    size = suite.model["vision_cfg"]["image_size"]
    return torch.zeros(count, size, size, 3, dtype=torch.uint8)


def saved_bytes(encoder: Transformer, examples: Tensor) -> int:
    """Return the bytes that autograd saves for the backward pass of the examples, without the weights."""
    rng = torch.Generator().manual_seed(0)
    leaves = {name: torch.randn(shape, generator=rng).requires_grad_() for name, shape in encoder.shapes().items()}
    seen: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        features = encoder(leaves, examples)
    assert features.requires_grad
    return sum(seen.values())


@pytest.mark.parametrize("shape", [(64, 2, 7, 28), (96, 4, 7, 28), (128, 3, 8, 64)])
def test_activations_are_estimated_within_15_percent(shape: tuple[int, int, int, int]):
    suite = make_suite(*shape)
    encoder = suite.encoder()
    measured = (saved_bytes(encoder, blank(suite, 12)) - saved_bytes(encoder, blank(suite, 4))) / 8
    assert 0.85 * measured <= memory.activation_bytes(encoder, blank(suite)) <= 1.15 * measured


@pytest.mark.parametrize("kind", toy_texts.MODELS)
@pytest.mark.parametrize(("width", "layers", "length", "ratio"), [(64, 2, 12, 4), (96, 4, 40, 4), (96, 4, 40, 2)])
def test_activations_of_texts_are_estimated_within_15_percent(
    kind: str, width: int, layers: int, length: int, ratio: int
):
    sizes = {"width": width, "layers": layers, "positions": length} | (
        {"hidden": ratio * width} if kind == "bert" else {}
    )
    encoder = toy_texts.suite_of(toy_texts.MODELS[kind] | sizes).encoder()
    texts = toy_texts.draw_texts(12, length, seed=0)
    measured = (saved_bytes(encoder, texts) - saved_bytes(encoder, texts[:4])) / 8
    assert 0.85 * measured <= memory.activation_bytes(encoder, texts) <= 1.15 * measured


def test_a_pass_holds_at_least_one_image_and_no_more_than_fit():
    small, large = make_suite(96, 4, 7, 28), make_suite(4096, 100, 4, 224)
    for suite in (small, large):
        count = limit(suite)
        assert count >= 1
        assert count == 1 or count * activation_bytes(suite) <= memory.ACTIVATIONS["cpu"]
    assert limit(large) == 1
    assert memory.examples_per_pass(small.encoder(), blank(small), torch.device("cuda")) > limit(small)


def limit(suite: Suite) -> int:
    """Return how many images of a suite go through its encoder at once."""
    return memory.examples_per_pass(suite.encoder(), blank(suite), CPU)


def activation_bytes(suite: Suite) -> int:
    """Return the bytes of the activations of an image of a suite."""
    return memory.activation_bytes(suite.encoder(), blank(suite))


def set_free_memory(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=free))


def test_the_estimate_is_the_sum_of_its_parts(pristine_suite: Path):
    folder = SuiteFolder(pristine_suite)
    model = 4 * sum(folder.base()[name].numel() for name in folder.suite.groups)
    frozen = folder.base()["proj"].nbytes
    images = 3 * 5 * 14 * 14 * 3
    through = 3 * 2 * activation_bytes(folder.suite)  # a batch of two images of every task
    expected = (3 + 4) * model + frozen + through + images + memory.RUNTIME
    assert memory.estimate_memory(folder, "train", 5, 2, CPU, Footprint()) == expected
    whole = sum(int(np.prod(folder.examples("train", task).shape)) for task in folder.suite.task_names)
    assert memory.estimate_memory(folder, "train", 10**6, 2, CPU, Footprint()) == expected - images + whole


def test_a_pass_holds_between_one_batch_and_the_batches_of_a_step():
    large, footprint = make_suite(4096, 100, 4, 224), Footprint()
    assert limit(large) == 1
    assert memory.pass_bytes(large, blank(large), 50, 16, CPU, footprint) == 16 * activation_bytes(large)
    small = make_suite(96, 4, 7, 28)
    most = limit(small)
    for batch in (1, most - 1, most, 2 * most):  # of the one task
        assert memory.pass_bytes(small, blank(small), 10**6, batch, CPU, footprint) == batch * activation_bytes(small)
    few = Footprint(examples=4)
    assert memory.pass_bytes(small, blank(small), 10**6, 1, CPU, few) == 4 * activation_bytes(small)


class Live(TorchDispatchMode):
    """Count the bytes of live tensors, including those `held` before, and their peak."""

    def __init__(self, held: Iterable[Tensor]) -> None:
        super().__init__()
        sizes = {tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in held}
        self.now = self.peak = sum(sizes.values())
        self.known = {*sizes}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        """Count what an operation returns until it dies."""
        result = function(*args, **(kwargs or {}))
        for storage in [tensor.untyped_storage() for tensor in tree_leaves(result) if isinstance(tensor, Tensor)]:
            if storage._cdata not in self.known:
                self.known.add(storage._cdata)
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._forget, storage._cdata, storage.nbytes())
        return result

    def _forget(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


def wide_problem(tasks: int, examples: int) -> tuple[Problem, Suite]:
    """Return a float32 problem whose weights outweigh its activations, and its suite."""
    suite = make_suite(128, 4, 7, 14)
    rng = torch.Generator().manual_seed(0)
    _, base = toy.clip_weights(0, suite.model)
    groups = tuple(name for name in base if name not in FROZEN)
    vectors = {name: 0.02 * torch.randn(tasks, *base[name].shape, generator=rng) for name in groups}
    images = tuple(torch.randint(256, (examples, 14, 14, 3), generator=rng, dtype=torch.uint8) for _ in range(tasks))
    shapes = ((3, 16), (examples, 3))
    heads, teachers = (tuple(torch.randn(shape, generator=rng) for _ in range(tasks)) for shape in shapes)
    names = tuple("abcd"[:tasks])
    suite_tasks = tuple(Task(name=name, classes=("x", "y", "z")) for name in names)
    suite = suite.model_copy(update={"tasks": suite_tasks, "groups": groups})
    return Problem(suite.encoder(), base, vectors, heads, images, teachers, names), suite


def wordy_problem(tasks: int, examples: int) -> tuple[Problem, Suite]:
    """Return a float32 problem on a GPT-2 whose word embedding is merged, a third of the model, and its suite."""
    model = toy_texts.MODELS["gpt2"] | {"width": 128, "layers": 4, "heads": 4, "vocabulary": 4000}
    rng, suite = torch.Generator().manual_seed(0), toy_texts.suite_of(model)
    suite = suite.model_copy(
        update={"tasks": tuple(Task(name=name, classes=("x", "y", "z")) for name in "abcd"[:tasks])}
    )
    base = toy_texts.draw_weights(model)
    vectors = {name: 0.02 * torch.randn(tasks, *base[name].shape, generator=rng) for name in suite.groups}
    texts = tuple(torch.randint(4000, (examples, 5), generator=rng, dtype=torch.int32) for _ in range(tasks))
    shapes = ((3, 128), (examples, 3))
    heads, teachers = (tuple(torch.randn(shape, generator=rng) for _ in range(tasks)) for shape in shapes)
    return Problem(suite.encoder(), base, vectors, heads, texts, teachers, suite.task_names), suite


Make = Callable[[int, int], tuple[Problem, Suite]]
"""(tasks, examples per task) -> a problem and its suite."""


@pytest.mark.parametrize("make", [wide_problem, wordy_problem])
@pytest.mark.parametrize("name", [name for name in methods.names() if hasattr(methods.load(name), "calibrate")])
def test_estimates_cover_the_measured_peak_of_every_method(name: str, make: Make):
    """The estimate is never below the measured peak and at most 30 % above it, for two and for four tasks."""
    method = methods.load(name)
    params = method.Params(**{"epochs": 1, "batch_size": 4} if name == "prodistill" else {})
    footprint, batch = getattr(method, "FOOTPRINT", Footprint()), getattr(params, "batch_size", 1)
    examples = 26 if name == "esm" else 4  # it holds as many directions as examples reach: 130 tokens reach all
    for tasks in (2, 4):
        problem, suite = make(tasks, examples)
        with Live([*problem.base.values(), *problem.vectors.values()]) as live:
            method.calibrate(problem, Schedule(lr=0.01, steps=2, batch_size=1), 0, params)
        shapes = {key: tuple(value.shape) for key, value in problem.base.items()}
        estimated = sum(memory.weight_bytes(suite, shapes, footprint))
        estimated += memory.pass_bytes(suite, problem.examples[0], examples * tasks, batch, CPU, footprint)
        assert live.peak <= estimated <= 1.3 * live.peak


def test_a_calibration_that_does_not_fit_is_refused_with_a_cure(pristine_suite: Path, monkeypatch: pytest.MonkeyPatch):
    folder, arguments = SuiteFolder(pristine_suite), ("train", 5, 2, CPU, Footprint())
    need = memory.estimate_memory(folder, *arguments)
    set_free_memory(monkeypatch, need)
    assert memory.estimate_memory(folder, *arguments) == need
    set_free_memory(monkeypatch, need - 1)
    with pytest.raises(
        memory.NotEnoughMemory, match=r"calibrating tiny takes about .* GiB .* on cpu .*samples_per_task"
    ) as error:
        memory.estimate_memory(folder, *arguments)
    assert "3 task vectors" in str(error.value)
