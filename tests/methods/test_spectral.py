"""Merges by singular value decomposition or linear solves: identities, and NumPy and SciPy one matrix at a time.

All in float64 unless a test specifies otherwise.
"""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from pipeline.methods import ace, dc_merge, do_merging, iso_c, iso_cts, opcm, tsv_m, wudi
from pipeline.models.task_vectors import TaskVectors
from pipeline.models.weights import Weights
from pipeline.runtime.errors import BenchmarkError
from pipeline.toolbox.norms import decouple_columns
from pipeline.toolbox.spectra import decorrelate, is_matrix, leading_triplets, polar_factor, svd, thin_svd
from tests.support import toy

BLOCK = "transformer.resblocks.0."
SHAPES = {
    "positional_embedding": (5, 6),
    f"{BLOCK}ln_1.weight": (6,),
    f"{BLOCK}attn.q.weight": (6, 6),
    f"{BLOCK}mlp.c_fc.weight": (13, 6),
    f"{BLOCK}mlp.c_proj.weight": (6, 13),
}
MATRICES = [name for name in SHAPES if is_matrix(name)]
OTHERS = [name for name in SHAPES if not is_matrix(name)]
MERGES: dict[str, Callable[[TaskVectors], Weights]] = {
    "tsv_m": lambda vectors: tsv_m.merge(vectors, tsv_m.Params()),
    "iso_c": lambda vectors: iso_c.merge(vectors, iso_c.Params()),
    "iso_cts": lambda vectors: iso_cts.merge(vectors, iso_cts.Params(common=0.5)),
    "wudi": lambda vectors: wudi.merge(vectors, wudi.Params(lr=1e-3, steps=20)),
    "wudi closed": lambda vectors: wudi.merge(vectors, wudi.Params(solver="closed")),
    "ace": lambda vectors: ace.merge(vectors, ace.Params()),
    "dc_merge": lambda vectors: dc_merge.merge(vectors, dc_merge.Params(keep=0.2)),
    "do_merging": lambda vectors: do_merging.merge(vectors, do_merging.Params()),
    "opcm": lambda vectors: opcm.merge(vectors, opcm.Params(), seed=0),
}


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    """Return Gaussian numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def low_rank(rows: int, columns: int, rank: int, seed: int = 0) -> Tensor:
    """Return a random matrix of this rank."""
    return gaussian(rows, rank, seed=seed) @ gaussian(rank, columns, seed=seed + 100)


def task_vectors(experts: Sequence[Weights], dtype: torch.dtype = torch.float64) -> TaskVectors:
    """Return task vectors of experts on a base of zeros."""
    base = {name: torch.zeros(tensor.shape, dtype=torch.float64) for name, tensor in experts[0].items()}
    return TaskVectors(base, experts, tuple(base), dtype)


def experts(tasks: int, factor: float = 1.0) -> list[Weights]:
    """Return random experts with SHAPES."""
    return [
        {
            name: factor * gaussian(*shape, seed=10 * task + number)
            for number, (name, shape) in enumerate(SHAPES.items())
        }
        for task in range(tasks)
    ]


def close(actual: Tensor, expected: Tensor | np.ndarray, tolerance: float = 1e-10) -> None:
    """Assert equality up to an absolute tolerance."""
    torch.testing.assert_close(actual, torch.as_tensor(expected), rtol=0, atol=tolerance)


def spectrum(matrix: Tensor) -> np.ndarray:
    """Return the singular values by SciPy."""
    return scipy.linalg.svdvals(matrix.numpy())


# Decompositions


@pytest.mark.parametrize("shape", [(7, 7), (12, 5), (5, 12)])
@pytest.mark.parametrize("rank", [5, 2, 0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_thin_svd_reproduces_the_matrix_without_spurious_directions(shape: tuple, rank: int, dtype: torch.dtype):
    matrix = low_rank(*shape, rank).to(dtype)
    u, s, v = thin_svd(matrix)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-4
    close((u * s) @ v.mT, matrix, tolerance)
    expected = torch.diag((torch.arange(min(shape)) < rank).to(dtype))
    for factor in (u, v):
        close(factor.mT @ factor, expected, tolerance)
    assert int((s > 0).sum()) == rank
    assert (u.dtype, s.dtype, v.dtype) == (dtype,) * 3


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_rounding_of_repeated_directions_counts_as_zero(dtype: torch.dtype):
    basis, _ = torch.linalg.qr(gaussian(64, 16).to(dtype))
    _, s, _ = thin_svd(torch.cat([basis, basis, basis], dim=1))
    assert int((s > 0).sum()) == 16


@pytest.mark.parametrize("shape", [(3, 7, 4), (2, 4, 7), (5, 5)])
def test_svd_falls_back_where_torch_fails(shape: tuple, monkeypatch):
    stacked, torch_svd = gaussian(*shape), torch.linalg.svd
    hard = stacked.view(-1, *shape[-2:])[-1]
    expected = torch_svd(stacked, full_matrices=False)

    def failing_svd(matrices: Tensor, full_matrices: bool) -> tuple[Tensor, ...]:
        if any(torch.equal(matrix, hard) for matrix in matrices.view(-1, *shape[-2:])):
            raise torch.linalg.LinAlgError("the algorithm failed to converge")
        return torch_svd(matrices, full_matrices=full_matrices)

    monkeypatch.setattr(torch.linalg, "svd", failing_svd)
    u, s, vh = svd(stacked)
    assert (u.shape, s.shape, vh.shape) == tuple(part.shape for part in expected)
    assert u.dtype == stacked.dtype
    close(s, expected[1])
    close(u * s[..., None, :] @ vh, stacked)


def test_the_rounding_threshold_is_relative_to_the_given_size():
    small = 1e-9 * low_rank(6, 6, 3)
    assert int((thin_svd(small)[1] > 0).sum()) == 3
    assert not thin_svd(small, size=torch.tensor(1e9, dtype=torch.float64))[1].any()


@pytest.mark.parametrize("shape", [(7, 7), (12, 5), (5, 12)])
def test_polar_factor_equals_scipys(shape: tuple):
    matrix = gaussian(*shape)
    side = "right" if shape[0] >= shape[1] else "left"
    close(polar_factor(matrix), scipy.linalg.polar(matrix.numpy(), side=side)[0])


def test_polar_factor_of_a_rank_deficient_matrix_is_its_partial_isometry():
    matrix = low_rank(9, 6, 3)
    factor = polar_factor(matrix)
    gram = (matrix.mT @ matrix).numpy()
    values, basis = np.linalg.eigh(gram)
    roots = np.where(values > 1e-9, np.abs(values), np.inf) ** -0.5
    close(factor, matrix.numpy() @ (basis * roots) @ basis.T)
    close(factor @ factor.mT @ factor, factor)


def test_leading_triplets_are_concatenated_in_task_order():
    stacked = gaussian(3, 8, 6)
    u, s, v = leading_triplets(stacked, 2)
    assert (u.shape, s.shape, v.shape) == ((8, 6), (6,), (6, 6))
    for task, matrix in enumerate(stacked.numpy()):
        columns = slice(2 * task, 2 * task + 2)
        left, values, right = np.linalg.svd(matrix)
        close((u[:, columns] * s[columns]) @ v[:, columns].mT, (left[:, :2] * values[:2]) @ right[:2])


def test_matrices_are_those_of_the_blocks():
    _, weights = toy.clip_weights()
    parts = ("attn.q", "attn.k", "attn.v", "attn.out_proj", "mlp.c_fc", "mlp.c_proj")
    assert {name for name in weights if is_matrix(name)} == {f"{BLOCK}{part}.weight" for part in parts}


# Every method


@pytest.mark.parametrize("name", MERGES)
def test_a_float32_merge_is_close_to_the_float64_merge(name: str):
    exact, single = (MERGES[name](task_vectors(experts(3), dtype)) for dtype in (torch.float64, torch.float32))
    for key in SHAPES:
        assert single[key].dtype == torch.float32
        close(single[key].double(), exact[key], 1e-4)
        assert exact[key].any() or name.startswith("wudi")


@pytest.mark.parametrize("name", [name for name in MERGES if name not in ("wudi", "ace")])
def test_a_merge_is_positively_homogeneous(name: str):
    plain, scaled = (MERGES[name](task_vectors(experts(3, factor))) for factor in (1.0, 2.5))
    for key in SHAPES:
        close(scaled[key], 2.5 * plain[key])


@pytest.mark.parametrize("name", [name for name in MERGES if not name.startswith(("iso", "ace"))])
def test_one_task_is_its_expert(name: str):
    (only,) = experts(1)
    delta = MERGES[name](task_vectors([only]))
    for key in MATRICES if name.startswith("wudi") else SHAPES:
        close(delta[key], only[key])


@pytest.mark.parametrize("name", [name for name in MERGES if name not in ("wudi", "wudi closed", "opcm")])
def test_tensors_other_than_matrices_get_the_scaled_mean(name: str):
    models = experts(3)
    delta = MERGES[name](task_vectors(models))
    scale = 1.5 if name.startswith("iso") else 1.0
    for key in OTHERS:
        close(delta[key], scale * sum(expert[key] for expert in models) / 3, 1e-14)


@pytest.mark.parametrize("module", [tsv_m, iso_c, iso_cts, wudi, ace, dc_merge, do_merging])
def test_scale_multiplies_the_whole_delta(module: object):
    vectors = task_vectors(experts(3))
    plain, scaled = (module.merge(vectors, module.Params(scale=scale)) for scale in (1.0, 0.25))
    for key in SHAPES:
        close(scaled[key], 0.25 * plain[key], 1e-14)


# TSV-M


def tsv_oracle(stacked: np.ndarray) -> np.ndarray:
    """Compute TSV-M with zero columns where T does not divide the rank, as in public code."""
    tasks, *shape = stacked.shape
    rank = int(min(shape) / tasks)
    u, s, v = np.zeros((shape[0], min(shape))), np.zeros(min(shape)), np.zeros((min(shape), shape[1]))
    for task, matrix in enumerate(stacked):
        left, values, right = np.linalg.svd(matrix, full_matrices=False)
        columns = slice(task * rank, (task + 1) * rank)
        u[:, columns], s[columns], v[columns] = left[:, :rank], values[:rank], right[:rank]
    factors = []
    for factor in (u, v):
        left, _, right = np.linalg.svd(factor, full_matrices=False)
        factors.append(left @ right)
    return factors[0] @ np.diag(s) @ factors[1]


@pytest.mark.parametrize("shape", [(3, 9, 9), (3, 10, 7), (4, 7, 10), (2, 13, 6)])
def test_tsv_m_equals_the_zero_padded_oracle(shape: tuple):
    stacked = gaussian(*shape)
    close(decorrelate(stacked), tsv_oracle(stacked.numpy()))


def test_tsv_m_of_orthogonal_tasks_is_the_sum_of_their_leading_parts():
    left, right = (torch.linalg.qr(gaussian(12, 12, seed=seed))[0] for seed in (1, 2))
    values = torch.tensor([5.0, 4, 3, 2, 1.5, 1], dtype=torch.float64)
    halves = [
        (left[:, part] * values) @ right[:, part].mT for part in (slice(0, 6), slice(6, 12))
    ]  # two tasks, so six directions each stay: all that they have
    close(decorrelate(torch.stack(halves)), halves[0] + halves[1])
    thirds = torch.stack([*halves, torch.zeros(12, 12, dtype=torch.float64)])  # four each
    expected = sum((left[:, part] * values[:4]) @ right[:, part].mT for part in (slice(0, 4), slice(6, 10)))
    close(decorrelate(thirds), expected)


def test_tsv_m_of_equal_experts_is_one_of_them_truncated():
    matrix = gaussian(9, 8)
    left, values, right = np.linalg.svd(matrix.numpy(), full_matrices=False)
    close(decorrelate(torch.stack([matrix] * 4)), (left[:, :2] * values[:2]) @ right[:2])


def test_tsv_m_of_one_rank_deficient_task_is_its_expert():
    close(decorrelate(low_rank(9, 7, 3)[None]), low_rank(9, 7, 3))


def test_tsv_m_refuses_more_tasks_than_directions():
    with pytest.raises(BenchmarkError, match=r"T = 4 on a matrix of shape \[9, 3\]; merge at most 3 tasks"):
        decorrelate(gaussian(4, 9, 3))


# Iso-C and Iso-CTS


@pytest.mark.parametrize("shape", [(3, 8, 8), (3, 11, 6), (3, 6, 11)])
def test_iso_c_flattens_the_spectrum_at_its_mean(shape: tuple):
    stacked = gaussian(*shape)
    flattened, total = iso_c.flatten_spectrum(stacked), stacked.sum(0)
    np.testing.assert_allclose(spectrum(flattened), spectrum(total).mean(), rtol=0, atol=1e-12)
    side = "right" if shape[1] >= shape[2] else "left"
    close(flattened, spectrum(total).mean() * scipy.linalg.polar(total.numpy(), side=side)[0])


def test_iso_c_moves_nothing_where_no_task_moves():
    total = low_rank(8, 6, 2)
    values = spectrum(iso_c.flatten_spectrum(torch.stack([3 * total, -2 * total])))
    mean = spectrum(total).mean()
    np.testing.assert_allclose(values, [mean, mean, 0, 0, 0, 0], rtol=0, atol=1e-12)


def iso_cts_oracle(stacked: np.ndarray, fraction: float) -> np.ndarray:
    """Compute Iso-CTS one triplet at a time, with SciPy's polar factors."""
    tasks, *shape = stacked.shape
    smaller = min(shape)
    count = round((smaller - int(smaller * fraction)) / tasks)
    u, s, vh = np.linalg.svd(stacked.sum(0), full_matrices=False)
    shared = smaller - count * tasks
    triplets = [(u[:, i], s[i], vh[i]) for i in range(shared)]
    projector = np.eye(shape[0]) - u[:, :shared] @ u[:, :shared].T
    for matrix in stacked:
        left, values, right = np.linalg.svd(projector @ matrix, full_matrices=False)
        triplets += [(left[:, i], values[i], right[i]) for i in range(count)]
    lefts, rights = (np.stack([triplet[side] for triplet in triplets], axis=1) for side in (0, 2))
    factors = [scipy.linalg.polar(side)[0] for side in (lefts, rights)]
    return np.mean([value for _, value, _ in triplets]) * factors[0] @ factors[1].T


@pytest.mark.parametrize("shape", [(3, 12, 12), (2, 17, 10), (4, 10, 17)])
@pytest.mark.parametrize("common", [0.8, 0.5, 0.3])
def test_iso_cts_equals_the_oracle_and_has_a_flat_spectrum(shape: tuple, common: float):
    stacked = gaussian(*shape)
    merged = iso_cts.merge_subspaces(stacked, common)
    close(merged, iso_cts_oracle(stacked.numpy(), common))
    values = spectrum(merged)
    assert values.std() < 1e-12
    assert values.mean() > 0.1


def test_iso_cts_with_all_in_common_or_one_task_is_iso_c():
    stacked = gaussian(3, 9, 7)
    close(iso_cts.merge_subspaces(stacked, 1.0), iso_c.flatten_spectrum(stacked), 1e-12)
    close(iso_cts.merge_subspaces(stacked[:1], 0.4), iso_c.flatten_spectrum(stacked[:1]))


@pytest.mark.parametrize(("tasks", "smaller"), [(2, 3), (2, 7), (3, 5), (5, 3)])
def test_iso_cts_never_has_more_directions_than_the_matrix(tasks: int, smaller: int):
    merged = iso_cts.merge_subspaces(gaussian(tasks, smaller + 2, smaller), 0.0)
    assert merged.shape == (smaller + 2, smaller)
    assert spectrum(merged).std() < 1e-12


def test_iso_cts_takes_no_direction_from_rounding():
    matrix = low_rank(12, 10, 3)  # all of it in the common part: nothing but rounding remains
    values = spectrum(iso_cts.merge_subspaces(torch.stack([matrix, 2 * matrix]), 0.6))
    np.testing.assert_allclose(values[:3], values[0], rtol=1e-12)
    np.testing.assert_allclose(values[3:], 0, rtol=0, atol=1e-12)
    assert values[0] > 0.1


# WUDI


def wudi_loss(merged: Tensor, stacked: Tensor) -> Tensor:
    """Return the loss of the paper's equation."""
    terms = [((merged - vector) @ vector.mT).square().sum() / vector.square().sum() for vector in stacked]
    return torch.stack(terms).sum()


@pytest.mark.parametrize("shape", [(3, 6, 6), (3, 9, 4), (3, 4, 9)])
def test_wudi_descends_the_papers_loss(shape: tuple):
    stacked = gaussian(*shape)
    merged = stacked.sum(0).requires_grad_()
    optimiser = torch.optim.Adam([merged], lr=1e-2)
    for _ in range(25):
        optimiser.zero_grad()
        wudi_loss(merged, stacked).backward()
        optimiser.step()
    close(wudi.descend_interference(stacked, 1e-2, 25), merged.detach())


@pytest.mark.parametrize("shape", [(3, 6, 6), (3, 9, 4), (3, 4, 9), (2, 3, 9)])
def test_wudi_in_closed_form_is_the_least_squares_solution(shape: tuple):
    stacked = gaussian(*shape)
    minimiser = wudi.minimise_interference(stacked).requires_grad_()
    (slope,) = torch.autograd.grad(wudi_loss(minimiser, stacked), minimiser)
    close(slope, torch.zeros_like(slope))
    rows = [vector / np.linalg.norm(vector) for vector in stacked.numpy()]
    targets = [vector @ row.T for vector, row in zip(stacked.numpy(), rows, strict=True)]
    solution, *_ = np.linalg.lstsq(np.concatenate(rows), np.concatenate(targets, axis=1).T)
    close(minimiser.detach(), solution.T)


def test_wudi_stops_long_before_the_minimum():
    stacked = 1e-2 * gaussian(4, 12, 12)
    stopped = wudi.merge(task_vectors([{MATRICES[0]: matrix} for matrix in stacked]), wudi.Params())[MATRICES[0]]
    total, minimum = stacked.sum(0), wudi.minimise_interference(stacked)
    losses = [float(wudi_loss(at, stacked)) for at in (total, stopped, minimum)]
    assert losses[0] > 1.01 * losses[1] > 1.05 * losses[2]
    assert 1e-3 < float((stopped - total).abs().max()) <= 3.1e-3


def test_wudi_of_orthogonal_row_spaces_is_the_sum():
    parts = torch.stack([gaussian(6, 3, seed=task) for task in range(3)])
    stacked = torch.stack([torch.nn.functional.pad(part, (3 * task, 6 - 3 * task)) for task, part in enumerate(parts)])
    assert torch.equal(wudi.descend_interference(stacked, 1e-3, 30), torch.cat([*parts], dim=1))
    basis, _ = torch.linalg.qr(gaussian(9, 9))
    rotated = stacked @ basis
    assert wudi_loss(rotated.sum(0), rotated) < 1e-26
    close(wudi.minimise_interference(rotated), rotated.sum(0), 1e-12)


@pytest.mark.parametrize(
    "solve", [lambda stacked: wudi.descend_interference(stacked, 1e-3, 30), wudi.minimise_interference]
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_wudi_of_one_task_and_experts_equal_to_the_base_is_that_task(solve: Callable, dtype: torch.dtype):
    matrix = gaussian(5, 4).to(dtype)
    assert torch.equal(solve(torch.stack([matrix])), matrix)
    assert torch.equal(solve(torch.stack([torch.zeros_like(matrix), matrix])), matrix)


def test_wudi_leaves_all_but_the_matrices_at_the_base():
    delta = MERGES["wudi"](task_vectors(experts(3)))
    assert all(delta[key].any() for key in MATRICES)
    assert not any(delta[key].any() for key in OTHERS)


# OPCM


def opcm_oracle(order: Sequence[int], models: Sequence[Weights], alpha: float) -> dict[str, np.ndarray]:
    """Compute OPCM model by model with full decompositions, rescaled after every task, scaled back before the next."""
    vectors = [{name: tensor.numpy() for name, tensor in models[task].items()} for task in order]

    def size(vector: dict[str, np.ndarray]) -> float:
        return np.linalg.norm(np.concatenate([tensor.ravel() for tensor in vector.values()]))

    merged, before = dict(vectors[0]), 1.0
    for number, vector in enumerate(vectors[1:], start=2):
        for name, tensor in vector.items():
            new = tensor
            if is_matrix(name):
                u, s, vh = np.linalg.svd(merged[name])
                rank = int(np.argmax(np.cumsum(s) / s.sum() > alpha))
                projected = u.T @ tensor @ vh.T
                np.fill_diagonal(projected, 0)
                projected[:rank, :rank] = 0
                new = u @ projected @ vh
            merged[name] = before * merged[name] + new
        target = np.mean([size(vector) for vector in vectors[:number]])
        before = size(merged) / target
        merged = {name: tensor / before for name, tensor in merged.items()}
    return merged


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("order", [[0, 1, 2, 3], [2, 0, 3, 1]])
def test_opcm_equals_the_sequential_oracle(alpha: float, order: list[int]):
    models = experts(4)
    delta, expected = (
        opcm.merge_in_order(order, task_vectors(models), opcm.Params(alpha=alpha)),
        opcm_oracle(order, models, alpha),
    )
    for key in SHAPES:
        close(delta[key], expected[key])


def test_opcm_depends_on_the_order_drawn_by_the_seed():
    vectors = task_vectors(experts(4))
    deltas = [opcm.merge(vectors, opcm.Params(), seed) for seed in opcm.Params().seeds]
    key = MATRICES[0]
    distances = [float((delta[key] - deltas[0][key]).norm() / deltas[0][key].norm()) for delta in deltas[1:]]
    assert len(distances) >= 4
    assert min(distances) > 0.01


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_opcm_adds_only_components_orthogonal_to_the_sum(alpha: float):
    vector, merged = gaussian(8, 6, seed=1), gaussian(8, 6, seed=2)
    added = opcm.orthogonalise(vector, merged, alpha)
    assert abs(float((merged * added).sum())) < 1e-12
    left, values, right = np.linalg.svd(merged.numpy(), full_matrices=False)
    rank = int((np.cumsum(values) <= alpha * values.sum() + 1e-12).sum())
    assert rank == {0.0: 0, 0.5: 1, 1.0: 6}[alpha]
    assert np.abs(left[:, :rank].T @ added.numpy() @ right[:rank].T).max(initial=0) < 1e-12
    assert float(added.norm()) > 0.1


def test_opcm_keeps_the_leading_block_free():
    merged = torch.diag(torch.tensor([4.0, 3, 2, 1], dtype=torch.float64))
    for alpha, rank in ((0.3, 0), (0.45, 1), (0.75, 2), (0.95, 3), (1.0, 4)):
        expected = torch.ones(4, 4, dtype=torch.float64) - torch.eye(4, dtype=torch.float64)
        expected[:rank, :rank] = 0
        close(opcm.orthogonalise(torch.ones(4, 4, dtype=torch.float64), merged, alpha), expected, 1e-12)


def test_opcm_adds_a_whole_vector_to_zero():
    vector = gaussian(7, 5)
    assert torch.equal(opcm.orthogonalise(vector, torch.zeros_like(vector), 0.5), vector)


def test_opcm_has_the_mean_norm_of_the_task_vectors():
    models = experts(3)
    delta = opcm.merge(task_vectors(models), opcm.Params(), seed=1)
    sizes = [np.sqrt(sum(float(tensor.square().sum()) for tensor in weights.values())) for weights in (delta, *models)]
    assert sizes[0] == pytest.approx(np.mean(sizes[1:]), abs=1e-12)


# DO-Merging


def test_do_merging_merges_sizes_and_directions_of_columns():
    stacked = gaussian(3, 5, 4)
    stacked[1, :, 2] = 0
    expected = np.zeros((5, 4))
    for column in range(4):
        columns = stacked[:, :, column].numpy()
        sizes = [np.linalg.norm(entries) for entries in columns]
        directions = [entries / size if size else entries for entries, size in zip(columns, sizes, strict=True)]
        expected[:, column] = sum(sizes) * sum(directions) / 9
    close(decouple_columns(stacked), expected, 1e-13)


def test_do_merging_of_equal_experts_is_that_expert_and_ignores_who_is_long():
    expert = gaussian(5, 4)
    close(decouple_columns(expert.expand(3, 5, 4)), expert, 1e-13)
    stacked = gaussian(3, 5, 4)
    longer = stacked * torch.tensor([1.0, 7.0, 1.0], dtype=torch.float64)[:, None, None]
    directions = [merged / merged.norm(dim=0) for merged in map(decouple_columns, (stacked, longer))]
    close(*directions, 1e-13)


# DC-Merge


def dc_oracle(stacked: np.ndarray, keep: float) -> np.ndarray:
    """Compute DC-Merge of one matrix with full bases and an explicit mask."""
    tasks, rank = len(stacked), min(stacked.shape[1:]) // len(stacked)
    factors = [np.linalg.svd(matrix, full_matrices=False) for matrix in stacked]
    left = scipy.linalg.polar(np.hstack([u[:, :rank] for u, _, _ in factors]))[0]
    right = scipy.linalg.polar(np.hstack([vh[:rank].T for _, _, vh in factors]))[0]
    cores = []
    for u, s, vh in factors:
        core = left.T @ (u[:, :rank] * s[:rank]) @ vh[:rank] @ right
        threshold = np.sort(np.abs(core).ravel())[-max(1, int(keep * core.size))]
        cores.append(core * (np.abs(core) >= threshold))
    merged = np.zeros_like(cores[0])
    for row, column in np.ndindex(merged.shape):
        entries = [core[row, column] for core in cores]
        agreeing = [entry for entry in entries if entry * sum(entries) > 0]
        if agreeing and row // rank == column // rank:
            merged[row, column] = np.mean(agreeing)
    assert merged.shape == (tasks * rank, tasks * rank)
    return left @ merged @ right.T


@pytest.mark.parametrize("shape", [(13, 6), (6, 13), (7, 7)])
@pytest.mark.parametrize("keep", [0.001, 0.2, 1.0])
def test_dc_merge_is_that_of_an_entry_by_entry_oracle(shape: tuple[int, int], keep: float):
    stacked = gaussian(3, *shape)
    close(dc_merge.merge_in_cover(stacked, keep), dc_oracle(stacked.numpy(), keep), 1e-12)


def test_dc_merge_of_tasks_in_orthogonal_spaces_adds_what_is_kept_of_them():
    stacked = torch.zeros(2, 8, 8, dtype=torch.float64)
    stacked[0, :4, :4], stacked[1, 4:, 4:] = gaussian(4, 4), gaussian(4, 4, seed=1)
    close(dc_merge.merge_in_cover(stacked, 1.0), stacked.sum(0), 1e-12)
    values = torch.linalg.svdvals(stacked[0])
    close(torch.linalg.svdvals(dc_merge.merge_in_cover(stacked[:1], 1e-9)), values * (values == values[0]), 1e-12)


def test_dc_merge_of_too_many_tasks_is_refused():
    with pytest.raises(BenchmarkError, match=r"none for T = 5 on a matrix of shape \[4, 9\]; merge at most 4 tasks"):
        dc_merge.merge_in_cover(gaussian(5, 4, 9), 0.1)


# ACE-Merging


def ace_oracle(stacked: np.ndarray, eps: float, share: float) -> tuple[np.ndarray, bool]:
    """Compute ACE-Merging of one matrix with an explicit inverse; also return whether it counts as heterogeneous."""
    tasks, _, width = stacked.shape
    sizes = np.array([(matrix**2).sum() for matrix in stacked])
    logarithms = np.log(sizes + 1e-12)
    varied = np.var(logarithms, ddof=1) / (np.mean(logarithms) ** 2 + 1e-12) > 0.3
    centred = [matrix - matrix.mean(0) for matrix in stacked]
    covariances, ridges = [], []
    for matrix in centred:
        raw = matrix.T @ matrix
        trace = np.trace(raw) + 1e-12 if varied else 1.0
        covariances.append(raw / trace)
        ridges.append(eps / trace)
    ridged = [covariance + ridge * np.eye(width) for covariance, ridge in zip(covariances, ridges, strict=True)]
    shift = sum(covariances).mean(0, keepdims=True) / (sizes.mean() + 1e-12 if varied else 1.0)
    merged = sum(map(np.matmul, centred, ridged)) @ np.linalg.inv(sum(ridged) + shift)
    if varied:
        rest = sum(matrix @ (c - sum(ridged) / tasks) for matrix, c in zip(stacked, covariances, strict=True))
        u, s, vh = np.linalg.svd(rest + merged, full_matrices=False)
        leading = int(share * len(s))
        merged = merged + s[:leading].mean() * u[:, :leading] @ vh[:leading]
    return merged, bool(varied)


@pytest.mark.parametrize("shape", [(13, 6), (6, 13)])
@pytest.mark.parametrize(("lengths", "varied"), [((1.0, 1.0, 1.0), False), ((0.03, 0.1, 0.5), True)])
def test_ace_is_that_of_an_oracle_with_an_inverse(shape: tuple[int, int], lengths: tuple[float, ...], varied: bool):
    stacked = gaussian(3, *shape) * torch.tensor(lengths, dtype=torch.float64)[:, None, None]
    expected, heterogeneous = ace_oracle(stacked.numpy(), 0.01, 0.5)
    assert heterogeneous == varied == ace.is_heterogeneous(stacked)
    close(ace.merge_covariances(stacked, 0.01, 0.5), expected, 1e-9)


def test_whether_ace_sees_different_norms_depends_on_the_unit():
    stacked = gaussian(3, 6, 5) * torch.tensor([0.1, 0.2, 0.4], dtype=torch.float64)[:, None, None]
    assert {ace.is_heterogeneous(factor * stacked) for factor in (1e-6, 1.0, 1e6)} == {False, True}


def test_ace_with_an_expert_that_left_a_matrix_alone_explodes():
    """As its released code does, which divides by a trace of 1e-12."""
    stacked = gaussian(3, 6, 5)
    stacked[1] = 0
    assert ace.is_heterogeneous(stacked)
    assert ace.merge_covariances(stacked, 0.01, 0.0).norm() < 1e-6
    assert ace.merge_covariances(stacked, 0.01, 0.3).norm() > 1e9


def test_ace_with_a_large_ridge_is_the_mean_of_centred_task_vectors():
    stacked = gaussian(3, 9, 5)
    centred = stacked - stacked.mean(1, keepdim=True)
    close(ace.merge_covariances(stacked, 1e9, 0.3), centred.mean(0), 1e-6)


def test_ace_loses_what_is_the_same_in_all_rows():
    row = gaussian(3, 1, 5)
    close(ace.merge_covariances(row.expand(3, 9, 5), 0.01, 0.0), torch.zeros(9, 5, dtype=torch.float64), 1e-10)


def test_ace_with_a_share_of_no_triplet_adds_none():
    stacked = gaussian(3, 6, 5) * torch.tensor([0.03, 0.1, 0.5], dtype=torch.float64)[:, None, None]
    assert ace.is_heterogeneous(stacked)
    assert torch.equal(ace.merge_covariances(stacked, 0.01, 0.1), ace.merge_covariances(stacked, 0.01, 0.0))
