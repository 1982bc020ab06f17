"""Measures taken before merging, against brute force, identities and limits; their statistics against scipy."""

import itertools
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor
from torch.nn.functional import gelu

from pipeline.diagnostics import (
    MEASURES,
    PREDICTED_MERGES,
    UNVERIFIED,
    Settings,
    directions,
    ensembles,
    prediction,
    subspaces,
)
from pipeline.diagnostics.behaviour import (
    add_task_vectors,
    disagreement,
    measure_disentanglement,
    measure_transfer,
    sample_examples,
)
from pipeline.diagnostics.subsets import average_pairs, draw_task_subsets, merge_subset
from pipeline.models.suite import SuiteFolder
from pipeline.models.task_vectors import TaskVectors
from pipeline.report import figures
from pipeline.report.collect import NAMES
from pipeline.report.views import diagnosis as diagnosis_view
from pipeline.runtime import store
from pipeline.runtime.errors import BenchmarkError
from pipeline.statistics.sampling import generator
from pipeline.steps import diagnose
from pipeline.toolbox import mloss
from tests.support import toy, toy_texts

T, N, L, D = 3, 4, 5, 6


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Draw standard normal numbers in float64."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def orthonormal_matrix(rows: int, columns: int, seed: int = 0) -> Tensor:
    """A matrix with orthonormal columns."""
    return torch.linalg.qr(normal(rows, columns, seed=seed)).Q


# M-Loss of one layer


def test_mloss_equals_its_definition_entry_by_entry():
    outputs = normal(T, N, L, D)
    gap = np.empty((N, L, D))
    averaged = np.empty((N, L, D))
    for place in itertools.product(range(N), range(L), range(D)):
        values = [float(outputs[(t, *place)]) for t in range(T)]
        averaged[place] = math.tanh(sum(values) / T)
        gap[place] = sum(math.tanh(value) for value in values) / T - averaged[place]
    lengths = [math.sqrt((gap[n] ** 2).sum()) for n in range(N)]
    shares = [lengths[n] / math.sqrt((averaged[n] ** 2).sum()) for n in range(N)]
    assert mloss.layer_mloss(outputs, torch.tanh).layer.tolist() == pytest.approx(lengths, rel=1e-12)
    assert mloss.layer_mloss(outputs, torch.tanh).normalised.tolist() == pytest.approx(shares, rel=1e-12)
    assert mloss.node_mloss(outputs, torch.tanh).tolist() == pytest.approx((gap**2).mean((0, 1)), rel=1e-12)
    assert float(mloss.layer_mloss(outputs, torch.tanh).power) == pytest.approx((averaged**2).mean(), rel=1e-12)


def test_mloss_is_zero_for_a_linear_activation_and_for_models_that_agree():
    outputs = normal(T, N, L, D)
    assert mloss.layer_mloss(outputs, lambda y: 3 * y).layer.max() < 1e-12
    same = outputs[:1].expand(T, -1, -1, -1)
    assert mloss.layer_mloss(same, gelu).layer.max() < 1e-12
    assert mloss.node_mloss(same, gelu).max() < 1e-24
    assert mloss.layer_mloss(outputs, gelu).layer.min() > 0.1


def test_a_convex_activation_has_a_gap_of_one_sign():
    outputs = normal(T, N, L, D)
    ensembled, averaged = outputs.relu().mean(0), outputs.mean(0).relu()
    assert (ensembled - averaged).min() >= -1e-15  # Jensen
    assert mloss.node_mloss(outputs, torch.relu).tolist() == pytest.approx((ensembled - averaged).square().mean((0, 1)))


def test_small_disagreements_cost_half_the_curvature_times_the_variance():
    centre, spread = normal(1, N, L, D), normal(T, N, L, D, seed=1)
    spread = spread - spread.mean(0)
    curvature = torch.func.vmap(torch.func.grad(torch.func.grad(gelu)))(centre.flatten()).view_as(centre[0])
    for scale in (1e-2, 1e-3):
        expected = (curvature / 2 * (scale * spread).square().mean(0)).flatten(1).norm(dim=1)
        lengths = mloss.layer_mloss(centre + scale * spread, gelu).layer
        assert lengths.tolist() == pytest.approx(expected.tolist(), rel=3 * scale)


def test_nodes_and_layers_are_the_same_squares_summed_differently():
    loss = mloss.layer_mloss(normal(T, 1, L, D), gelu)
    assert float(loss.layer.square()) == pytest.approx(L * D * float(loss.node.mean()), rel=1e-12)
    assert float(loss.normalised.square()) == pytest.approx(float(loss.node.mean() / loss.power), rel=1e-12)


# M-Loss of a tower


def test_mloss_of_a_tower_is_that_of_the_inputs_of_its_layers():
    problem = toy.clip_problem()
    experts = expert_tensors(problem)
    average = {name: torch.stack([expert[name] for expert in experts]).mean(0) for name in problem.vectors}
    average = {**problem.base, **average}
    examples = problem.examples[0]
    losses = ensembles.measure_mloss(problem.encoder, average, experts, examples)
    tokens = problem.encoder.embed(average, examples)
    for index in range(problem.encoder.depth):
        name = ensembles.layer_name(index)
        entering = problem.encoder.inputs(average, index, tokens)[f"{name}.weight"].unflatten(0, (len(examples), -1))
        outputs = torch.stack([entering @ expert[f"{name}.weight"].T + expert[f"{name}.bias"] for expert in experts])
        activated = outputs * torch.sigmoid(1.702 * outputs)
        averaged = outputs.mean(0) * torch.sigmoid(1.702 * outputs.mean(0))
        gap = activated.mean(0) - averaged
        assert torch.allclose(losses[index].layer, gap.flatten(1).norm(dim=1), rtol=1e-10)
        assert torch.allclose(losses[index].node, gap.square().mean((0, 1)), rtol=1e-10)
        tokens = problem.encoder.block(average, index, tokens)


@pytest.mark.parametrize("kind", toy_texts.MODELS)
def test_mloss_of_texts_is_that_of_each_without_padding(kind: str, monkeypatch: pytest.MonkeyPatch):
    problem = toy_texts.problem(kind)
    experts, texts = expert_tensors(problem), problem.examples[1]
    alone = [ensembles.measure_mloss(problem.encoder, problem.base, experts, text[None]) for text in texts]
    share = ((texts >= 0).sum(1) / (texts >= 0).sum()).double()
    for numbers in (ensembles.NUMBERS, 1):  # all texts at once, one after the other
        monkeypatch.setattr(ensembles, "NUMBERS", numbers)
        together = ensembles.measure_mloss(problem.encoder, problem.base, experts, texts)
        for block, parts in zip(together, zip(*alone, strict=True), strict=True):
            layer, normalised, node, power = (torch.stack(values) for values in zip(*parts, strict=True))
            assert torch.allclose(block.layer, layer.flatten(), rtol=1e-9)
            assert torch.allclose(block.normalised, normalised.flatten(), rtol=1e-9)
            assert torch.allclose(block.node, share @ node, rtol=1e-6)
            assert torch.allclose(block.power, share @ power, rtol=1e-6)


def test_mloss_of_a_tower_does_not_depend_on_the_batches(monkeypatch: pytest.MonkeyPatch):
    problem = toy.clip_problem()
    experts = expert_tensors(problem)
    whole = ensembles.measure_mloss(problem.encoder, problem.base, experts, problem.examples[0])
    monkeypatch.setattr(ensembles, "NUMBERS", 3 * 3 * 5 * 128)  # three examples of five tokens
    for block, batched in zip(
        whole, ensembles.measure_mloss(problem.encoder, problem.base, experts, problem.examples[0]), strict=True
    ):
        assert all(torch.allclose(a, b, rtol=1e-10) for a, b in zip(block, batched, strict=True))


def test_mloss_of_one_expert_repeated_is_zero():
    problem = toy.clip_problem()
    expert = expert_tensors(problem)[0]
    losses = ensembles.measure_mloss(problem.encoder, {**problem.base, **expert}, [expert] * 3, problem.examples[0])
    assert max(float(block.normalised.max()) for block in losses) < 1e-14


def expert_tensors(problem: toy.Problem) -> list[dict[str, Tensor]]:
    """Tensors of all experts."""
    return [
        {name: problem.base[name] + vectors[t] for name, vectors in problem.vectors.items()}
        for t in range(len(problem.examples))
    ]


# Directions


def test_cosines_and_norms_are_those_of_flat_task_vectors():
    vectors = toy.task_vectors()
    products = directions.inner_products(vectors)
    flat = torch.stack([torch.cat([part.flatten() for part in vectors.task(t).values()]) for t in range(3)])
    for i, j in itertools.product(range(3), repeat=2):
        expected = flat[i] @ flat[j] / flat[i].norm() / flat[j].norm()
        assert float(directions.cosine_similarities(products.sum(0))[i, j]) == pytest.approx(float(expected), abs=1e-12)
    assert directions.norms(products.sum(0)).tolist() == pytest.approx(flat.norm(dim=1).tolist(), rel=1e-12)
    first = vectors["first.weight"].flatten(1)
    assert float(directions.cosine_similarities(products)[0, 0, 1]) == pytest.approx(
        float(torch.cosine_similarity(first[0], first[1], dim=0)), abs=1e-12
    )


def test_a_zero_task_vector_has_cosine_zero():
    products = directions.inner_products({"a": torch.tensor([[1.0, 2.0], [0.0, 0.0]])})
    assert directions.cosine_similarities(products)[0].tolist() == [[pytest.approx(1.0), 0.0], [0.0, 0.0]]


def flat_vectors(rows: list[list[float]]) -> TaskVectors:
    """Task vectors of two tensors, "a" of two entries and "b" of the rest."""
    stacked = torch.tensor(rows, dtype=torch.float64)
    experts = [{"a": row[:2], "b": row[2:]} for row in stacked]
    return TaskVectors({name: torch.zeros_like(part) for name, part in experts[0].items()}, experts, ("a", "b"))


def test_sign_conflicts_by_hand():
    rows = [[9.0, -8.0, 7.0, 0.1], [9.0, 8.0, 0.1, 7.0], [-9.0, 0.1, 8.0, -7.0]]  # the smallest is trimmed
    pairs, mixed = directions.sign_conflicts(flat_vectors(rows), keep=0.75)
    assert pairs.tolist() == [[0, 1 / 2, 1 / 2], [1 / 2, 0, 1], [1 / 2, 1, 0]]
    assert mixed == 3 / 4  # the third entry remains in two that agree


@given(st.integers(0, 10_000), st.sampled_from([0.2, 0.5, 1.0]))
@settings(max_examples=25, deadline=None)
def test_sign_conflicts_equal_counting(seed: int, keep: float):
    rows = normal(4, 15, seed=seed)
    pairs, mixed = directions.sign_conflicts(flat_vectors(rows.tolist()), keep)
    trimmed = []
    for row in rows.float().tolist():
        limit = sorted((abs(value) for value in row), reverse=True)[math.ceil(keep * 15) - 1]
        trimmed.append([math.copysign(1, value) if abs(value) >= limit else 0 for value in row])
    for i, j in itertools.combinations(range(4), 2):
        both = [a * b for a, b in zip(trimmed[i], trimmed[j], strict=True) if a and b]
        assert float(pairs[i, j]) == pytest.approx(both.count(-1) / max(len(both), 1))
        assert pairs[j, i] == pairs[i, j]
    shared = [column for column in zip(*trimmed, strict=True) if sum(map(abs, column)) >= 2]
    assert mixed == pytest.approx(sum(1 in column and -1 in column for column in shared) / max(len(shared), 1))


def test_sign_conflicts_of_equal_and_of_opposite_task_vectors():
    row = normal(12).tolist()
    assert directions.sign_conflicts(flat_vectors([row, row]), 0.2) == (pytest.approx(torch.zeros(2, 2)), 0)
    pairs, mixed = directions.sign_conflicts(flat_vectors([row, [-value for value in row]]), 0.2)
    assert (pairs[0, 1], mixed) == (1, 1)


# Subspaces


def test_matrices_are_the_weights_of_attention_and_mlp():
    names = subspaces.select_matrices([*toy.clip_weights()[1]])
    assert names == [
        f"transformer.resblocks.0.{name}.weight"
        for name in ("attn.q", "attn.k", "attn.v", "attn.out_proj", "mlp.c_fc", "mlp.c_proj")
    ]


@pytest.mark.parametrize("shape", [(7, 5), (5, 7), (6, 6)])
def test_alignment_equals_the_projection_written_out(shape: tuple[int, int]):
    stacked = normal(T, *shape)
    left, values, _ = np.linalg.svd(stacked.sum(0).numpy())
    energy = np.sqrt(np.cumsum(values**2) / (values**2).sum())
    rank = next(k for k in range(1, len(values) + 1) if energy[k - 1] >= 0.95)
    assert rank < min(shape)
    projector = left[:, :rank] @ left[:, :rank].T
    expected = [np.linalg.norm(projector @ matrix.numpy()) / np.linalg.norm(matrix.numpy()) for matrix in stacked]
    assert subspaces.subspace_alignment(stacked).tolist() == pytest.approx(expected, rel=1e-12)


def test_alignment_in_limiting_cases():
    matrix = normal(1, 6, 4)
    assert subspaces.subspace_alignment(matrix).item() >= 0.95  # by the definition of 95 % of the energy
    left = orthonormal_matrix(8, 4)
    hidden = torch.stack([100 * left[:, :2] @ normal(2, 5), left[:, 2:] @ normal(2, 5, seed=1)])
    aligned = subspaces.subspace_alignment(hidden)
    assert aligned[0] >= 0.95
    assert aligned[1] < 1e-2  # the small task is orthogonal to the subspace of the merge
    assert torch.allclose(
        subspaces.subspace_alignment(7 * hidden), aligned, rtol=1e-10
    )  # the scale of a merge does not matter


def test_interference_equals_the_product_written_out():
    parts = subspaces.task_triplets(normal(T, 7, 5), 2)
    left, right = (np.concatenate([*part.numpy()], axis=1) for part in (parts[0], parts[2]))
    values = np.diag(parts[1].numpy().ravel())
    full = np.abs((left.T @ left - np.eye(6)) @ values @ (right.T @ right - np.eye(6)))
    interference = subspaces.task_interference(*parts)
    assert float(interference.sum()) == pytest.approx(full.sum(), rel=1e-12)
    for i, j in itertools.product(range(T), repeat=2):
        assert float(interference[i, j]) == pytest.approx(full[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].sum(), abs=1e-12)


def test_triplets_rebuild_matrices_of_their_rank():
    matrices = normal(T, 7, 2) @ normal(T, 2, 5, seed=1)
    left, values, right = subspaces.task_triplets(matrices, 2)
    assert torch.allclose(left * values[:, None] @ right.mT, matrices, atol=1e-12)


def test_orthogonal_tasks_and_one_task_do_not_interfere():
    left, right = orthonormal_matrix(9, 6), orthonormal_matrix(8, 6, seed=1)
    values = normal(3, 2, seed=2).abs()
    apart = [side.T.reshape(3, 2, -1).mT for side in (left, right)]
    assert subspaces.task_interference(apart[0], values, apart[1]).max() < 1e-12
    assert subspaces.task_interference(*subspaces.task_triplets(normal(1, 7, 5), 5)).max() < 1e-12
    twice = subspaces.task_triplets(normal(1, 7, 5).expand(2, -1, -1), 3)
    interference = subspaces.task_interference(*twice)
    assert interference.diagonal().tolist() == pytest.approx(
        [float(singular_values.sum()) for singular_values in twice[1]]
    )  # U'U V'V is a permutation
    assert float(interference.sum()) == pytest.approx(float(twice[1].sum()))


def test_subspaces_of_subsets_are_measured_on_each_subset_alone(pristine_suite: Path):
    name, subsets = "transformer.resblocks.0.mlp.c_fc.weight", [(0, 1, 2), (0, 2), (1, 2)]
    aligned, shares = subspaces.measure_subspaces(pristine_suite, name, subsets)
    stacked = SuiteFolder(pristine_suite).vectors()[name]
    rank = 32 // 3
    for row, subset in enumerate(subsets):
        members = stacked[[*subset]]
        assert torch.equal(aligned[row, [*subset]], subspaces.subspace_alignment(members))
        whole = subspaces.task_interference(*subspaces.task_triplets(members, rank)).sum()
        assert float(shares[row].nansum()) == pytest.approx(float(whole), rel=1e-4)
    assert (
        aligned.isnan().tolist() == shares.isnan().tolist() == [[False] * 3, [False, True, False], [True, False, False]]
    )


# Behaviour


def test_experts_are_scored_on_every_task_with_its_head(pristine_suite: Path):
    suite = SuiteFolder(pristine_suite)
    weights = {**suite.base(), **suite.expert("dogs")}
    expected = []
    for task in suite.suite.task_names:
        examples = torch.from_numpy(np.array(suite.examples("validation", task)))
        classes = (suite.suite.encoder()(weights, examples) @ suite.heads()[task].T).argmax(1)
        expected.append(100 * float((classes.numpy() == suite.labels("validation", task)).mean()))
    assert measure_transfer(pristine_suite, "dogs", 50, 0) == pytest.approx(expected)


def test_sampled_examples_keep_their_labels_and_depend_on_the_seed(pristine_suite: Path):
    suite = SuiteFolder(pristine_suite)
    examples, labels = sample_examples(suite, "train", "cats", 5, 0)
    pool, pool_labels = suite.examples("train", "cats"), suite.labels("train", "cats")
    for example, label in zip(examples, labels, strict=True):
        (place,) = (index for index in range(len(pool)) if (pool[index] == example).all())
        assert pool_labels[place] == label
    assert not np.array_equal(examples, sample_examples(suite, "train", "cats", 5, 1)[0])


def test_disagreement_counts_differing_classes():
    assert disagreement(torch.tensor([0, 1, 2, 3]), torch.tensor([0, 1, 0, 0])) == 0.5


def test_arithmetic_is_the_scaled_sum(pristine_suite: Path):
    suite = SuiteFolder(pristine_suite)
    vectors, weights = suite.vectors(torch.float64), add_task_vectors(suite, [0, 2], 0.3)
    for name in suite.suite.groups:
        expected = suite.base()[name].double() + 0.3 * (vectors[name][0] + vectors[name][2])
        assert torch.allclose(weights[name].double(), expected, atol=1e-6)


def test_disentanglement_error_is_zero_with_itself_and_with_a_zero_task_vector(tmp_path: Path):
    toy.write_suite(tmp_path)
    base = dict(SuiteFolder(tmp_path).base())
    unmoved = {name: base[name] for name in SuiteFolder(tmp_path).suite.groups}
    store.write_tensors(tmp_path / "experts" / "dogs.safetensors", unmoved)
    moved = {name: tensor + 0.5 * normal(*tensor.shape, seed=3).float() for name, tensor in unmoved.items()}
    store.write_tensors(tmp_path / "experts" / "fish.safetensors", moved)
    errors = measure_disentanglement(tmp_path, 0, "train", 12, 1.0, 0)
    assert errors[:2] == [0, 0]
    assert errors[2] > 0
    assert errors[3] == errors[2]  # the merge of all tasks is that of cats and fish: dogs add nothing


# Subsets


@pytest.mark.parametrize(("tasks", "count"), [(3, 200), (5, 7), (8, 200), (8, 1000), (2, 5), (20, 40)])
def test_subsets_are_distinct_and_cycle_through_the_sizes(tasks: int, count: int):
    subsets = draw_task_subsets(tasks, count, generator(0))
    assert len({*subsets}) == len(subsets) == min(count, 2**tasks - tasks - 2)
    assert all(subset == tuple(sorted({*subset})) and 2 <= len(subset) < tasks for subset in subsets)
    assert all(0 <= task < tasks for subset in subsets for task in subset)
    sizes = [sum(len(subset) == size for subset in subsets) for size in range(2, tasks)]
    most = max(sizes, default=0)
    assert all(n in (most, most - 1) or n == math.comb(tasks, size) for size, n in enumerate(sizes, start=2))
    assert subsets == draw_task_subsets(tasks, count, generator(0))


def test_pairs_are_averaged_over_the_other_tasks_of_the_subset():
    pairs = torch.tensor([[9.0, 1, 2], [3, 9, 4], [5, 6, 9]], dtype=torch.float64)
    averages = average_pairs(pairs, [(0, 1, 2), (0, 2)])
    assert averages[0].tolist() == [1.5, 3.5, 5.5]
    assert averages[1, [0, 2]].tolist() == [2, 5]
    assert bool(averages[1, 1].isnan())


def test_merges_of_a_subset_are_scored_on_its_tasks(pristine_suite: Path):
    merged = merge_subset(pristine_suite, (0, 2), "train", Settings(scale=1.0, images=5, samples=12))
    suite = SuiteFolder(pristine_suite)
    assert [*merged.accuracies] == [*PREDICTED_MERGES]
    for scale, accuracies in zip((0.5, 1.0), merged.accuracies.values(), strict=True):
        weights = add_task_vectors(suite, [0, 2], scale)
        for task, accuracy in zip(("cats", "fish"), accuracies, strict=True):
            examples = torch.from_numpy(np.array(suite.examples("validation", task)))
            right = (suite.suite.encoder()(weights, examples) @ suite.heads()[task].T).argmax(1).numpy()
            assert accuracy == pytest.approx(100 * float((right == suite.labels("validation", task)).mean()))
    assert [len(blocks) for blocks in merged.ensembles] == [1, 1]
    assert len(merged.ensembles[0][0].layer) == 12


# Statistics


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=3, max_size=12))
@settings(max_examples=60, deadline=None)
def test_the_correlation_is_that_of_spearman_with_ties(points: list[tuple[int, int]]):
    xs, ys = (np.array(side, dtype=float) for side in zip(*points, strict=True))
    (rho,) = prediction.rank_correlation(xs[None], ys[None], np.zeros(len(points)))
    if len({*xs}) == 1 or len({*ys}) == 1:
        assert np.isnan(rho)
    else:
        assert rho == pytest.approx(stats.spearmanr(xs, ys).statistic, abs=1e-12)


def test_strata_remove_the_differences_between_them():
    rng = np.random.default_rng(0)
    strata = np.repeat([0, 1, 2], 40)
    xs, ys = rng.normal(size=(2, 120)) + 10 * strata
    zeros = np.zeros(120)
    assert prediction.rank_correlation(xs[None], ys[None], zeros)[0] > 0.85
    assert abs(prediction.rank_correlation(xs[None], ys[None], strata)[0]) < 0.25
    related = xs + 20 * np.array([2, 0, 1])[strata]  # the same order within strata, a different one between them
    assert prediction.rank_correlation(xs[None], related[None], strata)[0] == pytest.approx(1)


def test_the_interval_is_that_of_a_plain_bootstrap():
    rng = np.random.default_rng(1)
    xs = rng.normal(size=30)
    ys = xs + rng.normal(size=30)
    low, high = prediction.bootstrap_interval(xs, ys, np.zeros(30), seed=0)
    draws = rng.integers(30, size=(3000, 30))
    ranks = (stats.rankdata(values[draws], axis=1) for values in (xs, ys))
    edges = np.quantile([np.corrcoef(pair)[0, 1] for pair in zip(*ranks, strict=True)], (0.025, 0.975))
    assert (low, high) == pytest.approx(tuple(edges), abs=0.03)
    assert low < stats.spearmanr(xs, ys).statistic < high
    assert prediction.bootstrap_interval(xs, ys, np.zeros(30), seed=0) == (low, high)


def test_the_interval_resamples_within_strata():
    strata = np.array([0, 0, 0, 1])
    xs, ys = np.array([1.0, 2, 3, 9]), np.array([3.0, 2, 1, 9])
    assert prediction.bootstrap_interval(xs, ys, strata, seed=0) == (pytest.approx(-1), pytest.approx(-1))


def test_a_constant_measure_has_an_undefined_correlation():
    constant, losses = np.ones(5), np.arange(5.0)
    (row,) = prediction.correlate_measures("s", {"m": constant}, {"a": losses}, [0] * 5, [(t,) for t in range(5)], 0)
    assert row[:4] == ("s", "m", "a", 5)
    assert np.isnan(row[4:]).all()


def test_the_jackknife_leaves_out_each_task_with_all_its_points():
    rng = np.random.default_rng(2)
    members = [*itertools.combinations(range(6), 2)]
    xs, ys = rng.normal(size=(2, len(members)))
    without = []
    for task in range(6):
        remaining = [index for index, tasks in enumerate(members) if task not in tasks]
        without.append(stats.spearmanr(xs[remaining], ys[remaining]).statistic)
    error = math.sqrt(5 / 6 * sum((rho - np.mean(without)) ** 2 for rho in without))
    centre, reach = stats.spearmanr(xs, ys).statistic, 2.5705818 * error  # t(0.975, 5)
    interval = prediction.jackknife_interval(xs, ys, np.zeros(len(members)), members)
    assert interval == pytest.approx((max(centre - reach, -1), min(centre + reach, 1)), abs=1e-6)


def test_subsets_of_few_tasks_fool_the_bootstrap_more_than_the_jackknife():
    """Measures and losses of tasks are independent, but their means over subsets are not."""
    rng = np.random.default_rng(0)
    members = [*itertools.combinations(range(8), 4)]
    membership = np.array([[task in subset for task in range(8)] for subset in members]) / 4
    fooled = np.zeros(2)
    for seed in range(20):
        xs, ys = rng.normal(size=(2, 8)) @ membership.T
        strata = np.zeros(len(members))
        for kind, (low, high) in enumerate(
            (
                prediction.bootstrap_interval(xs, ys, strata, seed),
                prediction.jackknife_interval(xs, ys, strata, members),
            )
        ):
            fooled[kind] += low > 0 or high < 0
    assert fooled[0] > 8
    assert fooled[1] < fooled[0] / 2


# The stage


@pytest.fixture(scope="module")
def diagnosis(tmp_path_factory: pytest.TempPathFactory, pristine_suite: Path) -> Path:
    """Diagnose the tiny suite."""
    output = tmp_path_factory.mktemp("diagnosis")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAMERGING_WORKERS", "1")
        diagnose.diagnose(pristine_suite, "train", Settings(samples=6, images=5), output)
    return output


def test_the_tables_hold_every_measure_for_every_task(diagnosis: Path):
    tasks, subsets = (pd.read_csv(diagnosis / f"{name}.csv") for name in ("tasks", "subsets"))
    assert [*tasks.task] == [*toy.TASKS]
    assert {*MEASURES} < {*tasks.columns}
    assert tasks.notna().all(axis=None)
    assert {*subsets.subset} == {"cats+dogs", "cats+fish", "dogs+fish"}
    assert (subsets.groupby("subset")["size"].first() == 2).all()


def test_a_loss_is_the_experts_accuracy_minus_that_of_the_merge(diagnosis: Path, pristine_suite: Path):
    tasks = pd.read_csv(diagnosis / "tasks.csv").set_index("task")
    expert = [measure_transfer(pristine_suite, task, 5, 0)[index] for index, task in enumerate(toy.TASKS)]
    assert [*tasks.expert] == pytest.approx(expert)
    merged = merge_subset(pristine_suite, (0, 1, 2), "train", Settings(samples=6, images=5)).accuracies
    for method, accuracies in merged.items():
        assert [*tasks[f"loss_{method}"]] == pytest.approx(np.subtract(expert, accuracies))


def test_the_measures_are_tidy_and_agree_with_the_tables(diagnosis: Path):
    measures = pd.read_csv(diagnosis / "measures.csv", keep_default_na=False)
    assert [*measures] == ["suite", "measure", "layer", "task", "other", "value"]
    assert not measures.duplicated(["measure", "layer", "task", "other"]).any()
    tasks = pd.read_csv(diagnosis / "tasks.csv").set_index("task")
    pairs = measures[(measures.measure == "cosine") & (measures.layer == "")]
    assert pairs.groupby("task").value.mean()[tasks.index].tolist() == pytest.approx(tasks.cosine.tolist(), rel=1e-4)
    for name in ("sar", "sti", "mloss", "mloss_normalised"):
        rows = measures[measures.measure == name]
        assert rows.groupby("task").value.mean()[tasks.index].tolist() == pytest.approx(tasks[name].tolist(), rel=1e-4)
    nodes = store.TensorFile(diagnosis / "nodes.safetensors")["transformer.resblocks.0.mlp.c_fc"]
    medians = measures[measures.measure == "node_mloss_q50"].value.tolist()
    assert nodes.quantile(0.5, dim=1).tolist() == pytest.approx(medians, rel=1e-4)


def test_predictions_are_the_correlations_of_the_tables(diagnosis: Path):
    rows, tasks = (pd.read_csv(diagnosis / f"{name}.csv") for name in ("prediction", "tasks"))
    assert {*rows.scope} == {"tasks", "subsets", "subsets of one size"}
    for row in rows[rows.scope == "tasks"].itertuples():
        xs, ys = tasks[row.measure], tasks[f"loss_{row.method}"]
        if xs.nunique() > 1 and ys.nunique() > 1:
            assert row.rho == pytest.approx(stats.spearmanr(xs, ys).statistic, abs=1e-5)
        else:
            assert np.isnan(row.rho)
    means = pd.read_csv(diagnosis / "subsets.csv").groupby("subset", sort=False).mean(numeric_only=True)
    for row in rows[rows.scope == "subsets"].itertuples():
        xs, ys = means[row.measure], means[f"loss_{row.method}"]
        if xs.nunique() > 1 and ys.nunique() > 1:
            assert row.rho == pytest.approx(stats.spearmanr(xs, ys).statistic, abs=1e-5)


def test_a_suite_of_one_task_is_refused(pristine_suite: Path, tmp_path: Path):
    suite = SuiteFolder(pristine_suite).suite
    for path in pristine_suite.rglob("*"):
        if path.is_file():
            store.write_bytes(tmp_path / path.relative_to(pristine_suite), path.read_bytes())
    suite.model_copy(update={"tasks": suite.tasks[:1]}).save(tmp_path)
    with pytest.raises(BenchmarkError, match="tiny: 1 task; a diagnosis needs two"):
        diagnose.diagnose(tmp_path, "train", Settings(), tmp_path / "out")


# Sentences and figures


def prediction_rows(first: str = "sar", **changes: float) -> pd.DataFrame:
    """One row per scope and measure, `first` and M-Loss, of rho 0.5 in [0.1, 0.8] unless `changes` say otherwise."""
    values = {"n": 8, "rho": 0.5, "low": 0.1, "high": 0.8, "task_low": -0.1, "task_high": 0.9} | changes
    scopes = ("tasks", "subsets", "subsets of one size")
    rows = [
        {"suite": "s", "scope": scope, "measure": measure, "method": "average", **values}
        for scope in scopes
        for measure in (first, "mloss", *(["size"] if scope == "subsets" else []))
    ]
    return pd.DataFrame(rows)


def test_the_sentences_follow_p_and_the_intervals():
    tasks, subsets, sizes = diagnosis_view.sentences(prediction_rows(), NAMES)[:3]
    assert "Over the 8 tasks" in tasks
    assert "p is below 0.05 for 0, where chance alone would give about 0" in tasks
    assert "p is below 0.05 for 2" in diagnosis_view.sentences(prediction_rows(rho=0.8), NAMES)[0]
    assert "zero lies outside the 95 % intervals of 0." in subsets  # subsets: the interval over tasks
    assert "M-Loss has ρ = +0.50 with the loss of simple average (p = 0.22)." in tasks
    assert "M-Loss has ρ = +0.50 [-0.10, +0.90] with the loss of simple average (includes zero)." in subsets
    assert "strongest is that of subspace alignment ratio" in tasks
    assert sizes.endswith("the number of tasks alone predicts the mean loss: ρ = +0.50 with that of simple average.")


@pytest.mark.parametrize("measure", [*MEASURES])
def test_exactly_the_unverified_measures_are_marked(measure: str):
    paragraph = " ".join(diagnosis_view.sentences(prediction_rows(measure), NAMES))
    marked = f"is that of {MEASURES[measure]} (our reading): " in paragraph
    explained = paragraph.endswith(f": {MEASURES[measure]} ({UNVERIFIED.get(measure)}).")
    assert marked == explained == ("our reading" in paragraph.lower()) == (measure in {"sti", "disentanglement"})


def test_there_are_no_sentences_for_undefined_correlations():
    assert diagnosis_view.sentences(prediction_rows(rho=math.nan), NAMES) == ()


def test_the_heat_maps_show_the_measured_values(diagnosis: Path):
    measures = pd.read_csv(diagnosis / "measures.csv", keep_default_na=False)
    tasks = tuple(toy.TASKS)
    panels = diagnosis_view.draw_mloss(measures, tasks, 6.5).axes[:2]
    for axes, measure in zip(panels, ("mloss", "mloss_normalised"), strict=True):
        rows = measures[measures.measure == measure].set_index("task").value
        assert axes.images[0].get_array()[:, 0].tolist() == rows[[*tasks]].tolist()
    transfers = measures[measures.measure == "transfer"].set_index(["task", "other"]).value
    accuracies = diagnosis_view.draw_transfer(measures, tasks, 6.5).axes[0].images[0].get_array()
    assert accuracies.tolist() == [[transfers[task, other] for other in tasks] for task in tasks]
    figure = diagnosis_view.draw_cosines(measures, tasks, 6.5)
    grid = figure.axes[0].images[0].get_array()
    pairs = measures[(measures.measure == "cosine") & (measures.layer == "")].set_index(["task", "other"]).value
    assert grid[0, 1] == grid[1, 0] == pairs["cats", "dogs"]
    assert np.ma.getmaskarray(grid).diagonal().all()
    redrawn = diagnosis_view.draw_cosines(measures, tasks, 6.5)
    assert figures.render_figure(figure, "svg", "x", 100) == figures.render_figure(redrawn, "svg", "x", 100)
