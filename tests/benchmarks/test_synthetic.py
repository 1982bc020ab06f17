"""The random towers of the benchmarks have the tensors of open_clip's."""

import pytest
import torch

from benchmarks import synthetic
from pipeline.models.weights import build_clip, split_qkv


@pytest.mark.parametrize("backbone", synthetic.SHAPES)
def test_tensors_are_those_of_open_clip_in_its_order(backbone: str):
    with torch.device("meta"):
        tower = build_clip(synthetic.config(backbone)).get_submodule("visual")
    expected = split_qkv(dict(tower.named_parameters()))
    shapes = synthetic.tensor_shapes(backbone)
    assert [*shapes] == [*expected]
    assert shapes == {name: tuple(tensor.shape) for name, tensor in expected.items()}


def test_fewer_blocks_are_the_first_ones():
    whole = synthetic.tensor_shapes("mini")
    part = synthetic.tensor_shapes("mini", 1)
    assert part == {name: shape for name, shape in whole.items() if "resblocks." not in name or "resblocks.0." in name}


def test_random_features_tell_images_apart():
    made = synthetic.problem("tiny", 2, 3, torch.device("cpu"), torch.float32)
    features = made.encoder(made.base, torch.cat(made.examples))
    assert features.norm(dim=1) == pytest.approx([1.0] * 6)
    assert (features @ features.T).fill_diagonal_(0).max() < 0.999
