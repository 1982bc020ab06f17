"""Differences of two merges are seen, those that ties decide are left out, and draws compare in distribution."""

import pytest
import torch
from torch import Tensor

from benchmarks.agreement import compare_draws, compare_models, undecided_by_one, undecided_by_ties

SHAPE = (300, 400)
NAMES = ("first", "second")


def none(name: str) -> Tensor:
    """No undecided entries."""
    return torch.zeros(SHAPE, dtype=torch.bool)


def draw_model(seed: int) -> dict[str, Tensor]:
    """Two random tensors."""
    rng = torch.Generator().manual_seed(seed)
    return {name: torch.randn(SHAPE, generator=rng) for name in NAMES}


def test_the_largest_difference_is_relative_to_its_tensors_largest_weight():
    theirs = {name: tensor.clamp(-2, 2) for name, tensor in draw_model(0).items()}
    ours = {**theirs, "second": 10 * theirs["second"]}
    theirs["second"] = 10 * theirs["second"].clone()
    ours["second"][3, 4] += 0.5
    assert compare_models(theirs, theirs, none)["largest_relative_difference"] == 0
    compared = compare_models(ours, theirs, none)
    assert compared["largest_relative_difference"] == pytest.approx(0.5 / 20, rel=1e-5)
    assert (compared["undecided_entries"], compared["entries"]) == (0, 2 * 300 * 400)


def test_undecided_entries_are_counted_and_not_compared():
    theirs = draw_model(0)
    ours = {name: tensor.clone() for name, tensor in theirs.items()}
    ours["first"][3, 4] += 0.5

    def undecided(name: str) -> Tensor:
        mask = none(name)
        mask[3, 4] = name == "first"
        return mask

    compared = compare_models(ours, theirs, undecided)
    assert (compared["largest_relative_difference"], compared["undecided_entries"]) == (0, 1)


def test_models_of_other_tensors_are_refused():
    model = draw_model(0)
    with pytest.raises(ValueError, match="tensors of one model only: second"):
        compare_models({"first": model["first"]}, model, none)
    with pytest.raises(ValueError, match=r"first: shapes \[299, 400\] and \[300, 400\]"):
        compare_models({**model, "first": model["first"][1:]}, model, none)


def drop(share: float, scale: float, seed: int) -> dict[str, Tensor]:
    """A base of zeros plus a fixed delta, of whose entries a random share is dropped."""
    rng = torch.Generator().manual_seed(seed)
    kept = {name: torch.rand(SHAPE, generator=rng) >= share for name in NAMES}
    return {name: scale * delta * kept[name] / (1 - share) for name, delta in draw_model(0).items()}


@pytest.mark.parametrize(
    ("share", "scale", "length", "spread"),
    [(0.5, 1.0, 1.0, 1.0), (0.5, 1.1, 1.1, 1.1), (0.8, 1.0, 1.0, 2.0)],
)
def test_draws_are_compared_in_distribution(share: float, scale: float, length: float, spread: float):
    base = {name: torch.zeros(SHAPE) for name in NAMES}
    ours = [drop(share, scale, seed) for seed in (1, 2)]
    theirs = [drop(0.5, 1.0, seed) for seed in (3, 4)]
    expected = {"length": length, "cosine": 1.0, "spread": spread}
    assert compare_draws(base, ours, theirs) == pytest.approx(expected, rel=0.02)


def test_ties_decide_where_magnitudes_meet_the_threshold_or_signs_cancel():
    vectors = torch.tensor([[3.0, -2.0, 2.0, 1.0, 9.0, 8.0], [0.5, 0.25, 7.0, 0.125, -9.0, 6.0]])
    assert undecided_by_ties(vectors, 3 / 6).tolist() == [False, False, False, False, True, False]
    assert undecided_by_ties(vectors, 4 / 6).tolist() == [False, True, True, False, True, False]


def test_one_entry_more_decides_at_the_thresholds_and_where_signs_cancel():
    vectors = torch.tensor([[3.0, -2.0, 2.0, 1.0, 9.0, 8.0], [0.5, 0.25, 7.0, 0.125, -9.0, 6.0]])
    assert undecided_by_one(vectors, torch.tensor([3.0, 7.0])).tolist() == [True, False, True, False, True, False]
    assert undecided_by_one(vectors, torch.tensor([8.0, 10.0])).tolist() == [False] * 5 + [True]
