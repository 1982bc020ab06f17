"""Conventions of methods that decompose matrices: q, k and v apart or fused, the positional embedding or not."""

from collections.abc import Callable, Mapping, Sequence

import pytest
import torch
from torch import Tensor

from pipeline import methods
from pipeline.calibration.problem import Problem
from pipeline.methods import esm, iso_c, iso_cts, opcm, wudi
from pipeline.models.encoder import block_name
from pipeline.models.task_vectors import TaskVectors
from pipeline.models.weights import PARTS, Weights, fuse_qkv
from pipeline.runtime.schema import Schedule
from pipeline.runtime.threads import map_tensors
from pipeline.toolbox.conventions import FUSED, POSITIONS, Conventions, FusedView
from pipeline.toolbox.essential import balance_layers
from pipeline.toolbox.spectra import decorrelate, is_matrix
from tests.methods.test_statistics import block_inputs, esm_matrix, expert_prefix
from tests.support import toy

DATA_FREE = ("iso_c", "iso_cts", "tsv_m", "wudi", "opcm")
MATRIX: Mapping[str, Callable[[Tensor], Tensor]] = {
    "iso_c": lambda stacked: 1.5 * iso_c.flatten_spectrum(stacked),
    "iso_cts": lambda stacked: 1.5 * iso_cts.merge_subspaces(stacked, 0.8),
    "tsv_m": decorrelate,
    "wudi": lambda stacked: wudi.descend_interference(stacked, 1e-5, 300),
}
"""One matrix's merge with the published parameters."""
REST: Mapping[str, Callable[[Tensor], Tensor]] = {
    "iso_c": lambda stacked: 1.5 * stacked.mean(0),
    "iso_cts": lambda stacked: 1.5 * stacked.mean(0),
    "tsv_m": lambda stacked: 1.0 * stacked.mean(0),
    "wudi": lambda stacked: 0 * stacked[0],
}
"""The merge of a tensor that is no matrix."""
SPLIT, FUSION = ({"matrices": choice} for choice in ("split", "fused"))
DECOMPOSE = {"positional_embedding": "decompose"}
UNUSED = Schedule(lr=1.0, steps=1, batch_size=1)
STEM = f"{block_name(1)}attn."
QKV = [f"{STEM}{part}.weight" for part in PARTS]
FUSABLE = {f"{block_name(index)}attn.{part}.weight" for index in (0, 1) for part in PARTS}


@pytest.fixture(scope="module")
def problem() -> Problem:
    """Three experts of two transformer blocks, in float64."""
    return toy.clip_problem()


@pytest.fixture(scope="module")
def vectors(problem: Problem) -> TaskVectors:
    """Their task vectors."""
    return make_vectors(problem, problem.vectors)


def make_vectors(problem: Problem, tensors: Mapping[str, Tensor]) -> TaskVectors:
    """Return task vectors from stacked tensors [T, ...]."""
    base = {name: torch.zeros_like(problem.base[name]) for name in tensors}
    experts = [{name: stacked[task] for name, stacked in tensors.items()} for task in range(3)]
    return TaskVectors(base, experts, tuple(tensors), torch.float64)


def merged(name: str, vectors: TaskVectors, **settings: str) -> Weights:
    """Return the merged delta of a data-free method; OPCM merges the tasks in one fixed order."""
    module = methods.load(name)
    params = module.Params(**settings)
    return opcm.merge_in_order([1, 2, 0], vectors, params) if name == "opcm" else module.merge(vectors, params)


def opcm_sums(vectors: Mapping[str, Tensor], matrices: Callable[[str], bool]) -> Weights:
    """Return OPCM's sums in the order 1, 2, 0 before its whole vector is scaled."""
    totals = {}
    for name, stacked in vectors.items():
        totals[name] = stacked[1]
        for task in (2, 0):
            added = opcm.orthogonalise(stacked[task], totals[name], 0.5) if matrices(name) else stacked[task]
            totals[name] = totals[name] + added
    return totals


def scale_total(totals: Weights, vectors: Mapping[str, Tensor]) -> Weights:
    """Scale OPCM's whole vector to the mean norm of the task vectors."""
    sizes = [torch.cat([stacked[task].flatten() for stacked in vectors.values()]).norm() for task in range(3)]
    norm = torch.cat([total.flatten() for total in totals.values()]).norm()
    return {name: total * (sum(sizes) / 3 / norm) for name, total in totals.items()}


def close(deltas: Mapping[str, Tensor], expected: Mapping[str, Tensor], names: Sequence[str]) -> None:
    """Assert equality of these tensors up to rounding."""
    for name in names:
        torch.testing.assert_close(deltas[name], expected[name], rtol=0, atol=1e-10)


# The view


def test_every_method_that_decomposes_has_the_conventions():
    having = {name for name in methods.names() if issubclass(methods.load(name).Params, Conventions)}
    assert having == {*DATA_FREE, "esm", "ace", "dc_merge", "do_merging"}
    assert {methods.load(name).Params().matrices for name in DATA_FREE} == {"split"}
    assert esm.Params().matrices == "fused"
    assert {methods.load(name).Params().positional_embedding for name in having} == {"average"}


def test_fused_vectors_equal_open_clips_in_its_order(vectors: TaskVectors):
    view = FusedView(vectors)
    assert len(view) == len([*view]) == len(vectors) - 2 * 2
    tasks = [fuse_qkv(vectors.task(task)) for task in range(3)]
    assert [name for name in view if name in tasks[0]] == [name for name in tasks[0] if "in_proj_bias" not in name]
    for name, stacked in view.items():
        expected = torch.stack([task[name] for task in tasks]) if name in tasks[0] else vectors[name]
        assert torch.equal(stacked, expected)


def test_a_fused_matrix_is_formed_on_access(vectors: TaskVectors):
    accessed = []

    class Watched(TaskVectors):
        def __getitem__(self, name: str) -> Tensor:
            accessed.append(name)
            return super().__getitem__(name)

    watched = Watched(vectors._base, vectors._experts, tuple(vectors), torch.float64)
    view = Conventions(**FUSION).view(watched)
    assert f"{STEM}in_proj_weight" in [*view]
    assert accessed == []
    view[f"{STEM}in_proj_weight"]
    assert accessed == QKV


def test_the_default_view_is_the_task_vectors_themselves(vectors: TaskVectors):
    conventions = Conventions()
    assert conventions.view(vectors) is vectors
    assert [conventions.decomposes(name) for name in vectors] == [is_matrix(name) for name in vectors]


# Data-free methods


@pytest.mark.parametrize("name", MATRIX)
def test_the_default_equals_the_method_matrix_by_matrix(name: str, vectors: TaskVectors):
    def merge_tensor(group: str) -> Tensor:
        return (MATRIX if is_matrix(group) else REST)[name](vectors[group])

    expected = map_tensors(merge_tensor, vectors)
    assert toy.same(merged(name, vectors), expected)
    assert toy.same(merged(name, vectors, **SPLIT, positional_embedding="average"), expected)


@pytest.mark.parametrize("name", MATRIX)
@pytest.mark.parametrize("further", [{}, DECOMPOSE])
def test_fused_merges_q_k_and_v_as_one_stacked_matrix(name: str, further: dict, vectors: TaskVectors):
    delta = merged(name, vectors, **FUSION, **further)
    assert [*delta] == [*vectors]
    expected = MATRIX[name](torch.cat([vectors[part] for part in QKV], dim=1))
    torch.testing.assert_close(torch.cat([delta[part] for part in QKV]), expected, rtol=0, atol=1e-10)
    apart = merged(name, vectors, **further)
    assert {group for group in vectors if not torch.equal(delta[group], apart[group])} == FUSABLE


@pytest.mark.parametrize("name", MATRIX)
def test_a_decomposed_positional_embedding_is_merged_as_a_matrix(name: str, vectors: TaskVectors):
    averaged, delta = merged(name, vectors), merged(name, vectors, **DECOMPOSE)
    torch.testing.assert_close(delta[POSITIONS], MATRIX[name](vectors[POSITIONS]), rtol=0, atol=1e-10)
    assert torch.equal(averaged[POSITIONS], REST[name](vectors[POSITIONS]))
    assert [group for group in delta if not torch.equal(delta[group], averaged[group])] == [POSITIONS]


@pytest.mark.parametrize("matrices", ["split", "fused"])
@pytest.mark.parametrize("positions", ["average", "decompose"])
def test_opcm_applies_the_conventions_before_scaling(vectors: TaskVectors, matrices: str, positions: str):
    delta = merged("opcm", vectors, matrices=matrices, positional_embedding=positions)
    view = FusedView(vectors) if matrices == "fused" else vectors
    decomposed = {POSITIONS} if positions == "decompose" else set()
    totals = opcm_sums(view, lambda name: name in decomposed or name.endswith(FUSED) or is_matrix(name))
    expected = scale_total(totals, view)
    assert [*delta] == [*vectors]
    if matrices == "fused":
        fused = {f"{STEM}in_proj_weight": torch.cat([delta[part] for part in QKV])}
        close(fused, expected, [*fused])
    close(delta, expected, [name for name in delta if name in expected])


@pytest.mark.parametrize("name", DATA_FREE)
def test_fused_equals_split_where_only_q_moves(name: str, problem: Problem):
    still = {group: 0 * stacked if ".k.weight" in group or ".v.weight" in group else stacked
             for group, stacked in problem.vectors.items()}  # fmt: skip
    vectors = make_vectors(problem, still)
    split, fused = (merged(name, vectors, **choice) for choice in (SPLIT, FUSION))
    close(fused, split, [*split])
    assert split[QKV[0]].any()
    assert not split[QKV[1]].any()


@pytest.mark.parametrize("name", [name for name in DATA_FREE if name != "wudi"])  # Adam looks at single entries
def test_only_a_fused_merge_is_equivariant_to_rotations_across_q_k_and_v(
    name: str, problem: Problem, vectors: TaskVectors
):
    """A rotation of all 3d outputs mixes q, k and v: only a merge of all three turns with it."""
    rotation, _ = torch.linalg.qr(torch.randn(96, 96, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
    turned = dict(problem.vectors)
    for index in (0, 1):
        names = [f"{block_name(index)}attn.{part}.weight" for part in PARTS]
        mixed = rotation @ torch.cat([turned[group] for group in names], dim=1)
        turned |= dict(zip(names, mixed.chunk(3, dim=1), strict=True))
    for choice, equal in ((FUSION, True), (SPLIT, False)):
        before, after = (
            torch.cat([delta[part] for part in QKV])
            for delta in (merged(name, vectors, **choice), merged(name, make_vectors(problem, turned), **choice))
        )
        assert torch.allclose(rotation @ before, after, rtol=0, atol=1e-10) is equal


# ESM


def esm_delta(problem: Problem, **settings: str) -> Weights:
    """Return the merged delta of ESM."""
    return esm.calibrate(problem, UNUSED, 0, esm.Params(**settings)).delta


def test_esm_fuses_and_averages_positions_by_default(problem: Problem):
    assert toy.same(esm_delta(problem), esm_delta(problem, **FUSION, positional_embedding="average"))
    assert torch.equal(esm_delta(problem)[POSITIONS], 1.0 * problem.vectors[POSITIONS].mean(0))


def test_esm_split_gives_q_k_and_v_a_subspace_each(problem: Problem):
    delta, fused = esm_delta(problem, **SPLIT), esm_delta(problem)
    assert [*delta] == [*problem.vectors]
    for part in PARTS:
        layers = []
        for index in (0, 1):
            name = f"{block_name(index)}attn.{part}.weight"
            rows = [block_inputs(problem, task, expert_prefix(problem), index)[name].numpy() for task in range(3)]
            layers.append(torch.as_tensor(esm_matrix([*problem.vectors[name].numpy()], rows)))
        for index, expected in enumerate(balance_layers(layers)):
            merge = delta[f"{block_name(index)}attn.{part}.weight"]
            torch.testing.assert_close(merge, expected, rtol=0, atol=1e-7)
    assert {name for name in delta if not torch.equal(delta[name], fused[name])} == FUSABLE


def test_esm_merges_a_decomposed_positional_embedding_like_tsv_m(problem: Problem):
    delta, averaged = esm_delta(problem, **DECOMPOSE), esm_delta(problem)
    assert torch.equal(delta[POSITIONS], 1.0 * decorrelate(problem.vectors[POSITIONS]))
    assert [name for name in delta if not torch.equal(delta[name], averaged[name])] == [POSITIONS]
