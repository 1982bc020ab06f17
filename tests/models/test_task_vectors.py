"""Merging and contracting task vectors: exact identities and accuracy."""

import pytest
import torch

from pipeline.models import task_vectors
from pipeline.models.task_vectors import TaskVectors, add_delta, contract, merge, merge_experts
from pipeline.models.weights import Weights
from tests.support import toy


def random_coefficients(seed: int = 5) -> torch.Tensor:
    """Return random coefficients [3, G]."""
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(3, len(toy.GROUPS), generator=rng, dtype=torch.float64)


def far_apart() -> tuple[Weights, list[Weights]]:
    """Return a base and experts of different magnitudes: float32 does not hold their difference."""
    return toy.weights(0, torch.float32, 1000), [toy.weights(1 + task, torch.float32) for task in range(3)]


def test_zero_coefficients_give_the_base_exactly():
    base, _ = toy.models(dtype=torch.float32)
    merged = merge(base, toy.task_vectors(torch.float32), torch.zeros(3, len(toy.GROUPS)))
    assert toy.same(merged, base)


@pytest.mark.parametrize("task", range(3))
def test_one_hot_coefficients_give_the_expert_exactly(task: int):
    base, experts = far_apart()
    vectors = TaskVectors(base, experts, toy.GROUPS, torch.float64)
    one_hot = torch.zeros(3, len(toy.GROUPS), dtype=torch.float64)
    one_hot[task] = 1
    assert toy.same(merge(base, vectors, one_hot), experts[task])


def test_forming_vectors_in_float32_would_lose_the_expert():
    base, experts = far_apart()
    vectors = TaskVectors(base, experts, toy.GROUPS, torch.float32)
    one_hot = torch.zeros(3, len(toy.GROUPS))
    one_hot[0] = 1
    assert not toy.same(merge(base, vectors, one_hot), experts[0])


def test_merge_equals_the_formula():
    base, experts = toy.models()
    coefficients = random_coefficients()
    merged = merge(base, toy.task_vectors(), coefficients)
    for group, name in enumerate(toy.GROUPS):
        expected = base[name].clone()
        for task in range(3):
            expected += coefficients[task, group] * (experts[task][name] - base[name])
        torch.testing.assert_close(merged[name], expected, rtol=0, atol=1e-12)


def test_merge_is_linear_in_the_coefficients():
    base, vectors = toy.models()[0], toy.task_vectors()
    first, second = random_coefficients(1), random_coefficients(2)
    merged = merge(base, vectors, 2 * first - 3 * second)
    parts = merge(base, vectors, first), merge(base, vectors, second)
    for name in toy.GROUPS:
        expected = base[name] + 2 * (parts[0][name] - base[name]) - 3 * (parts[1][name] - base[name])
        torch.testing.assert_close(merged[name], expected, rtol=0, atol=1e-12)


def test_tensors_without_a_vector_are_kept():
    base, experts = toy.models()
    base["proj"] = torch.ones(2, 2)
    merged = merge(base, TaskVectors(base, experts, toy.GROUPS, torch.float64), random_coefficients())
    assert torch.equal(merged["proj"], torch.ones(2, 2))


def test_merge_returns_the_precision_of_the_base():
    base, experts = toy.models(dtype=torch.float32)
    merged = merge(base, TaskVectors(base, experts, toy.GROUPS, torch.float64), random_coefficients())
    assert {tensor.dtype for tensor in merged.values()} == {torch.float32}


def test_inputs_are_not_modified():
    base, experts = toy.models()
    before = [toy.cloned(weights) for weights in (base, *experts)]
    coefficients = random_coefficients()
    vectors = dict(TaskVectors(base, experts, toy.GROUPS, torch.float64))
    originals = toy.cloned(vectors)
    merge(base, vectors, coefficients)
    contract(base, vectors)
    add_delta(base, {"first.bias": torch.ones(6, dtype=torch.float64)})
    assert all(toy.same(model, copy) for model, copy in zip((base, *experts), before, strict=True))
    assert toy.same(vectors, originals)
    assert torch.equal(coefficients, random_coefficients())


def test_contract_is_the_inner_product_per_task_and_group():
    vectors, slope = toy.task_vectors(), toy.weights(7)
    contraction = contract(slope, vectors)
    assert contraction.shape == (3, len(toy.GROUPS))
    for group, name in enumerate(toy.GROUPS):
        for task in range(3):
            expected = float((vectors[name][task] * slope[name]).sum())
            assert float(contraction[task, group]) == pytest.approx(expected, abs=1e-12)


def test_add_delta_changes_only_the_tensors_of_the_delta():
    base = toy.weights(0)
    moved = add_delta(base, {"first.bias": torch.full((6,), 2.0)})
    assert torch.equal(moved["first.bias"], base["first.bias"] + 2)
    assert torch.equal(moved["first.weight"], base["first.weight"])


def test_task_vectors_of_one_task_and_of_all_agree():
    vectors = toy.task_vectors()
    assert vectors.tasks == 3
    assert [*vectors] == [*toy.GROUPS]
    assert all(torch.equal(vectors.task(1)[name], vectors[name][1]) for name in vectors)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_experts_are_merged_as_their_task_vectors_are(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(task_vectors, "PART", 7)
    rng = torch.Generator().manual_seed(0)
    base = {name: torch.randn(shape, generator=rng) for name, shape in (("a", (5, 9)), ("frozen", (3,)), ("b", ()))}
    experts = [{name: base[name] + torch.randn(base[name].shape, generator=rng) for name in "ab"} for _ in range(3)]
    coefficients = torch.randn(3, 2, generator=rng, dtype=dtype)
    coefficients[1, 0] = 0
    merged = merge_experts(base, experts, ("a", "b"), coefficients)
    expected = merge(base, TaskVectors(base, experts, ("a", "b"), torch.float64), coefficients)
    assert [*merged] == [*base]
    assert all(merged[name].equal(expected[name]) for name in base)
    for index, expert in enumerate(experts):
        alone = merge_experts(base, experts, ("a", "b"), torch.eye(3, dtype=dtype)[:, [index, index]])
        assert all(alone[name].equal(expert.get(name, base[name])) for name in base)
