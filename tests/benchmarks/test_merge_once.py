"""One merge of model folders: every variant follows its formula, computed here with loops."""

from pathlib import Path

import torch
from torch import Tensor

from benchmarks.merge_once import KEEP, VARIANTS, merge_models, open_models
from pipeline.runtime import store

SHAPES = {"weight": (8, 12), "bias": (16,)}
TASKS = 3


def draw_models() -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
    """A base and its experts."""
    rng = torch.Generator().manual_seed(0)
    base = {name: torch.randn(shape, generator=rng) for name, shape in SHAPES.items()}
    experts = [{name: w + torch.randn(w.shape, generator=rng) for name, w in base.items()} for _ in range(TASKS)]
    return base, experts


def ties(vectors: Tensor) -> Tensor:
    """TIES of one tensor, entry by entry: 0.3 times the sum of the kept entries with the elected sign."""
    size = vectors[0].numel()
    kept = [sorted(range(size), key=lambda at, t=t: -abs(t.flatten()[at]))[: int(KEEP * size)] for t in vectors]
    merged = torch.zeros(size)
    for at in range(size):
        entries = [float(t.flatten()[at]) for t, places in zip(vectors, kept, strict=True) if at in places]
        merged[at] = 0.3 * sum(entry for entry in entries if entry * sum(entries) > 0)
    return merged.view(vectors.shape[1:])


def test_average():
    base, experts = draw_models()
    merged = merge_models(VARIANTS["average"], base, experts, 0)
    for tensor in SHAPES:
        torch.testing.assert_close(merged[tensor], torch.stack([expert[tensor] for expert in experts]).mean(0))


def test_task_arithmetic():
    base, experts = draw_models()
    merged = merge_models(VARIANTS["task_arithmetic"], base, experts, 0)
    for tensor in SHAPES:
        steps = sum(expert[tensor] - base[tensor] for expert in experts)
        torch.testing.assert_close(merged[tensor], base[tensor] + 0.3 * steps)


def test_ties_trims_each_tensor_or_the_whole_model():
    base, experts = draw_models()
    vectors = {name: torch.stack([expert[name] - base[name] for expert in experts]) for name in SHAPES}
    by_tensor = merge_models(VARIANTS["ties_by_tensor"], base, experts, 0)
    for name in SHAPES:
        torch.testing.assert_close(by_tensor[name], base[name] + ties(vectors[name]))
    flat = ties(torch.cat([stacked.flatten(1) for stacked in vectors.values()], 1))
    whole = merge_models(VARIANTS["ties"], base, experts, 0)
    merged = torch.cat([(whole[name] - base[name]).flatten() for name in SHAPES])
    torch.testing.assert_close(merged, flat, rtol=1e-4, atol=1e-6)


def test_dare_drops_half_and_doubles_the_rest():
    base, (expert, *_) = draw_models()
    for name, scale in (("dare", 0.3), ("dare_untrimmed_ties", 0.5)):
        first, second = (merge_models(VARIANTS[name], base, [expert], seed)["weight"] for seed in (0, 1))
        whole = 2 * scale * (expert["weight"] - base["weight"])
        moved = first - base["weight"]
        kept = moved != 0
        assert 20 < kept.sum() < 76
        torch.testing.assert_close(moved[kept], whole[kept], rtol=1e-4, atol=1e-6)
        assert not torch.equal(first, second)


def test_experts_are_read_in_the_order_of_their_numbers(tmp_path: Path):
    for number in range(11):
        store.write_tensors(tmp_path / str(number) / "model.safetensors", {"weight": torch.full((2,), float(number))})
    store.write_tensors(tmp_path / "base" / "model.safetensors", {"weight": torch.zeros(2)})
    _, experts = open_models(tmp_path)
    assert [expert["weight"][0].item() for expert in experts] == list(range(11))
