"""Data-free methods that work entry by entry, against oracles in NumPy, identities and limits."""

import math
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline import methods
from pipeline.merges import storage
from pipeline.merges.serving import masks
from pipeline.merges.solution import Solution
from pipeline.methods import arcee_fusion, consensus, dare, dare_ties, emr, nan, nan_weights, pcb, rkl_fusion, ties
from pipeline.models.suite import SuiteFolder
from pipeline.models.task_vectors import TaskVectors
from pipeline.models.weights import Weights
from pipeline.statistics.sampling import generator
from pipeline.steps import evaluate
from pipeline.steps import merge as merge_step
from pipeline.toolbox.dropping import drop_entries
from pipeline.toolbox.trimming import lowest_of_top
from tests.support import toy

SHAPES = {"a": (8, 12), "b": (30,), "c": (4, 5, 6)}
SIZE = sum(math.prod(shape) for shape in SHAPES.values())


def vectors_of(rows: np.ndarray) -> TaskVectors:
    """Return task vectors in float64 from one row of SIZE entries per task; the base is not zero."""
    base = {name: torch.full(shape, 0.25, dtype=torch.float64) for name, shape in SHAPES.items()}
    parts = [torch.from_numpy(row).split([math.prod(shape) for shape in SHAPES.values()]) for row in rows]
    experts = [
        {name: base[name] + part.view(shape) for (name, shape), part in zip(SHAPES.items(), row, strict=True)}
        for row in parts
    ]
    return TaskVectors(base, experts, tuple(SHAPES), torch.float64)


def random_rows(seed: int = 0, tasks: int = 4) -> np.ndarray:
    """Return random multiples of 2^-20 [T, SIZE], so that subtracting the base is exact."""
    rng = np.random.default_rng(seed)
    return np.round(rng.standard_normal((tasks, SIZE)) * 2**20) / 2**20


def flat(delta: Mapping[str, torch.Tensor]) -> np.ndarray:
    """Return all entries, tensor by tensor."""
    return np.concatenate([delta[name].flatten().numpy() for name in SHAPES])


# DARE


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_dropping_keeps_the_expected_number_of_entries_and_rescales_them(share: float):
    tensor = 1 + torch.rand(200, 100, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    dropped = drop_entries(tensor, share, torch.Generator().manual_seed(2))
    mask = dropped != 0
    torch.testing.assert_close(dropped[mask], tensor[mask] / (1 - share), rtol=1e-15, atol=0)
    deviation = math.sqrt(share * (1 - share) * tensor.numel())
    assert abs(int(mask.sum()) - (1 - share) * tensor.numel()) <= 4 * deviation


def test_dropping_is_unbiased():
    tensor, rng, draws = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64), torch.Generator().manual_seed(3), 20_000
    mean = drop_entries(tensor.expand(draws, 3), 0.9, rng).mean(0)
    assert ((mean - tensor).abs() <= 4 * tensor.abs() * math.sqrt(0.9 / 0.1 / draws)).all()


def test_dare_without_dropping_is_task_arithmetic():
    rows = random_rows()
    delta = flat(dare.merge(vectors_of(rows), dare.Params(drop=0.0, scale=0.3), 0))
    np.testing.assert_allclose(delta, 0.3 * rows.sum(0), rtol=0, atol=1e-14)


def test_dare_draws_separately_for_every_task_tensor_and_seed():
    expert = {name: torch.ones(40, 40) for name in ("a", "b")}
    base = {name: torch.zeros(40, 40) for name in expert}

    def merged(tasks: int, seed: int) -> Weights:
        vectors = TaskVectors(base, [expert] * tasks, tuple(expert))
        return dare.merge(vectors, dare.Params(drop=0.5, scale=1.0), seed)

    of_one, of_two, reseeded = merged(1, 0), merged(2, 0), merged(1, 1)
    assert {*of_one["a"].unique().tolist()} == {0.0, 2.0}
    assert {*of_two["a"].unique().tolist()} == {0.0, 2.0, 4.0}
    assert not torch.equal(of_one["a"], of_one["b"])
    assert not torch.equal(of_one["a"], reseeded["a"])
    assert ((of_two["a"] - of_one["a"]) >= 0).all()  # the first task's mask does not depend on the second


@pytest.mark.parametrize("name", ["dare", "dare_ties"])
def test_dare_draws_the_same_masks_in_both_precisions(name: str):
    module, (base, experts) = methods.load(name), toy.models(dtype=torch.float32)
    narrow, wide = (
        module.merge(TaskVectors(base, experts, toy.GROUPS, dtype), module.Params(), 5)
        for dtype in (torch.float32, torch.float64)
    )
    for group in toy.GROUPS:
        assert narrow[group].dtype == torch.float32
        torch.testing.assert_close(narrow[group].double(), wide[group], rtol=0, atol=1e-6)


def test_dare_ties_without_dropping_is_ties():
    vectors, settings = vectors_of(random_rows()), {"keep": 0.3, "scale": 0.7, "aggregate": "mean"}
    delta = dare_ties.merge(vectors, dare_ties.Params(drop=0.0, **settings), 0)
    assert toy.same(delta, ties.merge(vectors, ties.Params(**settings)))


def test_dare_ties_is_ties_of_dares_sparse_vectors():
    rows, seed = random_rows(), 3
    vectors = vectors_of(rows)
    sparse = [
        {name: drop_entries(tensor, 0.5, generator(seed, "drop", t, name)) for name, tensor in vectors.task(t).items()}
        for t in range(vectors.tasks)
    ]
    zero = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in SHAPES.items()}
    expected = ties.merge(TaskVectors(zero, sparse, tuple(SHAPES), torch.float64), ties.Params(keep=0.3, scale=1.0))
    delta = dare_ties.merge(vectors, dare_ties.Params(drop=0.5, keep=0.3, scale=1.0), seed)
    assert toy.same(delta, expected)
    summed = dare.merge(vectors, dare.Params(drop=0.5, scale=1.0), seed)
    np.testing.assert_allclose(flat(summed), sum(flat(vector) for vector in sparse), rtol=0, atol=1e-14)


# Consensus


def consensus_of(rows: np.ndarray, **settings: float) -> np.ndarray:
    """Return the merged delta with scale 1."""
    return flat(consensus.merge(vectors_of(rows), consensus.Params(scale=1.0, **settings)))


@pytest.mark.parametrize("threshold", [0.2, 0.6, 1.5])
@pytest.mark.parametrize("min_tasks", [1, 2, 3])
def test_consensus_equals_the_oracle(threshold: float, min_tasks: int):
    rows = random_rows()
    expected = []
    for column in rows.T:
        total = math.fsum(column)
        users = sum(abs(value) > threshold * abs(total - value) for value in column)
        expected.append(total if users >= min_tasks else 0.0)
    delta = consensus_of(rows, threshold=threshold, min_tasks=min_tasks)
    np.testing.assert_allclose(delta, expected, rtol=0, atol=1e-14)
    assert delta.any()


def test_consensus_of_no_task_is_task_arithmetic_and_of_too_many_is_the_base():
    rows = random_rows()
    np.testing.assert_allclose(consensus_of(rows, min_tasks=0), rows.sum(0), rtol=0, atol=1e-14)
    assert not consensus_of(rows, min_tasks=len(rows) + 1).any()


def test_consensus_keeps_less_for_more_tasks_and_a_higher_threshold():
    rows = random_rows()
    for settings in ([{"min_tasks": k} for k in range(6)], [{"threshold": x} for x in (0.1, 0.3, 0.6, 1.0, 3.0)]):
        nonzero = [consensus_of(rows, **setting) != 0 for setting in settings]
        assert all(not (fewer & ~more).any() for more, fewer in pairwise(nonzero))
        assert nonzero[0].sum() > nonzero[-1].sum()


def test_consensus_of_one_task_is_its_expert():
    rows = random_rows(tasks=1)
    assert np.array_equal(consensus_of(rows, min_tasks=1), rows[0])


# PCB


def pcb_oracle(rows: np.ndarray, keep: float, clip: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the merged delta for scale 1 and the cut vectors, from sorted arrays."""
    tasks, size = rows.shape

    def unit(values: np.ndarray) -> np.ndarray:
        low, high = values.min(1, keepdims=True), values.max(1, keepdims=True)
        return (values - low) / (high - low)

    ordered = np.sort(np.abs(rows), axis=1)
    low, high = (ordered[:, math.floor(rank), None] for rank in (clip * size, (1 - clip) * size - 1))
    magnitudes = np.clip(np.abs(rows), low, high)
    normalised = unit(magnitudes)
    score = np.exp(tasks * normalised**2) * np.tanh(rows * (np.sign(rows) * normalised).sum(0))
    lowest = np.sort(score, axis=1)[:, size - math.ceil(keep * size), None]
    weight = unit(np.maximum(score, lowest))
    vectors = np.sign(rows) * magnitudes
    return (vectors * weight).sum(0) / np.maximum(weight.sum(0), 1e-12), vectors


@pytest.mark.parametrize("keep", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("clip", [1e-4, 0.05])
def test_pcb_equals_the_oracle(keep: float, clip: float):
    rows = random_rows()
    delta = flat(pcb.merge(vectors_of(rows), pcb.Params(keep=keep, clip=clip, scale=0.9)))
    np.testing.assert_allclose(delta, 0.9 * pcb_oracle(rows, keep, clip)[0], rtol=1e-12, atol=1e-15)
    assert delta.any()


def test_pcb_is_an_average_of_the_cut_task_vectors_or_zero():
    rows = random_rows()
    delta = flat(pcb.merge(vectors_of(rows), pcb.Params(keep=0.3, scale=1.0)))
    cut = pcb_oracle(rows, 0.3, 0.01)[1]
    nonzero = delta != 0
    assert 0 < nonzero.sum() < SIZE
    assert (delta[nonzero] >= cut.min(0)[nonzero] - 1e-12).all()
    assert (delta[nonzero] <= cut.max(0)[nonzero] + 1e-12).all()


def test_pcb_of_one_task_is_the_top_of_its_cut_vector():
    rows, keep = random_rows(tasks=1), 0.2
    delta = flat(pcb.merge(vectors_of(rows), pcb.Params(keep=keep, scale=1.0)))
    cut = pcb_oracle(rows, keep, 0.01)[1][0]
    nonzero = delta != 0
    np.testing.assert_allclose(delta[nonzero], cut[nonzero], rtol=1e-12)
    assert nonzero.sum() == math.ceil(keep * SIZE) - 1  # the lowest of the top has weight 0
    assert np.abs(rows[0][nonzero]).min() >= np.abs(rows[0][~nonzero]).max()


@pytest.mark.parametrize(
    ("size", "clip", "low", "high"), [(1000, 0.01, 11, 990), (96, 0.01, 1, 95), (1000, 0.25, 251, 750)]
)
def test_pcb_cuts_at_the_ranks_of_the_released_code(size: int, clip: float, low: int, high: int):
    """Magnitudes of 1 to `size` equal their ranks."""
    entries = torch.randperm(size, generator=torch.Generator().manual_seed(0)) + 1.0
    signs = torch.where(entries % 2 == 0, 1.0, -1.0)
    expert = {"a": (entries * signs)[: size // 2], "b": (entries * signs)[size // 2 :]}
    zero = {name: torch.zeros_like(tensor) for name, tensor in expert.items()}
    delta = pcb.merge(TaskVectors(zero, [expert], ("a", "b")), pcb.Params(keep=1.0, clip=clip, scale=1.0))
    merged = torch.cat([*delta.values()])
    expected = torch.where(entries > low, entries.clamp(max=high), 0) * signs  # entries cut from below have weight zero
    torch.testing.assert_close(merged, expected, rtol=1e-6, atol=0)


def test_pcb_is_odd_but_not_homogeneous():
    rows = random_rows()
    delta, negated, doubled = (flat(pcb.merge(vectors_of(c * rows), pcb.Params(keep=0.3))) for c in (1, -1, 2))
    np.testing.assert_allclose(negated, -delta, rtol=1e-12, atol=0)
    assert np.abs(doubled - 2 * delta).max() > 1e-3


# NAN


@pytest.mark.parametrize("scope", ["tensor", "model"])
@pytest.mark.parametrize("method", [nan, nan_weights])
def test_nan_equals_the_oracle(method: ModuleType, scope: str):
    rows = random_rows() * np.array([[1.0], [2.0], [0.5], [4.0]])
    vectors = vectors_of(rows)
    coefficients = method.merge(vectors, method.Params(scope=scope, scale=1.5)).numpy()
    moved = rows + (0.25 if method is nan_weights else 0.0)
    ends = np.cumsum([math.prod(shape) for shape in SHAPES.values()])[:-1]
    parts = np.split(moved, ends, axis=1) if scope == "tensor" else [moved] * len(SHAPES)
    for column, part in zip(coefficients.T, parts, strict=True):
        inverse = 1 / np.linalg.norm(part, axis=1)
        np.testing.assert_allclose(column, 1.5 * inverse / inverse.sum(), rtol=1e-13)


def test_nan_of_equal_norms_is_the_average():
    rows = random_rows(tasks=1)[0] * np.sign(random_rows(1, tasks=4))
    for scope in ("tensor", "model"):
        coefficients = nan.merge(vectors_of(rows), nan.Params(scope=scope))
        torch.testing.assert_close(coefficients, torch.full((4, 3), 0.25, dtype=torch.float64), rtol=0, atol=1e-14)


@pytest.mark.parametrize("scope", ["tensor", "model"])
@pytest.mark.parametrize("size", [1e-3, 1e-2])
def test_nan_of_the_weights_is_the_average_within_the_spread_of_the_norms(size: float, scope: str):
    """|T lambda_t - 1| <= (greatest norm - smallest norm) / smallest norm, which is at most 2 |tau| / |theta|."""
    vectors = vectors_of(size * random_rows() * np.array([[1.0], [2.0], [0.5], [4.0]]))
    coefficients = nan_weights.merge(vectors, nan_weights.Params(scope=scope))
    squares = torch.stack([(vectors.base(name) + vectors[name]).flatten(1).square().sum(1) for name in vectors], dim=1)
    norms = (squares if scope == "tensor" else squares.sum(1, keepdim=True).expand_as(squares)).sqrt()
    spread = (norms.max(0).values - norms.min(0).values) / norms.min(0).values
    assert ((4 * coefficients - 1).abs() <= spread + 1e-14).all()
    assert (spread > 0).all()
    by_vectors = nan.merge(vectors, nan.Params(scope=scope))
    assert (4 * by_vectors - 1).abs().max() > 1 > 10 * (4 * coefficients - 1).abs().max()


def test_nan_weighs_a_scaled_task_vector_inversely():
    rows = random_rows()
    unscaled, scaled = (
        nan.merge(vectors_of(rows * np.array([[c], [1.0], [1.0], [1.0]])), nan.Params(scope="tensor")) for c in (1, 8)
    )
    torch.testing.assert_close(scaled[0] / scaled[1], unscaled[0] / unscaled[1] / 8, rtol=1e-12, atol=0)
    torch.testing.assert_close(scaled[2] / scaled[1], unscaled[2] / unscaled[1], rtol=1e-12, atol=0)


def test_nan_leaves_out_an_expert_that_did_not_move():
    rows = random_rows()
    rows[1] = 0
    coefficients = nan.merge(vectors_of(rows), nan.Params())
    rest = nan.merge(vectors_of(rows[[0, 2, 3]]), nan.Params())
    assert not coefficients[1].any()
    torch.testing.assert_close(coefficients[[0, 2, 3]], rest, rtol=1e-15, atol=0)  # sums of four numbers and of three


# EMR


def emr_parts(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, Solution]:
    """Return tau_uni [SIZE], masks [T, SIZE], scales [T] and the whole solution of EMR."""
    solution = emr.merge(vectors_of(rows), emr.Params())
    assert solution.extras.kind == "masks"
    tensors = solution.extras.tensors
    unpacked = [
        flat({name: masks.unpack_mask(tensors[f"{task}/{name}"], torch.Size(shape)) for name, shape in SHAPES.items()})
        for task in range(len(rows))
    ]
    scales = np.array([float(tensors[f"{task}/scale"]) for task in range(len(rows))])
    return flat(solution.delta), np.stack(unpacked), scales, solution


def test_emr_equals_the_oracle():
    rows = random_rows()
    rows[:, :3] = [[1, 0, 2], [-1, 0, 2], [0, 0, -5], [0, 0, 0]]  # sums of zero, of nothing, and of one against two
    unified, task_masks, scales, _ = emr_parts(rows)
    for position, column in enumerate(rows.T):
        sign = 1 if math.fsum(column) > 0 else -1
        agreeing = [abs(value) for value in column if value * sign > 0]
        assert unified[position] == sign * max(agreeing, default=0.0)
        assert [*task_masks[:, position]] == [value * sign > 0 for value in column]
    np.testing.assert_allclose(scales, np.abs(rows).sum(1) / (task_masks * np.abs(unified)).sum(1), rtol=1e-14)


def test_emr_preserves_the_l1_norm_of_every_task_vector():
    rows = random_rows()
    unified, task_masks, scales, _ = emr_parts(rows)
    np.testing.assert_allclose(np.abs(scales[:, None] * task_masks * unified).sum(1), np.abs(rows).sum(1), rtol=1e-13)


def test_emr_of_one_task_is_its_expert():
    rows = random_rows(tasks=1)
    rows[0, ::7] = 0
    unified, task_masks, scales, _ = emr_parts(rows)
    assert np.array_equal(scales, [1.0])
    assert np.array_equal(unified * task_masks[0], rows[0])


def test_emr_is_positively_homogeneous():
    rows = random_rows()
    (unified, masks_one, scales_one, _), (quadrupled, masks_two, scales_two, _) = emr_parts(rows), emr_parts(4 * rows)
    assert np.array_equal(4 * unified, quadrupled)
    assert np.array_equal(masks_one, masks_two)
    assert np.array_equal(scales_one, scales_two)


def test_emr_serves_every_task_its_own_model(pristine_suite: Path, tmp_path: Path):
    suite = SuiteFolder(pristine_suite)
    storage.save(merge_step.merge_data_free(emr, suite.vectors(), emr.Params(), suite.suite.task_names), tmp_path)
    vectors = suite.vectors(torch.float64)
    unified = emr.merge(vectors, emr.Params()).delta
    total = sum(float(vectors[name].abs().sum()) for name in vectors)
    models = [*storage.load_models(suite, tmp_path, 0)]
    assert [served.tasks for served in models] == [(task,) for task in suite.suite.task_names]
    distance = 0.0
    for index, served in enumerate(models):
        vector = vectors.task(index)
        agrees = {name: vector[name] * unified[name] > 0 for name in vectors}
        scale = sum(float(vector[name].abs().sum()) for name in vectors)
        scale /= sum(float((agrees[name] * unified[name]).abs().sum()) for name in vectors)
        for name in vectors:
            expected = vectors.base(name) + scale * agrees[name] * unified[name]
            torch.testing.assert_close(served.weights[name].double(), expected, rtol=0, atol=2e-6)
            distance += float((served.weights[name].double() - vectors.base(name)).abs().sum())
    assert distance == pytest.approx(total, rel=1e-5)
    counts = evaluate.predict_seed(pristine_suite, tmp_path, 0, "test").counts(0)
    assert {task: total for task, (_, total) in counts.items()} == dict.fromkeys(toy.TASKS, toy.SIZES["test"])


@given(
    arrays(np.float64, st.integers(1, 40), elements=st.floats(-1e3, 1e3)),
    st.floats(0.01, 1.0),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_lowest_of_top_is_numpys_order_statistic(values: np.ndarray, share: float, dtype: torch.dtype):
    tensor = torch.from_numpy(values).to(dtype)
    expected = np.sort(tensor.numpy())[len(values) - math.ceil(share * len(values))]
    assert float(lowest_of_top(tensor, share)) == expected


# Arcee Fusion, RKL-sparse fusion


def row_divergence(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return KL(first || second) of the softmax of every row, [..., 1]."""
    p, q = (np.exp(rows) / np.exp(rows).sum(-1, keepdims=True) + 1e-8 for rows in (first, second))
    return (p * np.log(p / q)).sum(-1, keepdims=True)


def fused(rows: np.ndarray, keep, reverse: bool, scale: float) -> np.ndarray:
    """Sum the entries that `keep(importance)` selects, tensor by tensor, over the tasks."""
    vectors, parts = vectors_of(rows), []
    for name in SHAPES:
        base, total = vectors.base(name).numpy(), 0.0
        for tau in vectors[name].numpy():
            pair = (base, base + tau) if reverse else (base + tau, base)
            total = total + tau * keep(np.abs(tau) * row_divergence(*pair))
        parts.append(scale * total.ravel())
    return np.concatenate(parts)


def beyond_quartiles(importance: np.ndarray) -> np.ndarray:
    """Return what is at least the median plus 1.5 times the range between the quartiles, each an entry."""
    first, median, third = np.sort(importance.ravel())[[int(q * (importance.size - 1)) for q in (0.25, 0.5, 0.75)]]
    return importance >= median + 1.5 * (third - first)


def test_arcee_fusion_adds_what_is_far_above_the_median():
    rows = 0.1 * random_rows()
    delta = flat(arcee_fusion.merge(vectors_of(rows), arcee_fusion.Params(scale=0.7)))
    np.testing.assert_allclose(delta, fused(rows, beyond_quartiles, False, 0.7), rtol=0, atol=1e-14)
    kept = np.mean(arcee_fusion.select_important(torch.zeros(400, 300), 0.04 * torch.randn(400, 300)).numpy())
    assert 0.03 < kept < 0.1


@pytest.mark.parametrize("drop", [0.5, 0.9])
def test_rkl_fusion_adds_the_most_important_share(drop: float):
    rows = 0.1 * random_rows()
    delta = flat(rkl_fusion.merge(vectors_of(rows), rkl_fusion.Params(drop=drop, scale=0.7)))

    def keep(importance: np.ndarray) -> np.ndarray:
        return importance >= np.sort(importance.ravel())[int(drop * importance.size)]

    np.testing.assert_allclose(delta, fused(rows, keep, True, 0.7), rtol=0, atol=1e-14)
    alone = flat(rkl_fusion.merge(vectors_of(rows[:1]), rkl_fusion.Params(drop=drop)))
    assert (alone != 0).sum() == sum(size - int(drop * size) for size in map(math.prod, SHAPES.values()))


def test_one_expert_that_moves_by_a_constant_is_unimportant():
    """A softmax ignores a constant added to a row: the entries of such a row are dropped."""
    tau = torch.randn(20, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    tau[7] = 5.0
    kept = arcee_fusion.select_important(torch.zeros(20, 30, dtype=torch.float64), tau)
    assert kept.any()
    assert not kept[7].any()
