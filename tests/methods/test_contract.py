"""The contract of every method file, and identities between methods."""

import importlib
from collections.abc import Mapping, Sequence

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from pipeline import methods
from pipeline.merges.solution import Solution
from pipeline.models.task_vectors import TaskVectors, add_delta, merge
from pipeline.models.weights import Weights
from pipeline.runtime.schema import Parameters, Schedule
from pipeline.steps.merge import merge_data_free
from tests.support import toy
from tests.support.toy_texts import PROBLEMS

ALL = methods.names()
DATA_FREE = tuple(name for name in ALL if hasattr(methods.load(name), "merge"))
CALIBRATED = tuple(name for name in ALL if hasattr(methods.load(name), "calibrate"))
DESCENDING = ("adamerging", "distillation", "samerging")
SCHEDULE = Schedule(lr=0.05, steps=3, batch_size=4)
TASKS = len(toy.CLASSES)


def is_random(name: str) -> bool:
    """Return whether a data-free method is random."""
    return "seeds" in methods.load(name).Params.model_fields


def result_of(name: str, vectors: TaskVectors) -> Tensor | Weights | Solution:
    """Return the result of a deterministic data-free method with its defaults."""
    module = methods.load(name)
    return module.merge(vectors, module.Params())


def solutions_of(name: str, vectors: TaskVectors) -> Sequence[Solution]:
    """Return a data-free method's solutions with its defaults, one per seed."""
    module = methods.load(name)
    return merge_data_free(module, vectors, module.Params(), [str(task) for task in range(vectors.tasks)]).solutions


def calibration_of(name: str, problem: toy.Problem, seed: int = 0) -> Solution:
    """Return a calibrated method's solution with its defaults, or with fewer epochs."""
    module = methods.load(name)
    epochs = {"epochs": 3} if "epochs" in module.Params.model_fields else {}
    return module.calibrate(problem, SCHEDULE, seed, module.Params(**epochs))


def toy_vectors(dtype: torch.dtype, kind: str = "images") -> tuple[TaskVectors, Weights, list[Weights]]:
    """Task vectors on two transformer blocks, their base and their experts."""
    problem = PROBLEMS[kind](dtype=dtype)
    experts = [
        {name: problem.base[name] + stacked[task] for name, stacked in problem.vectors.items()} for task in range(TASKS)
    ]
    return TaskVectors(problem.base, experts, [*problem.vectors], dtype), problem.base, experts


def models_of(result: Tensor | Weights | Solution, base: Weights, vectors: Mapping[str, Tensor]) -> list[Weights]:
    """Return the models of a result without its extras: one, or one per task."""
    if isinstance(result, Solution):
        result = result.delta if result.coefficients is None else result.coefficients
    if not isinstance(result, Tensor):
        return [add_delta(base, result)]
    return [merge(base, vectors, matrix) for matrix in (result if result.ndim == 3 else result[None])]


def test_methods_are_discovered_by_their_files():
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


def check_merged(solution: Solution, shapes: Mapping[str, torch.Size]) -> None:
    """Check that a solution has either coefficients or a delta, of the right shapes and finite."""
    assert (solution.coefficients is None) != (solution.delta is None)
    if solution.coefficients is not None:
        assert solution.coefficients.shape in {(TASKS, len(shapes)), (TASKS, TASKS, len(shapes))}
        assert torch.isfinite(solution.coefficients).all()
    else:
        assert {key: tensor.shape for key, tensor in solution.delta.items()} == shapes
        assert all(torch.isfinite(tensor).all() for tensor in solution.delta.values())


def equal(first: Solution, second: Solution) -> bool:
    """Return whether two solutions have the same bits."""
    kinds = [solution.extras and solution.extras.kind for solution in (first, second)]
    return kinds[0] == kinds[1] and toy.same(tensors_of(first), tensors_of(second))


def tensors_of(solution: Solution) -> Weights:
    """Return all tensors of a solution."""
    tensors = {"coefficients": solution.coefficients, "losses": solution.losses}
    return {
        **{name: tensor for name, tensor in tensors.items() if tensor is not None},
        **(solution.delta or {}),
        **(solution.extras.tensors if solution.extras else {}),
    }


@pytest.mark.parametrize("kind", PROBLEMS)
@pytest.mark.parametrize("name", DATA_FREE)
def test_data_free_method_keeps_its_contract(name: str, kind: str):
    vectors, base, experts = toy_vectors(torch.float32, kind)
    before = [toy.cloned(weights) for weights in (base, *experts)]
    solutions, repeated = solutions_of(name, vectors), solutions_of(name, vectors)
    assert all(toy.same(first, second) for first, second in zip((base, *experts), before, strict=True))
    shapes = {group: base[group].shape for group in vectors}
    for first, second in zip(solutions, repeated, strict=True):
        check_merged(first, shapes)
        assert equal(first, second)


@pytest.mark.parametrize("name", [name for name in DATA_FREE if is_random(name)])
def test_a_random_method_depends_on_its_seed(name: str):
    first, second, *_ = solutions_of(name, toy_vectors(torch.float32)[0])
    assert not equal(first, second)


@pytest.mark.parametrize("kind", PROBLEMS)
@pytest.mark.parametrize("name", DATA_FREE)
def test_data_free_method_of_experts_equal_to_the_base_is_the_base(name: str, kind: str):
    moved, base, _ = toy_vectors(torch.float32, kind)
    vectors = TaskVectors(base, [toy.cloned(base) for _ in range(TASKS)], [*moved])
    for solution in solutions_of(name, vectors):
        assert all(toy.same(model, base) for model in models_of(solution, base, vectors))


@pytest.mark.parametrize(
    "name", [name for name in DATA_FREE if not is_random(name) and name not in ("feature_ensemble", "logit_ensemble")]
)
def test_order_of_tasks_does_not_matter(name: str):
    """Of the two ensembles, whose first expert is the merged model, tests/methods/test_ensembles.py shows it."""
    vectors, base, experts = toy_vectors(torch.float64)
    order = [2, 0, 1]
    permuted = TaskVectors(base, [experts[task] for task in order], [*vectors], torch.float64)
    (solution,), (reordered,) = solutions_of(name, vectors), solutions_of(name, permuted)
    models, reordered_models = models_of(solution, base, vectors), models_of(reordered, base, permuted)
    expected = models if len(models) == 1 else [models[task] for task in order]
    for model, expected_model in zip(reordered_models, expected, strict=True):
        for group in vectors:
            torch.testing.assert_close(model[group], expected_model[group], rtol=0, atol=1e-10)


UNEVEN = ("wudi", "pcb", "smile", "nan_weights", "ace", "arcee_fusion", "rkl_fusion", "do_merging_lora")


@pytest.mark.parametrize("name", [name for name in DATA_FREE if name not in UNEVEN])
def test_a_merge_grows_with_its_task_vectors(name: str):
    """Positive homogeneity.

    WUDI (fixed steps), PCB (tanh), SMILE (it merges to theta_0), NAN of weights, ACE (fixed ridge, logarithms of
    norms), both fusions (a softmax) and DO-Merging of low-rank experts (a penalty of fixed weight) lack it.
    """
    vectors, base, _ = toy_vectors(torch.float64)
    moved = [{group: base[group] + 4 * vectors[group][task] for group in vectors} for task in range(TASKS)]
    longer = TaskVectors(base, moved, [*vectors], torch.float64)
    for solution, longer_solution in zip(solutions_of(name, vectors), solutions_of(name, longer), strict=True):
        pairs = zip(models_of(solution, base, vectors), models_of(longer_solution, base, longer), strict=True)
        for short, long in pairs:
            for group in vectors:
                expected = 4 * (short[group] - base[group])
                torch.testing.assert_close(long[group] - base[group], expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("average", {}), ("individual", {}), ("nan", {}), ("nan_weights", {}), ("task_arithmetic", {"scale": 1.0}),
        ("do_merging", {}), ("rkl_fusion", {"scale": 1.0, "drop": 0.0}), ("dc_merge", {"keep": 1.0}),
        ("feature_ensemble", {}), ("logit_ensemble", {}), ("dare", {"scale": 1.0, "drop": 0.0}),
        ("dare_ties", {"scale": 1.0, "drop": 0.0, "keep": 1.0}),
        ("consensus", {"scale": 1.0, "min_tasks": 1}), ("tsv_m", {}), ("opcm", {}),
        ("do_merging_lora", {"rank": 1000, "steps": 0}), ("knots", {"keep": 1.0, "scale": 1.0}),
        ("core_space", {"rank": 1000, "scale": 1.0}), ("factor_average", {"rank": 1000}),
    ],
)  # fmt: skip
def test_one_task_is_its_expert(name: str, settings: dict[str, float]):
    vectors, base, experts = toy_vectors(torch.float64)
    only, module = TaskVectors(base, experts[:1], [*vectors], torch.float64), methods.load(name)
    for solution in merge_data_free(module, only, module.Params(**settings), ["one"]).solutions:
        (model,) = models_of(solution, base, only)
        for group in vectors:
            torch.testing.assert_close(model[group], experts[0][group], rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", PROBLEMS)
@pytest.mark.parametrize("name", CALIBRATED)
def test_calibrated_method_keeps_its_contract(name: str, kind: str):
    problem, untouched = PROBLEMS[kind](), PROBLEMS[kind]()
    solution, repeated = calibration_of(name, problem), calibration_of(name, problem)
    assert equal(solution, repeated)
    check_merged(solution, {group: stacked.shape[1:] for group, stacked in problem.vectors.items()})
    if solution.losses is not None:
        assert torch.isfinite(solution.losses).all()
        assert not equal(solution, calibration_of(name, problem, seed=1))
    assert not any(tensor.requires_grad for tensor in tensors_of(solution).values())
    assert toy.same(problem.base, untouched.base)
    assert toy.same(problem.vectors, untouched.vectors)
    for field in ("heads", "examples", "teachers"):
        pairs = zip(getattr(problem, field), getattr(untouched, field), strict=True)
        assert all(torch.equal(value, original) for value, original in pairs)


@pytest.mark.parametrize("kind", PROBLEMS)
@pytest.mark.parametrize("name", CALIBRATED)
def test_calibrated_method_of_experts_equal_to_the_base_is_the_base(name: str, kind: str):
    same = PROBLEMS[kind](spread=0.0)
    for model in models_of(calibration_of(name, same), same.base, same.vectors):
        for group in same.vectors:
            torch.testing.assert_close(model[group], same.base[group], rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", DESCENDING)
def test_descending_method_lowers_its_loss(name: str, problem: toy.Problem):
    module = methods.load(name)
    schedule = Schedule(lr=0.05, steps=30, batch_size=100)
    losses = module.calibrate(problem, schedule, 0, module.Params()).losses
    assert losses[-1] < 0.95 * losses[0]


def test_average_is_the_mean_of_the_experts():
    base, experts = toy.models()
    vectors = toy.task_vectors()
    (average,) = models_of(result_of("average", vectors), base, vectors)
    for name in toy.GROUPS:
        mean = torch.stack([expert[name] for expert in experts]).mean(0)
        torch.testing.assert_close(average[name], mean, rtol=0, atol=1e-14)


def test_task_arithmetic_of_one_over_the_tasks_is_the_average():
    module, vectors = methods.load("task_arithmetic"), toy.task_vectors()
    assert torch.equal(module.merge(vectors, module.Params(scale=1 / TASKS)), result_of("average", vectors))


def test_task_arithmetic_adds_scaled_task_vectors():
    base, vectors = toy.models()[0], toy.task_vectors()
    module = methods.load("task_arithmetic")
    (merged,) = models_of(module.merge(vectors, module.Params(scale=0.4)), base, vectors)
    for name in toy.GROUPS:
        torch.testing.assert_close(merged[name], base[name] + 0.4 * vectors[name].sum(0), rtol=0, atol=1e-14)


def test_zeroshot_is_the_base_and_individual_are_the_experts():
    base, experts = toy.models(dtype=torch.float32)
    vectors = TaskVectors(base, experts, toy.GROUPS, torch.float64)
    (floor,) = models_of(result_of("zeroshot", vectors), base, vectors)
    ceiling = models_of(result_of("individual", vectors), base, vectors)
    assert toy.same(floor, base)
    assert all(toy.same(model, expert) for model, expert in zip(ceiling, experts, strict=True))


def test_adamerging_starts_at_the_initial_coefficient_and_clamps(problem: toy.Problem):
    module = methods.load("adamerging")
    fast = Schedule(lr=0.9, steps=4, batch_size=4)
    coefficients = module.calibrate(problem, fast, 0, module.Params(initial_coefficient=0.5, clamp=True)).coefficients
    assert coefficients.min() >= 0
    assert coefficients.max() <= 1
    still = Schedule(lr=1e-9, steps=1, batch_size=4)
    near = module.calibrate(problem, still, 0, module.Params(initial_coefficient=0.7))
    torch.testing.assert_close(near.coefficients, torch.full_like(near.coefficients, 0.7), rtol=0, atol=1e-8)


def test_load_finds_exactly_the_method_files():
    with pytest.raises(ModuleNotFoundError):
        methods.load("no_such_method")
    assert all(importlib.import_module(f"pipeline.methods.{name}") is methods.load(name) for name in ALL)
