"""Every architecture that a suite can have is one that transformers builds, with the same features."""

from typing import Any

import pytest
import torch
from torch.nn.functional import normalize
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from pipeline.export import images as form
from pipeline.models.vit import VisionTransformer
from pipeline.suites._clip_weights import convert_base
from tests.support import toy
from tests.support.precision import roundings, tolerance

pytestmark = pytest.mark.long

VISION = toy.CLIP["vision_cfg"]


def test_names_for_transformers_are_the_inverse_of_reading_them():
    _, tower = toy.clip_weights()
    assert toy.same(convert_base(form.transformers_weights(tower)), tower)


@pytest.mark.parametrize(
    "change",
    [
        {"quick_gelu": False},
        {"embed_dim": 24},
        {"vision_cfg": {**VISION, "mlp_ratio": 2.0}},
        {"vision_cfg": {**VISION, "layers": 3, "head_width": 8, "image_size": 28}},
    ],
    ids=["gelu", "projection", "mlp", "sizes"],
)
def test_transformers_builds_the_suites_architecture(change: dict[str, Any]):
    model = {**toy.CLIP, **change}
    _, weights = toy.clip_weights(config=model)
    tower = CLIPVisionModelWithProjection(CLIPVisionConfig(**form.transformers_config(model)))
    tower.load_state_dict(form.transformers_weights(weights))
    side = model["vision_cfg"]["image_size"]
    images = torch.randint(256, (3, side, side, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    with torch.no_grad():
        features = tower.eval()(pixel_values=(images.permute(0, 3, 1, 2) / 255 - 0.5) / 0.5).image_embeds
    expected = VisionTransformer(model, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))(weights, images)
    bound = tolerance(torch.float32, roundings(model))
    torch.testing.assert_close(normalize(features, dim=-1), expected, rtol=0, atol=bound)
