"""One contract for every method file, and the identities between methods."""

import importlib

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from pipeline import methods
from pipeline.calibrate import Calibration
from pipeline.merges import data_free
from pipeline.model import Weights, build_clip, fuse_qkv, image_encoder, split_qkv
from pipeline.schema import Parameters, Schedule
from pipeline.suite import Suite, Task
from pipeline.vectors import TaskVectors, add, merge
from tests import toy

ALL = methods.names()
DATA_FREE = tuple(name for name in ALL if hasattr(methods.load(name), "merge"))
CALIBRATED = tuple(name for name in ALL if hasattr(methods.load(name), "calibrate"))
SCHEDULE = Schedule(lr=0.05, steps=3, batch_size=4)
TASKS = len(toy.CLASSES)


def result_of(name: str, vectors: TaskVectors) -> Tensor | Weights:
    """What a data-free method returns with its defaults."""
    module = methods.load(name)
    return module.merge(vectors, module.Params())


def calibration_of(name: str, problem: toy.Problem, seed: int = 0) -> Calibration:
    """What a calibrated method returns with its defaults."""
    module = methods.load(name)
    return module.calibrate(problem, SCHEDULE, seed, module.Params())


def merged_by(result: Tensor | Weights, base: Weights, vectors: TaskVectors) -> list[Weights]:
    """The models that a data-free result stands for: one, or one per task."""
    if not isinstance(result, Tensor):
        return [add(base, result)]
    return [merge(base, vectors, matrix) for matrix in (result if result.ndim == 3 else result[None])]


def test_methods_are_found_by_their_files():
    assert {"zeroshot", "individual", "average", "task_arithmetic", "ties"} <= {*DATA_FREE}
    assert {"adamerging", "distillation", "samerging"} <= {*CALIBRATED}
    assert {*DATA_FREE}.isdisjoint(CALIBRATED)
    assert {*DATA_FREE, *CALIBRATED} == {*ALL}


@pytest.mark.parametrize("name", ALL)
def test_method_file_has_what_tables_and_readers_need(name: str):
    module = methods.load(name)
    assert isinstance(module.TITLE, str)
    assert 2 < len(module.TITLE) < 30
    assert isinstance(module.PAPER, str)
    assert len(module.PAPER) > 10
    assert module.__doc__ is not None
    assert len(module.__doc__) > 40
    assert module.Params.__doc__ is not None
    function = getattr(module, "merge", None) or module.calibrate
    assert function.__doc__ is not None
    others = {methods.load(other).TITLE for other in ALL if other != name}
    assert module.TITLE not in others


@pytest.mark.parametrize("name", ALL)
def test_parameters_are_frozen_and_have_defaults(name: str):
    params = methods.load(name).Params()
    assert isinstance(params, Parameters)
    for field in type(params).model_fields:
        with pytest.raises(ValidationError, match="frozen"):
            setattr(params, field, getattr(params, field))
    with pytest.raises(ValidationError, match="Extra inputs"):
        type(params)(no_such_parameter=1)


@pytest.mark.parametrize("name", DATA_FREE)
def test_data_free_method_keeps_its_contract(name: str):
    base, experts = toy.models(dtype=torch.float32)
    before = [toy.cloned(weights) for weights in (base, *experts)]
    vectors = TaskVectors(base, experts, toy.GROUPS)
    result, again = result_of(name, vectors), result_of(name, vectors)
    assert all(toy.same(one, other) for one, other in zip((base, *experts), before, strict=True))
    if isinstance(result, Tensor):
        assert torch.equal(result, again)
        assert result.shape in {(TASKS, len(toy.GROUPS)), (TASKS, TASKS, len(toy.GROUPS))}
        assert torch.isfinite(result).all()
    else:
        assert toy.same(result, again)
        assert {key: tuple(tensor.shape) for key, tensor in result.items()} == toy.SHAPES
        assert all(torch.isfinite(tensor).all() for tensor in result.values())


@pytest.mark.parametrize("name", DATA_FREE)
def test_data_free_result_becomes_an_artefact(name: str):
    tasks = tuple(Task(name=f"t{index}", classes=("a", "b")) for index in range(TASKS))
    suite = Suite(name="toy", tasks=tasks, model={}, mean=(0, 0, 0), std=(1, 1, 1), groups=toy.GROUPS)
    found = data_free(result_of(name, toy.task_vectors()), suite)
    assert found.seeds == (None,)
    assert found.samples == {"t0": 0, "t1": 0, "t2": 0}
    assert (found.coefficients is None) == bool(found.deltas)
    if found.coefficients is not None:
        assert found.coefficients.shape[0] == 1
        assert found.coefficients.shape[1] in {1, TASKS}
        assert found.coefficients.shape[2:] == (TASKS, len(toy.GROUPS))


@pytest.mark.parametrize("name", DATA_FREE)
def test_data_free_method_of_experts_equal_to_the_base_is_the_base(name: str):
    base, _ = toy.models(dtype=torch.float32)
    vectors = TaskVectors(base, [toy.cloned(base) for _ in range(TASKS)], toy.GROUPS)
    assert all(toy.same(model, base) for model in merged_by(result_of(name, vectors), base, vectors))


@pytest.mark.parametrize("name", DATA_FREE)
def test_order_of_tasks_does_not_matter(name: str):
    base, experts = toy.models()
    order = [2, 0, 1]
    vectors = TaskVectors(base, experts, toy.GROUPS, torch.float64)
    permuted = TaskVectors(base, [experts[task] for task in order], toy.GROUPS, torch.float64)
    models = merged_by(result_of(name, vectors), base, vectors)
    found = merged_by(result_of(name, permuted), base, permuted)
    expected = models if len(models) == 1 else [models[task] for task in order]
    for one, other in zip(found, expected, strict=True):
        for group in toy.GROUPS:
            torch.testing.assert_close(one[group], other[group], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", CALIBRATED)
def test_calibrated_method_keeps_its_contract(name: str, problem: toy.Problem):
    untouched = toy.problem()
    found, again = calibration_of(name, problem), calibration_of(name, problem)
    assert torch.equal(found.coefficients, again.coefficients)
    assert torch.equal(found.losses, again.losses)
    assert found.coefficients.shape == (TASKS, len(toy.GROUPS))
    assert found.losses.shape == (SCHEDULE.steps,)
    assert torch.isfinite(found.coefficients).all()
    assert torch.isfinite(found.losses).all()
    assert not found.coefficients.requires_grad
    assert not torch.equal(found.coefficients, calibration_of(name, problem, seed=1).coefficients)
    assert toy.same(problem.base, untouched.base)
    assert toy.same(problem.vectors, untouched.vectors)
    for field in ("heads", "images", "teachers"):
        pairs = zip(getattr(problem, field), getattr(untouched, field), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize("name", CALIBRATED)
def test_calibrated_method_of_experts_equal_to_the_base_is_the_base(name: str):
    same = toy.problem(spread=0.0)
    found = calibration_of(name, same)
    assert toy.same(merge(same.base, same.vectors, found.coefficients), same.base)


@pytest.mark.parametrize("name", CALIBRATED)
def test_calibrated_method_lowers_its_loss(name: str, problem: toy.Problem):
    module = methods.load(name)
    schedule = Schedule(lr=0.05, steps=30, batch_size=100)
    losses = module.calibrate(problem, schedule, 0, module.Params()).losses
    assert losses[-1] < 0.95 * losses[0]


def test_average_is_the_mean_of_the_experts():
    base, experts = toy.models()
    vectors = toy.task_vectors()
    (found,) = merged_by(result_of("average", vectors), base, vectors)
    for name in toy.GROUPS:
        mean = torch.stack([expert[name] for expert in experts]).mean(0)
        torch.testing.assert_close(found[name], mean, rtol=0, atol=1e-14)


def test_task_arithmetic_of_one_over_the_tasks_is_the_average():
    module, vectors = methods.load("task_arithmetic"), toy.task_vectors()
    assert torch.equal(module.merge(vectors, module.Params(scale=1 / TASKS)), result_of("average", vectors))


def test_task_arithmetic_adds_scaled_task_vectors():
    base, vectors = toy.models()[0], toy.task_vectors()
    module = methods.load("task_arithmetic")
    (found,) = merged_by(module.merge(vectors, module.Params(scale=0.4)), base, vectors)
    for name in toy.GROUPS:
        torch.testing.assert_close(found[name], base[name] + 0.4 * vectors[name].sum(0), rtol=0, atol=1e-14)


def test_zeroshot_is_the_base_and_individual_are_the_experts():
    base, experts = toy.models(dtype=torch.float32)
    vectors = TaskVectors(base, experts, toy.GROUPS, torch.float64)
    (floor,) = merged_by(result_of("zeroshot", vectors), base, vectors)
    ceiling = merged_by(result_of("individual", vectors), base, vectors)
    assert toy.same(floor, base)
    assert all(toy.same(one, other) for one, other in zip(ceiling, experts, strict=True))


def test_adamerging_starts_where_it_is_told_and_clamps(problem: toy.Problem):
    module = methods.load("adamerging")
    fast = Schedule(lr=0.9, steps=4, batch_size=4)
    found = module.calibrate(problem, fast, 0, module.Params(initial_coefficient=0.5, clamp=True)).coefficients
    assert found.min() >= 0
    assert found.max() <= 1
    still = Schedule(lr=1e-9, steps=1, batch_size=4)
    near = module.calibrate(problem, still, 0, module.Params(initial_coefficient=0.7))
    torch.testing.assert_close(near.coefficients, torch.full_like(near.coefficients, 0.7), rtol=0, atol=1e-8)


def test_load_knows_only_files():
    with pytest.raises(ModuleNotFoundError):
        methods.load("no_such_method")
    assert all(importlib.import_module(f"pipeline.methods.{name}") is methods.load(name) for name in ALL)


def test_split_and_fuse_are_inverse():
    fused = {name: value.detach() for name, value in build_clip(toy.CLIP).visual.named_parameters()}
    split = split_qkv(fused)
    assert toy.same(fuse_qkv(split), fused)
    assert toy.same(split_qkv(fuse_qkv(split)), split)
    assert len(split) == len(fused) + 4  # one block: in_proj weight and bias become three tensors each
    width = toy.CLIP["vision_cfg"]["width"]
    stem = "transformer.resblocks.0.attn."
    assert torch.equal(split[f"{stem}k.weight"], fused[f"{stem}in_proj_weight"][width : 2 * width])


def test_image_encoder_equals_open_clips_own_forward():
    clip, split = toy.clip_weights()
    mean, std = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(256, (5, 14, 14, 3), generator=rng, dtype=torch.uint8)
    kept = toy.cloned(split)
    found = image_encoder(toy.CLIP, mean, std)(split, images)
    pixels = images.permute(0, 3, 1, 2).float() / 255
    pixels = (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    with torch.no_grad():
        expected = clip.encode_image(pixels, normalize=True)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert found.shape == (5, 16)
    assert toy.same(split, kept)


def test_image_encoder_refuses_missing_weights():
    _, split = toy.clip_weights()
    del split["ln_post.bias"]
    with pytest.raises(RuntimeError, match=r"ln_post\.bias"):
        image_encoder(toy.CLIP, (0.5,) * 3, (0.5,) * 3)(split, torch.zeros(1, 14, 14, 3, dtype=torch.uint8))
