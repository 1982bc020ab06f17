"""The functional image tower: equal to open_clip's forward pass, and its parts to the whole."""

import pytest
import torch
from torch import Tensor

from pipeline.models.encoder import block_name
from pipeline.models.vit import VisionTransformer
from pipeline.models.weights import Weights, build_clip, fuse_qkv, split_qkv
from tests.support import toy
from tests.support.precision import roundings, tolerance

DEEP = {**toy.CLIP, "vision_cfg": {**toy.CLIP["vision_cfg"], "layers": 3}}
HALF = (0.5, 0.5, 0.5)


def test_split_and_fuse_are_inverse():
    fused = {name: value.detach() for name, value in build_clip(toy.CLIP).visual.named_parameters()}
    split = split_qkv(fused)
    assert toy.same(fuse_qkv(split), fused)
    assert toy.same(split_qkv(fuse_qkv(split)), split)
    assert len(split) == len(fused) + 4  # one block: in_proj weight and bias become three tensors each
    width = toy.CLIP["vision_cfg"]["width"]
    stem = "transformer.resblocks.0.attn."
    assert torch.equal(split[f"{stem}k.weight"], fused[f"{stem}in_proj_weight"][width : 2 * width])


@pytest.mark.parametrize("quick", [True, False])
def test_tower_equals_open_clips_forward_pass(quick: bool):
    config = {**toy.CLIP, "quick_gelu": quick}
    clip, split = toy.clip_weights(config=config)
    clip, split = clip.double(), toy.in_dtype(split, torch.float64)
    mean, std = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(256, (5, 14, 14, 3), generator=rng, dtype=torch.uint8)
    original = toy.cloned(split)
    features = VisionTransformer(config, mean, std)(split, images)
    pixels = images.permute(0, 3, 1, 2).double() / 255
    pixels = (pixels - pixels.new_tensor(mean).view(3, 1, 1)) / pixels.new_tensor(std).view(3, 1, 1)
    with torch.no_grad():
        expected = clip.encode_image(pixels, normalize=True)
    torch.testing.assert_close(features, expected, rtol=0, atol=tolerance(torch.float64, roundings(config)))
    assert features.shape == (5, 16)
    assert toy.same(split, original)


def test_a_missing_tensor_is_named():
    _, split = toy.clip_weights()
    del split["ln_post.bias"]
    with pytest.raises(KeyError, match=r"ln_post\.bias"):
        VisionTransformer(toy.CLIP, HALF, HALF)(split, torch.zeros(1, 14, 14, 3, dtype=torch.uint8))


def test_an_unsupported_architecture_is_refused():
    config = {**toy.CLIP, "vision_cfg": {**toy.CLIP["vision_cfg"], "pool_type": "avg"}}
    with pytest.raises(ValueError, match="vision_cfg: pool_type not supported"):
        VisionTransformer.check(config)


def deep_tower() -> tuple[VisionTransformer, Weights, Tensor]:
    """Return a tower of three blocks in float64, its weights and four images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        clip = build_clip(DEEP)
    weights = split_qkv({name: value.detach().double() for name, value in clip.visual.named_parameters()})
    noise = torch.Generator().manual_seed(4)
    weights = {name: t + 0.1 * torch.randn(t.shape, generator=noise, dtype=t.dtype) for name, t in weights.items()}
    images = torch.randint(256, (4, 14, 14, 3), generator=noise, dtype=torch.uint8)
    return VisionTransformer(DEEP, HALF, HALF), weights, images


def test_the_parts_compose_the_tower():
    tower, weights, images = deep_tower()
    assert tower.depth == 3
    hidden = tower.embed(weights, images)
    assert hidden.tokens.shape == (4, 5, 32)
    for index in range(tower.depth):
        hidden = tower.block(weights, index, hidden)
    torch.testing.assert_close(tower.finish(weights, hidden), tower(weights, images), rtol=0, atol=1e-13)


def test_a_block_needs_its_own_weights_only():
    tower, weights, images = deep_tower()
    hidden = tower.embed(weights, images)
    block_weights = {name: tensor for name, tensor in weights.items() if name.startswith(block_name(1))}
    assert torch.equal(tower.block(block_weights, 1, hidden).tokens, tower.block(weights, 1, hidden).tokens)
    assert len(block_weights) == 16


def test_inputs_are_those_of_each_matrix():
    tower, weights, images = deep_tower()
    entering = tower.block(weights, 0, tower.embed(weights, images))
    inputs, leaving = tower.inputs(weights, 1, entering), tower.block(weights, 1, entering).tokens.flatten(0, 1)
    assert {*inputs} == {name for name in weights if name.startswith(block_name(1)) and weights[name].ndim == 2}
    stem = block_name(1)

    def applied(name: str) -> Tensor:
        return inputs[f"{stem}{name}.weight"] @ weights[f"{stem}{name}.weight"].T + weights[f"{stem}{name}.bias"]

    assert inputs[f"{stem}attn.q.weight"] is inputs[f"{stem}attn.v.weight"]
    after_attention = entering.tokens.flatten(0, 1) + applied("attn.out_proj")
    torch.testing.assert_close(after_attention + applied("mlp.c_proj"), leaving, rtol=0, atol=1e-13)
    by_matrix = tower.block_by(
        weights, 1, entering, lambda name, x: x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]
    )
    torch.testing.assert_close(by_matrix.tokens.flatten(0, 1), leaving, rtol=0, atol=1e-13)
    hidden = applied("mlp.c_fc")
    torch.testing.assert_close(
        inputs[f"{stem}mlp.c_proj.weight"], hidden * torch.sigmoid(1.702 * hidden), rtol=0, atol=1e-13
    )


def test_moving_a_matrix_moves_the_block_by_its_input():
    """The derivative of the block's output along a change of a matrix of the last layer is input @ change^T."""
    tower, weights, images = deep_tower()
    hidden = tower.embed(weights, images)
    name = f"{block_name(0)}mlp.c_proj.weight"
    change = torch.randn(weights[name].shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    before, after = (tower.block(model, 0, hidden) for model in (weights, {**weights, name: weights[name] + change}))
    moved = (after.tokens - before.tokens).flatten(0, 1)
    torch.testing.assert_close(moved, tower.inputs(weights, 0, hidden)[name] @ change.T, rtol=0, atol=1e-12)
