"""Merges of low-rank experts: identities, and NumPy one matrix or one position at a time. All in float64."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.merges import serving, storage
from pipeline.merges.costs import count_costs
from pipeline.merges.serving import Served
from pipeline.methods import core_space, do_merging_lora, factor_average, knots, rmm, task_arithmetic, ties, tsv_m
from pipeline.models.suite import SuiteFolder
from pipeline.models.task_vectors import TaskVectors, merge_delta
from pipeline.models.weights import Weights
from pipeline.runtime.errors import BenchmarkError
from pipeline.steps import merge as merge_step
from pipeline.toolbox.factors import balance_factors
from pipeline.toolbox.norms import decouple_columns

BLOCK = "transformer.resblocks.0."
SHAPES = {
    "ln_pre.weight": (12,),
    f"{BLOCK}attn.q.weight": (12, 12),
    f"{BLOCK}mlp.c_fc.weight": (20, 12),
    f"{BLOCK}mlp.c_proj.weight": (12, 20),
}
MATRICES = [name for name in SHAPES if BLOCK in name]
RANK = 3
TASKS = 3


def gaussian(*shape: int, seed: int) -> Tensor:
    """Return Gaussian numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def low_rank(shape: Sequence[int], seed: int) -> Tensor:
    """Return a vector, or a matrix of rank RANK."""
    if len(shape) == 1:
        return gaussian(*shape, seed=seed)
    return gaussian(shape[0], RANK, seed=seed) @ gaussian(RANK, shape[1], seed=seed + 500)


def task_vectors(tasks: int = TASKS) -> TaskVectors:
    """Return task vectors of low rank on a base of zeros."""
    base = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in SHAPES.items()}
    experts = [
        {name: low_rank(shape, 10 * task + place) for place, (name, shape) in enumerate(SHAPES.items())}
        for task in range(tasks)
    ]
    return TaskVectors(base, experts, [*base], torch.float64)


def close(actual: Tensor, expected: Tensor | np.ndarray, tolerance: float = 1e-10) -> None:
    """Assert equality up to an absolute tolerance."""
    torch.testing.assert_close(actual, torch.as_tensor(expected), rtol=0, atol=tolerance)


def regauged(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Return other factors of the same products: A R and R^-1 B, R random for every task."""
    change = gaussian(*left.shape[:1], left.shape[-1], left.shape[-1], seed=77)
    return left @ change, torch.linalg.inv(change) @ right


def test_factors_are_balanced_and_reproduce_the_leading_part():
    stacked = gaussian(4, 9, 6, seed=1)
    left, right = balance_factors(stacked, 4)
    assert (left.shape, right.shape) == ((4, 9, 4), (4, 4, 6))
    for task, matrix in enumerate(stacked.numpy()):
        u, s, vh = np.linalg.svd(matrix, full_matrices=False)
        close(left[task] @ right[task], u[:, :4] * s[:4] @ vh[:4])
        close(left[task].mT @ left[task], np.diag(s[:4]))
        close(right[task] @ right[task].mT, np.diag(s[:4]))
    assert (left.gather(1, left.abs().argmax(1, keepdim=True)) > 0).all()
    assert balance_factors(stacked, 100)[0].shape == (4, 9, 6)
    some = torch.stack([low_rank((9, 6), 1), torch.zeros(9, 6, dtype=torch.float64)])
    assert balance_factors(some, 5)[0].shape == (2, 9, RANK)
    assert not balance_factors(some, 5)[0][1].any()
    assert balance_factors(torch.zeros(2, 9, 6), 5)[1].shape == (2, 1, 6)


def test_factors_do_not_depend_on_how_the_task_vectors_were_factorised():
    left, right = (torch.stack([gaussian(*shape, seed=s) for s in (2, 3)]) for shape in ((8, RANK), (RANK, 7)))
    other_left, other_right = regauged(left, right)
    for first, second in zip(
        balance_factors(left @ right, RANK), balance_factors(other_left @ other_right, RANK), strict=True
    ):
        close(first, second, 1e-8)


def test_factor_average_is_the_product_of_the_means():
    vectors = task_vectors()
    delta = factor_average.merge(vectors, factor_average.Params(rank=2, scale=0.5))
    for name in MATRICES:
        left, right = np.zeros((SHAPES[name][0], 2)), np.zeros((2, SHAPES[name][1]))
        for matrix in vectors[name].numpy():
            u, s, vh = np.linalg.svd(matrix)
            signs = np.sign(u[np.abs(u[:, :2]).argmax(0), [0, 1]])
            left += u[:, :2] * signs * np.sqrt(s[:2]) / TASKS
            right += (signs * np.sqrt(s[:2]))[:, None] * vh[:2] / TASKS
        close(delta[name], 0.5 * left @ right)
    close(delta["ln_pre.weight"], 0.5 * vectors["ln_pre.weight"].mean(0))


def test_another_gauge_of_the_same_experts_is_another_factor_average():
    left, right = balance_factors(task_vectors()[MATRICES[0]], RANK)
    other_left, other_right = regauged(left, right)
    close(other_left @ other_right, left @ right, 1e-8)
    merged, other = (factor_average.average_apart(*factors) for factors in ((left, right), (other_left, other_right)))
    assert (merged - other).norm() > 0.3 * merged.norm()
    assert (merged - (left @ right).mean(0)).norm() > 0.3 * merged.norm()


def test_identical_experts_are_their_factor_average():
    (only,) = ({name: vectors[0] for name, vectors in task_vectors(1).items()},)
    base = {name: torch.zeros_like(tensor) for name, tensor in only.items()}
    same = TaskVectors(base, [only] * 4, [*base], torch.float64)
    for name, tensor in factor_average.merge(same, factor_average.Params()).items():
        close(tensor, only[name])


# Core Space


def test_the_cores_lose_nothing():
    for name in MATRICES:
        stacked = task_vectors()[name]
        outer, cores, inner = core_space.extract_cores(*balance_factors(stacked, RANK))
        close(outer @ cores @ inner.mT, stacked)
        close(outer.mT @ outer, torch.eye(TASKS * RANK, dtype=torch.float64))


def test_task_arithmetic_on_cores_is_task_arithmetic():
    vectors = task_vectors()
    coefficients = task_arithmetic.merge(vectors, task_arithmetic.Params(scale=0.3))
    expected = merge_delta(vectors, coefficients)
    merged = core_space.merge(vectors, core_space.Params(rank=RANK, cores="task_arithmetic", scale=0.3))
    for name in MATRICES:
        close(merged[name], expected[name])


def test_tsv_m_on_cores_is_tsv_m_on_low_rank_experts():
    vectors = task_vectors()
    expected = tsv_m.merge(vectors, tsv_m.Params(scale=0.7))
    for name, tensor in core_space.merge(vectors, core_space.Params(rank=RANK, scale=0.7)).items():
        close(tensor, expected[name], 1e-8)


def test_experts_of_higher_rank_are_truncated():
    vectors = task_vectors()
    params = core_space.Params(rank=2, cores="task_arithmetic", scale=1.0)
    for name in MATRICES:
        kept = [np.linalg.svd(matrix, full_matrices=False) for matrix in vectors[name].numpy()]
        expected = sum(u[:, :2] * s[:2] @ vh[:2] for u, s, vh in kept)
        close(core_space.merge(vectors, params)[name], expected)


def test_cores_with_fewer_directions_than_tasks_are_the_users_error():
    vectors = task_vectors(2)
    with pytest.raises(BenchmarkError, match="none for T = 13"):
        many = TaskVectors(
            {name: vectors.base(name) for name in vectors}, [vectors.task(0)] * 13, [*vectors], torch.float64
        )
        core_space.merge(many, core_space.Params())


# KnOTS


def knots_oracle(vectors: TaskVectors, keep: float) -> dict[str, np.ndarray]:
    """Merge the matrices with NumPy: all tasks' aligned entries in one long vector, as the paper's TIES has them."""
    bases, parts = {}, {}
    for name in MATRICES:
        u, s, vh = np.linalg.svd(np.hstack([*vectors[name].numpy()]), full_matrices=False)
        rank = int((s > 1e-8).sum())
        bases[name] = u[:, :rank]
        parts[name] = np.split(s[:rank, None] * vh[:rank], vectors.tasks, axis=1)
    flat = np.stack([np.concatenate([parts[n][t].ravel() for n in MATRICES]) for t in range(vectors.tasks)])
    kept = np.ceil(keep * flat.shape[1]).astype(int)
    for row in flat:
        row[np.abs(row) < np.sort(np.abs(row))[-kept]] = 0
    agrees = flat * np.sign(flat.sum(0)) > 0
    merged = (flat * agrees).sum(0) / np.maximum(agrees.sum(0), 1)
    delta, start = {}, 0
    for name in MATRICES:
        shape = parts[name][0].shape
        delta[name] = bases[name] @ merged[start : start + np.prod(shape)].reshape(shape)
        start += np.prod(shape)
    return delta


@pytest.mark.parametrize("keep", [0.2, 0.7])
def test_knots_merges_the_entries_of_a_common_basis(keep: float):
    vectors = task_vectors()
    delta = knots.merge(vectors, knots.Params(keep=keep, scale=0.6))
    for name, expected in knots_oracle(vectors, keep).items():
        close(delta[name], 0.6 * expected)
    close(delta["ln_pre.weight"], 0.6 * vectors["ln_pre.weight"].mean(0))


def test_aligned_parts_reproduce_the_task_vectors():
    stacked = task_vectors()[MATRICES[1]]
    basis, parts = knots.align_outputs(stacked)
    assert basis.shape == (20, TASKS * RANK)
    close(basis @ parts, stacked)


def test_knots_does_not_depend_on_the_basis_of_outputs_and_ties_does():
    """Another orthonormal basis of what leaves a matrix turns the merge with it."""
    vectors = task_vectors()
    base = {name: vectors.base(name) for name in MATRICES}
    turns = {name: torch.linalg.qr(gaussian(SHAPES[name][0], SHAPES[name][0], seed=5))[0] for name in MATRICES}
    turned = [{name: turns[name] @ vectors[name][task] for name in MATRICES} for task in range(TASKS)]
    plain, rotated = (
        TaskVectors(base, experts, MATRICES, torch.float64)
        for experts in ([vectors.task(task) for task in range(TASKS)], turned)
    )
    for module, follows in ((knots, True), (ties, False)):
        before, after = (module.merge(seen, module.Params()) for seen in (plain, rotated))
        same = all(torch.allclose(after[name], turns[name] @ before[name], atol=1e-8) for name in MATRICES)
        assert same == follows


# RMM


def rebuilt_by(vectors: TaskVectors, params: rmm.Params) -> list[Weights]:
    """Return the change of every task that the served models have."""
    solution, base = rmm.merge(vectors, params), {name: vectors.base(name) for name in vectors}
    merged = {name: base[name] + delta for name, delta in merge_delta(vectors, solution.coefficients).items()}
    served = Served(lambda _, examples: examples, merged, {}, vectors.task_names)
    models = [*serving.load("factors").serve(served, base, solution.extras.tensors)]
    assert [model.tasks for model in models] == [(task,) for task in vectors.task_names]
    return [model.weights for model in models]


@pytest.mark.parametrize(("rank", "tasks"), [(RANK, 4), (5, 3), (RANK, 2)])
def test_rmm_loses_nothing_with_enough_directions(rank: int, tasks: int):
    vectors = task_vectors(tasks)
    for directions, lossless in ((min(RANK, tasks - 1), True), (min(RANK, tasks - 1) - 1, False)):
        if directions == 0:
            continue
        changes = rebuilt_by(vectors, rmm.Params(rank=rank, directions=directions))
        for task, change in enumerate(changes):
            for name in MATRICES:
                assert torch.allclose(change[name], vectors[name][task], atol=1e-9) == lossless
            close(change["ln_pre.weight"], vectors["ln_pre.weight"].mean(0))


def test_rmm_keeps_the_best_directions_at_every_position():
    left, right = balance_factors(task_vectors(5)[MATRICES[1]], RANK)
    parts = rmm.compress_factors(left, right, 2)
    positions = np.concatenate([left.numpy(), right.mT.numpy()], axis=1)
    for place in range(positions.shape[1]):
        x = positions[:, place].T
        u, _, _ = np.linalg.svd(x - x.mean(1, keepdims=True))
        projector = u[:, :2] @ u[:, :2].T
        expected = x.mean(1, keepdims=True) + projector @ (x - x.mean(1, keepdims=True))
        close(parts["mean"][place][:, None] + parts["basis"][place] @ parts["coordinates"][place], expected)


def test_what_rmm_loses_depends_on_the_gauge_and_the_gauge_is_fixed():
    left, right = balance_factors(task_vectors(5)[MATRICES[1]], RANK)
    other_left, other_right = regauged(left, right)

    def rebuilt(a: Tensor, b: Tensor) -> Tensor:
        parts = rmm.compress_factors(a, b, 1)
        vectors = parts["mean"][..., None] + parts["basis"] @ parts["coordinates"]
        return vectors[: a.shape[1]].permute(2, 0, 1) @ vectors[a.shape[1] :].permute(2, 1, 0)

    assert (rebuilt(left, right) - rebuilt(other_left, other_right)).norm() > 0.1 * (left @ right).norm()
    close(rebuilt(*balance_factors(other_left @ other_right, RANK)), rebuilt(left, right), 1e-7)


def test_rmm_costs_what_its_formula_says(suite: SuiteFolder, tmp_path: Path):
    params, tasks = rmm.Params(rank=4, directions=1), len(suite.suite.task_names)
    storage.save(merge_step.merge_data_free(rmm, suite.vectors(), params, suite.suite.task_names), tmp_path)
    costs, base = count_costs(suite.folder, tmp_path), suite.base()
    parts = ("attn.q", "attn.k", "attn.v", "attn.out_proj", "mlp.c_fc", "mlp.c_proj")
    positions = sum(sum(base[f"{BLOCK}{part}.weight"].shape) for part in parts)
    p, r = params.directions, params.rank
    assert costs["extra_bytes"] == 4 * positions * (p * (r + tasks) + r)
    assert costs["encoders"] == tasks
    assert costs["flops"] == dict.fromkeys(suite.suite.task_names, costs["plain_flops"])


# DO-Merging


def test_a_long_expert_does_not_drown_the_others():
    matrices = gaussian(4, 30, 20, seed=9)
    longer = matrices * torch.tensor([10.0, 1, 1, 1])[:, None, None]

    def cosine(merged: Tensor) -> float:
        return float((merged * matrices[0]).sum() / merged.norm() / matrices[0].norm())

    assert cosine(longer.mean(0)) > 0.95
    assert cosine(decouple_columns(longer)) < 0.6
    merged, plain = (decouple_columns(part) for part in (longer, matrices))
    ratio = merged / plain
    close(ratio, ratio[:1].expand_as(ratio))  # directions are the same, magnitudes of columns are not


def test_the_gradient_of_the_overlap_is_that_of_autograd():
    columns = gaussian(3, 6, 2, seed=10).requires_grad_()
    pairs = [(i, j) for i in range(3) for j in range(3) if i != j]
    sum((columns[i].mT @ columns[j]).square().sum() for i, j in pairs).backward()
    close(do_merging_lora.overlap_gradient(columns.detach()), columns.grad)


def test_pulling_apart_is_adam_on_the_penalised_overlap():
    columns, params = gaussian(3, 6, 2, seed=11), do_merging_lora.Params(penalty=0.5, steps=20)
    correction = torch.zeros_like(columns, requires_grad=True)
    optimiser = torch.optim.Adam([correction], lr=0.01 * float(columns.square().mean().sqrt()))
    pairs = [(i, j) for i in range(3) for j in range(3) if i != j]

    def overlap(moved: Tensor) -> Tensor:
        return torch.stack([(moved[i].mT @ moved[j]).square().sum() for i, j in pairs]).sum()

    for _ in range(20):
        optimiser.zero_grad()
        (overlap(columns + correction) + 0.5 * correction.square().sum()).backward()
        optimiser.step()
    pulled = do_merging_lora.pull_apart(columns, params)
    close(pulled, (columns + correction).detach())
    assert overlap(pulled) < 0.9 * overlap(columns)


def test_do_merging_of_identical_experts_without_corrections_is_the_expert():
    only = task_vectors(1).task(0)
    base = {name: torch.zeros_like(tensor) for name, tensor in only.items()}
    same = TaskVectors(base, [only] * 3, [*base], torch.float64)
    for name, tensor in do_merging_lora.merge(same, do_merging_lora.Params(steps=0)).items():
        close(tensor, only[name])
