"""TIES against a second implementation in plain Python, one number at a time."""

import math
import random
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from pipeline.methods import ties_keep_80
from pipeline.methods.ties import Params, merge
from pipeline.models.task_vectors import TaskVectors
from pipeline.toolbox import parts, trimming
from pipeline.toolbox.trimming import Aggregate, lowest_of_top, trim_thresholds
from tests.support.pretend_gpu import pretended

SHAPES = {"a": (3, 5), "b": (7,), "c": (2, 2, 2)}
SIZE = sum(math.prod(shape) for shape in SHAPES.values())

WHOLE = Params(keep=1.0, scale=1.0)


def task_vectors(rows: Sequence[Sequence[float]]) -> TaskVectors:
    """Return task vectors in float64 from one flat list per task."""
    experts = []
    for row in rows:
        pieces = torch.tensor(row, dtype=torch.float64).split([math.prod(shape) for shape in SHAPES.values()])
        experts.append({name: piece.view(shape) for (name, shape), piece in zip(SHAPES.items(), pieces, strict=True)})
    base = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in SHAPES.items()}
    return TaskVectors(base, experts, tuple(SHAPES), torch.float64)


def flat(delta: dict[str, torch.Tensor]) -> list[float]:
    """Return all entries, tensor by tensor."""
    return [value for name in SHAPES for value in delta[name].flatten().tolist()]


def sign(value: float) -> int:
    """Return -1, 0 or 1."""
    return (value > 0) - (value < 0)


def oracle(vectors: Sequence[Sequence[float]], keep: float, scale: float, aggregate: str) -> list[float]:
    """Trim, elect, merge, one entry at a time, in plain Python."""
    trimmed = []
    for vector in vectors:
        limit = sorted((abs(value) for value in vector), reverse=True)[math.ceil(keep * len(vector)) - 1]
        trimmed.append([value if abs(value) >= limit else 0.0 for value in vector])
    elected = [sign(math.fsum(column)) for column in zip(*trimmed, strict=True)]
    majority = sign(sum(elected))
    merged = []
    for column, winner in zip(zip(*trimmed, strict=True), elected, strict=True):
        agreeing = [value for value in column if value and sign(value) == (winner or majority)]
        total = math.fsum(agreeing)
        merged.append(scale * (total / len(agreeing) if aggregate == "mean" and agreeing else total))
    return merged


def random_vectors(seed: int, kind: str, tasks: int = 4) -> list[list[float]]:
    """Return random task vectors: Gaussian, or small integers with ties in magnitude and sums of zero."""
    rng = random.Random(seed)
    value = (lambda: rng.gauss(0, 1)) if kind == "gauss" else (lambda: float(rng.randint(-2, 2)))
    return [[value() for _ in range(SIZE)] for _ in range(tasks)]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("kind", ["gauss", "integers"])
@pytest.mark.parametrize("aggregate", ["mean", "sum"])
@pytest.mark.parametrize("keep", [0.2, 0.55, 1.0])
def test_ties_equals_the_oracle(seed: int, kind: str, aggregate: str, keep: float):
    vectors = random_vectors(seed, kind)
    delta = flat(merge(task_vectors(vectors), Params(keep=keep, scale=0.7, aggregate=aggregate)))
    assert delta == pytest.approx(oracle(vectors, keep, 0.7, aggregate), abs=1e-12)
    assert any(delta)


def test_the_integer_cases_reach_zero_sums_and_tied_thresholds():
    zero_sums = ties = 0
    for seed in range(8):
        vectors = random_vectors(seed, "integers")
        zero_sums += sum(sum(column) == 0 and any(column) for column in zip(*vectors, strict=True))
        ties += sum(sorted(map(abs, vector))[-7] == sorted(map(abs, vector))[-6] for vector in vectors)
    assert zero_sums > 5
    assert ties > 5


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("aggregate", ["mean", "sum"])
def test_ties_is_odd_and_positively_homogeneous(seed: int, aggregate: str):
    vectors = random_vectors(seed, "integers")
    params = Params(keep=0.6, scale=1.0, aggregate=aggregate)
    delta = flat(merge(task_vectors(vectors), params))
    negated = flat(merge(task_vectors([[-value for value in vector] for vector in vectors]), params))
    doubled = flat(merge(task_vectors([[2 * value for value in vector] for vector in vectors]), params))
    assert negated == [-value for value in delta]
    assert doubled == [2 * value for value in delta]


@pytest.mark.parametrize("share", [0.2, 0.6])
def test_rht_is_ties_with_the_mean_tensor_by_tensor_up_to_its_scale(share: float):
    """RHT (arXiv 2505.21226): per tensor, keep the largest, divide them by their share, elect, take the mean."""
    rng = np.random.default_rng(0)
    stacked = rng.standard_normal((4, SIZE))
    survivors = np.zeros_like(stacked)
    for task, row in enumerate(stacked):
        largest = np.argsort(-np.abs(row))[: math.ceil(share * SIZE)]
        survivors[task, largest] = row[largest] / share
    agreeing = survivors * (np.sign(survivors) == np.where(survivors.sum(0) >= 0, 1, -1))
    rht = 0.3 * agreeing.sum(0) / np.maximum(1, (agreeing != 0).sum(0))
    base = {"only": torch.zeros(SIZE, dtype=torch.float64)}
    vectors = TaskVectors(base, [{"only": torch.from_numpy(row)} for row in stacked], ("only",), torch.float64)
    merged = merge(vectors, Params(keep=share, scale=0.3 / share, aggregate="mean"))["only"]
    assert merged.tolist() == pytest.approx(rht.tolist(), abs=1e-14)
    assert any(rht)


def test_ties_at_the_keep_of_m_ties_is_ties():
    vectors = task_vectors(random_vectors(0, "gauss"))
    high = ties_keep_80.merge(vectors, ties_keep_80.Params())
    assert flat(high) == flat(merge(vectors, Params(keep=0.8)))
    assert flat(high) != flat(merge(vectors, Params()))


def test_a_zero_sum_takes_the_majority_sign():
    up, down = [1.0] * SIZE, [1.0] * SIZE
    up[0], down[0] = 3.0, -3.0
    assert flat(merge(task_vectors([up, down]), WHOLE))[0] == 3
    down = [-value for value in up]
    assert not any(flat(merge(task_vectors([up, down]), WHOLE)))  # no majority either: nothing agrees


def test_entries_without_an_agreeing_task_are_positive_zero():
    vectors = [[-1.0] * SIZE, [-1.0] * SIZE]
    vectors[0][0], vectors[0][1], vectors[1][1] = 1.0, 0.0, 0.0  # the first cancels out, the second is in no task
    delta = flat(merge(task_vectors(vectors), WHOLE))
    assert delta[:3] == [-1.0, 0.0, -2.0]
    assert math.copysign(1, delta[1]) == 1


def test_trimming_is_over_the_whole_model_not_per_tensor():
    vector = [10.0] * 15 + [1.0] * (SIZE - 15)  # all of "a" is larger than the rest
    merged = merge(task_vectors([vector]), Params(keep=0.5, scale=1.0))
    assert torch.equal(merged["a"], torch.full((3, 5), 10.0, dtype=torch.float64))
    assert not merged["b"].any()
    assert not merged["c"].any()


def test_keeping_all_of_agreeing_signs_is_the_sum_or_the_mean():
    vectors = [[abs(value) for value in vector] for vector in random_vectors(0, "gauss")]
    total = [math.fsum(column) for column in zip(*vectors, strict=True)]
    assert flat(merge(task_vectors(vectors), Params(keep=1.0, scale=1.0, aggregate="sum"))) == pytest.approx(total)
    mean = Params(keep=1.0, scale=1.0, aggregate="mean")
    assert flat(merge(task_vectors(vectors), mean)) == pytest.approx([value / 4 for value in total])


def test_the_mean_of_equal_task_vectors_is_one_of_them_trimmed():
    (vector,) = random_vectors(3, "gauss", tasks=1)
    limit = sorted(map(abs, vector))[-math.ceil(0.4 * SIZE)]
    delta = flat(merge(task_vectors([vector] * 5), Params(keep=0.4, scale=1.0, aggregate="mean")))
    assert delta == pytest.approx([value if abs(value) >= limit else 0.0 for value in vector], abs=1e-15)
    assert any(delta)
    assert not all(delta)


def test_one_untrimmed_task_is_its_expert():
    (vector,) = random_vectors(0, "gauss", tasks=1)
    assert flat(merge(task_vectors([vector]), WHOLE)) == vector


@pytest.mark.parametrize("share", [1e-9, 0.1, 0.5, 0.501, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_lowest_of_the_top_is_an_order_statistic(share: float, dtype: torch.dtype):
    values = torch.randn(1000, generator=torch.Generator().manual_seed(0), dtype=dtype)
    original, lowest = values.clone(), lowest_of_top(values, share)
    assert lowest.dtype == dtype
    assert lowest == np.sort(values.numpy())[::-1][math.ceil(share * 1000) - 1]
    assert int((values >= lowest).sum()) == math.ceil(share * 1000)
    assert torch.equal(values, original)


def magnitudes_of(kind: str, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Return signed entries of three tasks in three tensors, one of them a scalar, 1,200 per task."""
    rng = torch.Generator().manual_seed(0)
    entries = torch.randn(3, 1200, generator=rng, dtype=torch.float64)
    entries = {
        "gauss": entries,
        "tied": entries.round(),
        "wide": entries.sign() * 10 ** (15 * entries),  # down to denormal numbers, up to infinity in float32
        "zero": torch.zeros_like(entries),
        "masked": entries * (torch.rand(entries.shape, generator=rng) < 0.3),
        "one_exponent": 1 + entries.abs() / 100,  # all in one bucket, or two
    }[kind].to(dtype)
    return {"a": entries[:, :200].reshape(3, 4, 50), "b": entries[:, 200:-1], "c": entries[:, -1]}


@pytest.mark.parametrize("keep", [1e-9, 0.1, 0.5, 0.501, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["gauss", "tied", "wide", "zero", "masked", "one_exponent"])
def test_a_threshold_is_an_order_statistic_of_the_whole_vector(
    monkeypatch: pytest.MonkeyPatch, kind: str, dtype: torch.dtype, keep: float
):
    monkeypatch.setattr(parts, "PART", 64)
    vectors = magnitudes_of(kind, dtype)
    thresholds = trim_thresholds(vectors.__getitem__, vectors, keep)
    assert thresholds.dtype == dtype
    whole = torch.cat([tensor.reshape(3, -1) for tensor in vectors.values()], dim=1).abs()
    assert torch.equal(thresholds, whole.sort(dim=1).values[:, -math.ceil(keep * 1200)])
    with pretended():
        on_gpu = {name: tensor.to("cuda") for name, tensor in vectors.items()}
        assert trim_thresholds(on_gpu.__getitem__, on_gpu, keep).tolist() == thresholds.tolist()


def test_zeros_are_never_collected(monkeypatch: pytest.MonkeyPatch):
    sorted_entries = []

    def record(values: torch.Tensor, rank: int) -> torch.Tensor:
        sorted_entries.append(len(values))
        return values.sort().values[rank]

    monkeypatch.setattr(trimming, "entry_of_rank", record)
    vectors = magnitudes_of("masked", torch.float32)
    assert trim_thresholds(vectors.__getitem__, vectors, 1.0).tolist() == [0, 0, 0]
    assert sorted_entries == []
    trim_thresholds(vectors.__getitem__, vectors, 0.1)
    assert len(sorted_entries) == 3
    assert max(sorted_entries) < 100


@pytest.mark.parametrize("share", [0.01, 0.2, 0.9])
def test_the_lowest_of_the_top_is_the_same_on_a_gpu(share: float):
    values = torch.randn(300_000, generator=torch.Generator().manual_seed(0)).round(decimals=3)  # many are equal
    expected = lowest_of_top(values, share)
    with pretended():
        assert float(lowest_of_top(values.to("cuda"), share)) == float(expected)


@pytest.mark.parametrize("aggregate", ["mean", "sum"])
@pytest.mark.parametrize("seed", range(4))
def test_merging_in_parts_equals_merging_whole(monkeypatch: pytest.MonkeyPatch, seed: int, aggregate: Aggregate):
    vectors = task_vectors(random_vectors(seed, "integers"))
    params = Params(keep=1.0, aggregate=aggregate)
    whole = merge(vectors, params)  # compared with the oracle above
    monkeypatch.setattr(parts, "PART", 3)
    in_parts = merge(vectors, params)
    assert all(torch.equal(in_parts[name], tensor) for name, tensor in whole.items())
