"""Published CLIP weights give the features and heads of transformers' model, and unsuitable files are refused."""

import os
import pickle
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from pipeline.models.vit import VisionTransformer
from pipeline.models.weights import FROZEN, Weights, build_clip, split_qkv
from pipeline.runtime.errors import BenchmarkError
from pipeline.suites import _clip_weights as clip_weights
from pipeline.suites._checkpoints import Checkpoint
from tests.support import toy

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
CLOSE = 1e-5
CLASSES, TEMPLATES = ("cat", "Boeing 747", "golden retriever"), ("a photo of a {}.", "{}", "the {}, a blurry drawing")

LARGE = {"num_hidden_layers": 12, "projection_dim": 768}
HUB: dict[str, dict[str, Any]] = {
    "ViT-B-32": {"model_type": "clip", "text_config": {"eos_token_id": 2}, "vision_config": {}},
    "ViT-B-16": {"text_config_dict": None, "vision_config": {"patch_size": 16}, "vision_config_dict": None},
    "ViT-L-14": {
        "projection_dim": 768,
        "text_config": {"hidden_size": 1},
        "text_config_dict": LARGE | {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12},
        "vision_config_dict": LARGE
        | {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16}
        | {"num_hidden_layers": 24, "patch_size": 14},
    },
}
"""Sparse config.json files of the three bases; in the last, the older `_dict` overrules the wrong width."""

TINY = {"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 2}
TEXT = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 3}


def small_config(patch: int, eos: int = 2) -> dict[str, Any]:
    """A CLIPConfig of two narrow layers per tower, images of 224 pixels and the real vocabulary."""
    vision, text = TINY | {"patch_size": patch}, TEXT | {"eos_token_id": eos}
    return {"projection_dim": 40, "vision_config": vision, "text_config": text}


def build_transformers_clip(config: Mapping[str, Any]) -> torch.nn.Module:
    """Build transformers' CLIPModel from a config.json, as transformers reads it."""
    import transformers

    with torch.random.fork_rng(devices=[]):
        return transformers.CLIPModel(transformers.CLIPConfig(**config)).eval().requires_grad_(False)


def draw_model(config: Mapping[str, Any], seed: int = 0) -> torch.nn.Module:
    """Draw a CLIPModel with all tensors random, also biases and norms, so that none can be mistaken for another."""
    rng = torch.Generator().manual_seed(seed)
    model = build_transformers_clip(config)
    for name, tensor in model.named_parameters():
        if name == "logit_scale":
            tensor.fill_(4.0)
        elif "norm" in name:
            tensor.normal_(1.0 if name.endswith("weight") else 0.0, 0.2, generator=rng)
        elif "embedding" in name and tensor.ndim == 2:
            tensor.normal_(generator=rng)
        else:
            tensor.normal_(0.0, 0.2 if tensor.ndim == 1 else tensor[0].numel() ** -0.5, generator=rng)
    return model


@cache
def small_model(patch: int, seed: int = 0) -> torch.nn.Module:
    """A small CLIPModel, which must not be changed."""
    return draw_model(small_config(patch), seed)


@cache
def meta_tensors(name: str) -> dict[str, Tensor]:
    """The tensors of a base of real size, without storage."""
    with torch.device("meta"):
        return build_transformers_clip(HUB[name]).state_dict()


@cache
def tokenizer() -> clip_weights.Tokenizer:
    """open_clip's tokenizer of the real vocabulary."""
    from open_clip import SimpleTokenizer

    return SimpleTokenizer()


def images(side: int = 224) -> tuple[Tensor, Tensor]:
    """Draw two images, as uint8 [2, H, W, 3] and as normalised pixels [2, 3, H, W]."""
    drawn_images = torch.randint(256, (2, side, side, 3), generator=torch.Generator().manual_seed(7)).to(torch.uint8)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return drawn_images, (drawn_images.permute(0, 3, 1, 2).float() / 255 - mean) / std


def captions(pad: int = 0) -> Tensor:
    """Tokens [classes * templates, 77]; open_clip pads with 0, transformers with the end of text, 49407."""
    tokens = tokenizer()([template.format(name) for name in CLASSES for template in TEMPLATES])
    after = tokens.argmax(-1, keepdim=True) < torch.arange(tokens.shape[1])
    return tokens.masked_fill(after, pad)


def expected_head(text_embeds: Tensor, logit_scale: Tensor) -> Tensor:
    """Compute the head class by class from projected text features [classes * templates, D]."""
    rows = []
    for features in text_embeds.split(len(TEMPLATES)):
        mean = sum(feature / feature.norm() for feature in features) / len(TEMPLATES)
        rows.append(mean / mean.norm() * logit_scale.exp())
    return torch.stack(rows)


def check_against_transformers(model: torch.nn.Module, config: Mapping[str, Any]) -> None:
    """Check that image features, text features and heads of the conversion are those of `model`."""
    converted, state = clip_weights.convert_clip_config(config), model.state_dict()
    pixels, normalised = images()
    reference = model(input_ids=captions(), pixel_values=normalised)
    image_features = VisionTransformer(converted, MEAN, STD)(clip_weights.convert_base(state), pixels)
    clip = clip_weights.load_text_tower(converted, state)
    text_features = clip.encode_text(captions(), normalize=True)
    head = clip_weights.build_zero_shot_head(clip, tokenizer(), CLASSES, TEMPLATES, batch=4)
    reference_head = expected_head(model.text_projection(model.text_model(captions()).pooler_output), model.logit_scale)
    differences = {
        "image features": (image_features - reference.image_embeds).abs().max().item(),
        "text features": (text_features - reference.text_embeds).abs().max().item(),
        "head": (head - reference_head).abs().max().item() / model.logit_scale.exp().item(),
    }
    assert max(differences.values()) < CLOSE, differences
    assert (reference.image_embeds[0] - reference.image_embeds[1]).abs().max() > 100 * CLOSE, (
        "features tell nothing apart"
    )
    assert (reference_head[0] - reference_head[1]).abs().max() > 100 * CLOSE, "heads tell nothing apart"


@pytest.mark.long
def test_vit_b_32_of_real_size_agrees_with_transformers():
    check_against_transformers(draw_model(HUB["ViT-B-32"]), HUB["ViT-B-32"])


@pytest.mark.parametrize("patch", [16, 14])
def test_small_towers_agree_with_transformers(patch: int):
    check_against_transformers(small_model(patch), small_config(patch))


@pytest.mark.parametrize("eos", [2, 49407])
@pytest.mark.parametrize("pad", [0, 49407])
def test_captions_end_where_transformers_ends_them(eos: int, pad: int):
    config, tokens = small_config(16, eos), captions(pad)
    model = build_transformers_clip(config)
    model.load_state_dict(small_model(16).state_dict())
    clip = clip_weights.load_text_tower(clip_weights.convert_clip_config(config), model.state_dict())
    expected = normalize(model.text_projection(model.text_model(tokens).pooler_output), dim=-1)
    assert (clip.encode_text(tokens, normalize=True) - expected).abs().max() < CLOSE
    assert (clip.encode_text(captions(), normalize=True) - expected).abs().max() < CLOSE, "padding matters"


@pytest.mark.parametrize("prefix", ["", "vision_model."])
def test_experts_keep_the_projection_of_the_base(prefix: str):
    import transformers

    base, tuned = small_model(16), small_model(16, seed=1)
    checkpoint = {prefix + name: tensor for name, tensor in tuned.vision_model.state_dict().items()}
    checkpoint[f"{prefix}embeddings.position_ids"] = torch.arange(197)
    weights = clip_weights.convert_expert(checkpoint)
    assert FROZEN[0] not in weights
    with torch.random.fork_rng(devices=[]):
        model = transformers.CLIPVisionModelWithProjection(base.config.vision_config)
    model.visual_projection = base.visual_projection
    model.vision_model = tuned.vision_model
    pixels, normalised = images()
    expected = normalize(model.eval()(normalised).image_embeds, dim=-1)
    encode = VisionTransformer(clip_weights.convert_clip_config(small_config(16)), MEAN, STD)
    proj = clip_weights.convert_base(base.state_dict())["proj"]
    assert (encode({**weights, "proj": proj}, pixels) - expected).abs().max() < CLOSE


@pytest.mark.parametrize(("name", "groups"), [("ViT-B-32", 199), ("ViT-B-16", 199), ("ViT-L-14", 391)])
def test_real_sizes_have_the_tensors_of_open_clip(name: str, groups: int):
    base = clip_weights.convert_base(meta_tensors(name))
    with torch.device("meta"):
        clip = build_clip(clip_weights.convert_clip_config(HUB[name]))
    expected = split_qkv(dict(clip.visual.named_parameters()))
    assert [*base] == [*expected], "order"
    assert {key: tensor.shape for key, tensor in base.items()} == {
        key: tensor.shape for key, tensor in expected.items()
    }
    merged = [key for key in base if key not in FROZEN]
    assert len(merged) == groups
    vision = {key: tensor for key, tensor in meta_tensors(name).items() if key.startswith("vision_model.")}
    assert [*clip_weights.convert_expert(vision)] == merged
    text = {key: tensor.shape for key, tensor in clip.state_dict().items() if not key.startswith("visual.")}
    assert {key: tensor.shape for key, tensor in clip_weights.convert_text(meta_tensors(name)).items()} == text


@pytest.mark.parametrize("name", HUB)
def test_a_sparse_config_equals_open_clips(name: str):
    from open_clip import get_model_config

    converted, expected = clip_weights.convert_clip_config(HUB[name]), get_model_config(f"{name}-quickgelu")
    defaults = {"vision_cfg": {"head_width": 64, "mlp_ratio": 4.0}, "text_cfg": {"mlp_ratio": 4.0}}
    assert converted == {**expected, **{part: defaults[part] | expected[part] for part in defaults}}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"vision_config": {"hidden_act": "gelu"}}, "vision_config.hidden_act 'gelu', only 'quick_gelu'"),
        ({"text_config_dict": {"hidden_act": "gelu"}}, "text_config.hidden_act 'gelu', only 'quick_gelu'"),
        ({"text_config": {"layer_norm_eps": 1e-6}}, "text_config.layer_norm_eps 1e-06, only 1e-05"),
        ({"vision_config": {"num_channels": 1}}, "vision_config.num_channels 1, only 3"),
        ({"text_config": {"eos_token_id": 5}}, "eos_token_id 5, expected the last of the vocabulary"),
        ({"vision_config": {"num_attention_heads": 7}}, "7 heads .* do not fit width 768"),
        ({"model_type": "clip_vision_model"}, "take the config.json of the base"),
    ],
)
def test_configs_beyond_open_clip_are_refused(config: dict[str, Any], message: str):
    with pytest.raises(BenchmarkError, match=message):
        clip_weights.convert_clip_config(config)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened(dtype: torch.dtype):
    state = {name: tensor.to(dtype) for name, tensor in small_model(16).state_dict().items()}
    wide = {name: tensor.float() for name, tensor in state.items()}
    for convert in (clip_weights.convert_base, clip_weights.convert_text):
        converted = convert(state)
        assert {tensor.dtype for tensor in converted.values()} == {torch.float32}
        assert toy.same(converted, convert(wide))


def test_corrected_spelling_is_accepted():
    state = small_model(16).vision_model.state_dict()
    corrected = {name.replace("layrnorm", "layernorm"): tensor for name, tensor in state.items()}
    assert corrected.keys() != state.keys()
    assert toy.same(clip_weights.convert_expert(corrected), clip_weights.convert_expert(state))


def test_wrong_tensors_are_named():
    state = dict(small_model(16).state_dict())
    with pytest.raises(
        BenchmarkError, match=r"^vision_model: unknown tensors \(39\): logit_scale, text_model.*there are logit_"
    ):
        clip_weights.convert_expert(state)
    state["vision_model.encoder.layers.0.lora_A.weight"] = state["logit_scale"]
    with pytest.raises(
        BenchmarkError, match=r"unknown tensors \(1\): vision_model.encoder.layers.0.lora_A.weight; expected"
    ):
        clip_weights.convert_base(state)
    dropped = [name for name in state if "layers.0.self_attn.q_proj" in name]
    incomplete = {name: tensor for name, tensor in state.items() if name not in dropped}
    missing = (
        r"missing tensors \(2\): encoder.layers.0.self_attn.q_proj.weight, encoder.layers.0.self_attn.q_proj.bias;"
    )
    with pytest.raises(BenchmarkError, match=f"vision_model: {missing}"):
        clip_weights.convert_base(incomplete)
    with pytest.raises(BenchmarkError, match=f"text_model: {missing}"):
        clip_weights.convert_text(incomplete)
    with pytest.raises(BenchmarkError, match=r"missing tensors \(23\): embeddings.class_embedding, .*, \.\.\.;"):
        clip_weights.convert_expert({})


@pytest.mark.parametrize(
    ("tower", "key", "value", "message"),
    [
        ("text_cfg", "layers", 3, "transformer.resblocks.2.*the weights have none, config.json asks for"),
        ("text_cfg", "layers", 1, "transformer.resblocks.1.*, config.json asks for none"),
        (
            "text_cfg",
            "context_length",
            5,
            r"positional_embedding: .* have \[77, 48\], config.json asks for \[5, 48\]",
        ),
        ("vision_cfg", "layers", 3, "visual.transformer.resblocks.2.*the weights have none"),
        ("vision_cfg", "width", 32, r"visual.class_embedding: the weights have \[64\], config.json asks for \[32\]"),
        (
            "vision_cfg",
            "image_size",
            336,
            r"visual.positional_embedding: .* have \[197, 64\], .* for \[442, 64\]",
        ),
        (
            "vision_cfg",
            "patch_size",
            32,
            r"visual.conv1.weight: .* have \[64, 3, 16, 16\], .* for \[64, 3, 32, 32\]",
        ),
    ],
)
def test_tensors_must_have_the_shapes_of_the_config(tower: str, key: str, value: int, message: str):
    config, tensors = clip_weights.convert_clip_config(small_config(16)), skeleton(small_model(16))
    assert clip_weights.check_base(config, tensors).keys() == clip_weights.convert_base(tensors).keys()
    with pytest.raises(BenchmarkError, match=message):
        clip_weights.check_base({**config, tower: config[tower] | {key: value}}, tensors)


def test_an_expert_must_have_the_shapes_of_the_base():
    base, other = (skeleton(small_model(patch)) for patch in (16, 32))
    theta = clip_weights.check_base(clip_weights.convert_clip_config(small_config(16)), base)
    experts = [{name: state[name] for name in state if name.startswith("vision_model.")} for state in (base, other)]
    clip_weights.check_expert(theta, experts[0])
    with pytest.raises(BenchmarkError, match=r"the expert has \[.*\], the base \[.*\]; it comes from another base"):
        clip_weights.check_expert(theta, experts[1])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "cannot be read as JSON"),
        (b"\xff", "cannot be read as JSON"),
        (b"[]", r"config.json \[\], expected an object"),
        (b'{"vision_config": [1]}', r"vision_config \[1\], expected an object"),
        (b'{"vision_config": {"hidden_size": "768"}}', "vision_config.hidden_size '768', expected a positive whole"),
        (
            b'{"text_config": {"num_attention_heads": 0}}',
            "text_config.num_attention_heads 0, expected a positive whole",
        ),
        (b'{"projection_dim": null}', "projection_dim None, expected a positive whole"),
    ],
)
def test_a_malformed_config_is_named_with_its_key(tmp_path: Path, content: bytes, message: str):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(BenchmarkError, match=rf"config\.json: {message}"):
        clip_weights.read_config(tmp_path / "config.json")


def test_captions_must_fit_and_differ():
    def check(classes: list[str], template: str) -> None:
        clip_weights.check_captions(tokenizer(), 77, classes, [template, "{}"], "pets")

    check(["cat", "dog"], "a photo of a {}.")
    check(["cat", "dog"], f"{'very ' * 73}{{}}")
    with pytest.raises(BenchmarkError, match=r"pets: the caption 'very .* has 76 tokens, the text encoder takes 75"):
        check(["cat", "dog"], f"{'very ' * 75}{{}}")
    with pytest.raises(BenchmarkError, match="pets: the classes 'cat' and 'Cat ' have the same captions"):
        check(["cat", "dog", "Cat "], "a photo of a {} .")


@pytest.mark.parametrize("templates", [(), ("a photo of a cat",)])
def test_templates_need_a_place_for_the_class(templates: tuple[str, ...]):
    clip = clip_weights.load_text_tower(
        clip_weights.convert_clip_config(small_config(16)), small_model(16).state_dict()
    )
    with pytest.raises(BenchmarkError, match=r"expected some, each with \{\}"):
        clip_weights.build_zero_shot_head(clip, tokenizer(), CLASSES, templates)


@pytest.mark.parametrize(
    "prefix", ["visual.", "model.visual.", "image_encoder.model.visual.", "module.visual.", "_orig_mod.module.visual."]
)
def test_an_older_expert_is_read(tmp_path: Path, prefix: str):
    clip, base = toy.clip_weights()
    state = {prefix + name: tensor.half() for name, tensor in clip.visual.state_dict().items()}
    outside = {"model.logit_scale": clip.logit_scale.data, "classification_head.weight": torch.zeros(3, 4)}
    torch.save({**state, **outside}, tmp_path / "expert.pt")
    expert = read_expert(tmp_path / "expert.pt")
    assert [*expert] == [name for name in base if name not in FROZEN]
    assert toy.same(expert, {name: base[name].half().float() for name in expert})
    del state[f"{prefix}ln_post.bias"]
    torch.save(state, tmp_path / "expert.pt")
    with pytest.raises(BenchmarkError, match=r"expert.pt: visual: missing tensors \(1\): ln_post.bias;"):
        read_expert(tmp_path / "expert.pt")


def skeleton(model: torch.nn.Module) -> Weights:
    """Return the tensors of a model without values."""
    return {name: tensor.to("meta") for name, tensor in model.state_dict().items()}


def read_expert(path: Path) -> Weights:
    """Read an expert from a file."""
    return clip_weights.convert_expert(Checkpoint(path, "task pets"))


class Code:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_a_checkpoint_is_not_run(tmp_path: Path, legacy: bool):
    file, folder = tmp_path / "expert.pt", tmp_path / "made by the checkpoint"
    torch.save({"visual.proj": Code(folder)}, file, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(BenchmarkError, match=r"refused, .* runs the code .* torch.save\(module.state_dict"):
        read_expert(file)
    file.write_bytes(pickle.dumps(Code(folder), protocol=2))
    with pytest.raises(BenchmarkError, match="refused"):
        read_expert(file)
    assert not folder.exists()
    pickle.loads(file.read_bytes())
    assert folder.exists(), "the checkpoint was harmless to begin with"


def test_whole_modules_are_refused(tmp_path: Path):
    torch.save(toy.clip_weights()[0].visual, tmp_path / "expert.pt")
    with pytest.raises(BenchmarkError, match="refused, it is no file of tensors alone"):
        read_expert(tmp_path / "expert.pt")


def test_other_files_are_refused(tmp_path: Path):
    file = tmp_path / "expert.pt"
    with pytest.raises(BenchmarkError, match="cannot be read"):
        read_expert(file)
    torch.save([torch.zeros(2)], file)
    with pytest.raises(BenchmarkError, match="expected a state dict"):
        read_expert(file)
    torch.save({"visual.proj": torch.zeros(2)}, file)
    with pytest.raises(BenchmarkError, match="missing tensors"):
        read_expert(file)
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(BenchmarkError, match="cannot be read"):
        read_expert(file)
    file.write_bytes(b"<html>not found</html>")
    with pytest.raises(BenchmarkError, match="no file of tensors alone"):
        read_expert(file)
