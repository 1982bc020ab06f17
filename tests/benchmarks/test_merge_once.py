"""One merge of model folders: every variant follows its formula, computed here with loops."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks.merge_once import ALPHA, KEEP, STEPS, VARIANTS, merge_models, open_models, rename
from pipeline import methods
from pipeline.models.task_vectors import TaskVectors
from pipeline.runtime import store
from pipeline.steps.svc import calibrate_matrix
from pipeline.suites._clip_weights import BLOCK
from pipeline.toolbox.spectra import is_matrix

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


MATRIX = "encoder.layers.0.self_attn.q_proj.weight"


def draw_blocks() -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
    """A base and its experts with a matrix and a bias, as a CLIPVisionModel names them."""
    names = {"weight": MATRIX, "bias": "encoder.layers.0.self_attn.q_proj.bias"}
    base, experts = draw_models()
    named = [{names[name]: tensor for name, tensor in model.items()} for model in (base, *experts)]
    return named[0], named[1:]


@pytest.mark.parametrize("variant", ["iso_c", "iso_cts", "tsv_m", "wudi"])
def test_spectral_methods_take_the_matrices_of_the_blocks(variant: str):
    base, experts = draw_blocks()
    merged = merge_models(VARIANTS[variant], base, experts, 0)
    assert [*merged] == [*base]
    method, ours = methods.load(variant), ".attn.q.weight"
    params = method.Params(**({"steps": STEPS} if variant == "wudi" else {}))
    alone = TaskVectors({ours: base[MATRIX]}, [{ours: expert[MATRIX]} for expert in experts], [ours])
    torch.testing.assert_close(merged[MATRIX], base[MATRIX] + method.merge(alone, params)[ours])
    mean = torch.stack([expert[MATRIX] for expert in experts]).mean(0)
    assert (merged[MATRIX] - mean).abs().max() > 0.1


def test_singular_values_are_calibrated_after_task_arithmetic():
    base, experts = draw_blocks()
    merged = merge_models(VARIANTS["task_arithmetic_svc"], base, experts, 0)
    plain = merge_models(VARIANTS["task_arithmetic"], base, experts, 0)
    stacked = torch.stack([expert[MATRIX] - base[MATRIX] for expert in experts])
    calibrated = calibrate_matrix(plain[MATRIX] - base[MATRIX], stacked, ALPHA)
    torch.testing.assert_close(merged[MATRIX], base[MATRIX] + calibrated, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(calibrated, plain[MATRIX] - base[MATRIX], atol=1e-2)


def test_the_six_matrices_of_a_block_are_matrices_and_nothing_else_is():
    block = "vision_model.encoder.layers.11."
    names = [f"{block}{part}" for modules in BLOCK for part in modules.values()]
    assert sum(is_matrix(rename(f"{name}.weight")) for name in names) == 6
    assert not any(is_matrix(rename(f"{name}.bias")) for name in names)
    assert rename("embeddings.position_embedding.weight") == "embeddings.position_embedding.weight"


def test_experts_are_read_in_the_order_of_their_numbers(tmp_path: Path):
    for number in range(11):
        store.write_tensors(tmp_path / str(number) / "model.safetensors", {"weight": torch.full((2,), float(number))})
    store.write_tensors(tmp_path / "base" / "model.safetensors", {"weight": torch.zeros(2)})
    _, experts = open_models(tmp_path)
    assert [expert["weight"][0].item() for expert in experts] == list(range(11))
