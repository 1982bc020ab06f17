"""Published CLIP weights in the suite's layout: Hugging Face checkpoints, and those of the older open_clip line.

Hugging Face: openai/clip-vit-{base-patch32,base-patch16,large-patch14} are the bases, CLIPVisionModel checkpoints of
the same shapes the experts. The image tower is merged, 199 or 391 (large) tensors, but for `proj`, the base's visual
projection. `tensors` may be any mapping, a `store.TensorFile` for one: only what is returned is read.
"""

import pickle
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from pipeline.models.weights import FROZEN, Weights, build_clip, fuse_qkv, split_qkv
from pipeline.runtime.errors import BenchmarkError

Names = dict[str, str]
Tokenizer = Callable[[list[str]], Tensor]

VISION: Names = {
    "class_embedding": "embeddings.class_embedding",
    "positional_embedding": "embeddings.position_embedding.weight",
    "proj": "visual_projection.weight",
    "conv1.weight": "embeddings.patch_embedding.weight",
    "ln_pre.weight": "pre_layrnorm.weight",  # sic
    "ln_pre.bias": "pre_layrnorm.bias",
    "transformer": "encoder",
    "ln_post.weight": "post_layernorm.weight",
    "ln_post.bias": "post_layernorm.bias",
}
TEXT: Names = {
    "positional_embedding": "embeddings.position_embedding.weight",
    "text_projection": "text_projection.weight",
    "logit_scale": "logit_scale",
    "transformer": "encoder",
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "ln_final.weight": "final_layer_norm.weight",
    "ln_final.bias": "final_layer_norm.bias",
}
"""The towers, {layout: Hugging Face}, in open_clip's order; `transformer` stands for all blocks."""

BLOCK: tuple[Names, ...] = (
    {"ln_1": "layer_norm1"},
    {"attn.q": "self_attn.q_proj", "attn.k": "self_attn.k_proj", "attn.v": "self_attn.v_proj"},
    {"attn.out_proj": "self_attn.out_proj"},
    {"ln_2": "layer_norm2"},
    {"mlp.c_fc": "mlp.fc1"},
    {"mlp.c_proj": "mlp.fc2"},
)
"""The modules of a block, likewise; the three of attention share an entry: all their weights, then all their biases."""

KEYS = {"layers": "num_hidden_layers", "width": "hidden_size", "heads": "num_attention_heads"}
DEFAULTS = {
    "vision": {"layers": 12, "width": 768, "heads": 12, "intermediate_size": 3072, "image_size": 224, "patch_size": 32},
    "text": {"layers": 12, "width": 512, "heads": 8, "intermediate_size": 2048, "vocab_size": 49408}
    | {"max_position_embeddings": 77, "eos_token_id": 49407},
}
"""What a config.json leaves out, as transformers fills it in; KEYS are the names that differ there."""

FIXED = {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "num_channels": 3}
MERGED: Names = {ours: theirs for ours, theirs in VISION.items() if ours not in FROZEN}
LAYER = re.compile(r"(?:encoder\.layers|transformer\.resblocks)\.(\d{1,3})\.")
OLD_PREFIX = re.compile(r"(?:(?:module|model|image_encoder)\.)*visual\.")


def open_clip_config(hf_config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `open_clip.CLIP` from the config.json of a CLIPModel; BenchmarkError where they cannot say it."""
    if (kind := hf_config.get("model_type", "clip")) != "clip":
        raise BenchmarkError(f"config.json: model_type {kind!r}, expected 'clip'; take the config.json of the base")
    vision, text = (_tower_config(hf_config, part) for part in DEFAULTS)
    vision["head_width"] = vision["width"] // vision.pop("heads")
    text["context_length"] = text.pop("max_position_embeddings")
    if (end := text.pop("eos_token_id")) not in (2, text["vocab_size"] - 1):  # 2, in older files: the largest token
        raise BenchmarkError(f"config.json: text_config.eos_token_id {end}, expected the last of the vocabulary, or 2")
    embed_dim = hf_config.get("projection_dim", 512)
    return {"embed_dim": embed_dim, "vision_cfg": vision, "text_cfg": text, "quick_gelu": True}


def vision_tensors(tensors: Mapping[str, Tensor]) -> Weights:
    """The merged tensors, float32, of a CLIPVisionModel checkpoint, with or without the prefix `vision_model.`."""
    return _tower(tensors, "vision_model.", MERGED)


def base_tensors(tensors: Mapping[str, Tensor]) -> Weights:
    """theta_0, frozen tensors included, float32, of a CLIPModel (or CLIPVisionModelWithProjection) checkpoint."""
    base = _tower(tensors, "vision_model.", VISION, ("text_model.", "text_projection.", "logit_scale"))
    return {**base, "proj": base["proj"].T.contiguous()}


def text_state(tensors: Mapping[str, Tensor]) -> Weights:
    """Text tower and logit scale of a CLIPModel checkpoint as `open_clip.CLIP` names them, float32, q, k, v fused."""
    text = fuse_qkv(_tower(tensors, "text_model.", TEXT, ("vision_model.", "visual_projection.")))
    return {**text, "text_projection": text["text_projection"].T.contiguous()}


def load_text(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> torch.nn.Module:
    """An `open_clip.CLIP` of `config` with the text side of a CLIPModel checkpoint; `visual` is without storage."""
    with torch.device("meta"):
        clip = build_clip(config)
    skeleton = {f"visual.{name}": tensor for name, tensor in clip.visual.state_dict().items()}
    try:
        clip.load_state_dict({**skeleton, **text_state(tensors)}, assign=True)
    except RuntimeError as error:
        raise BenchmarkError(f"the text tower is not that of its config.json, fetch both again: {error}") from error
    clip.attn_mask = torch.full(clip.attn_mask.shape, -torch.inf).triu(1)  # causal; no part of the state
    return clip.eval().requires_grad_(False)


@torch.no_grad()
def zero_shot_head(
    clip: torch.nn.Module, tokenize: Tokenizer, classnames: Sequence[str], templates: Sequence[str], batch: int = 256
) -> Tensor:
    """Zero-shot head [classes, D]: unit rows (the templates' mean unit embedding) times exp(logit scale)."""
    if not classnames or not templates or any("{}" not in template for template in templates):
        raise BenchmarkError(f"{len(classnames)} classes, templates {list(templates)}: expected some, each with {{}}")
    captions = [template.format(name) for name in classnames for template in templates]
    parts = [tokenize(captions[start : start + batch]) for start in range(0, len(captions), batch)]
    embedded = torch.cat([clip.encode_text(part.to(clip.logit_scale.device), normalize=True) for part in parts])
    return normalize(embedded.unflatten(0, (-1, len(templates))).mean(1), dim=-1) * clip.logit_scale.exp()


def read_pickle(path: Path) -> dict[str, Tensor]:
    """The state dict that `torch.save` wrote to `path`; BenchmarkError if it is anything else, no code is run."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise BenchmarkError(
            f"{path}: refused, it is no file of tensors alone: opening a pickled module runs the code it names. If you "
            "trust the file, open it where it was made and save its state: torch.save(module.state_dict(), path)"
        ) from error
    except (OSError, EOFError, RuntimeError, ValueError, LookupError, AttributeError, TypeError) as error:
        raise BenchmarkError(
            f"{path}: cannot be read as a state dict, {type(error).__name__}; fetch it again"
        ) from error
    if not isinstance(content, dict) or not all(isinstance(tensor, Tensor) for tensor in content.values()):
        raise BenchmarkError(f"{path}: expected a state dict, names and tensors; save module.state_dict() alone")
    return content


def from_pickle(path: Path) -> Weights:
    """The merged tensors, float32, of an image encoder of the older open_clip line: `[image_encoder.][model.]visual.*`.

    That line fine-tuned `visual.proj` too; the base's is kept, so an expert may score a little off what is published.
    """
    content = read_pickle(path)
    visual = {name[match.end() :]: content[name] for name in content if (match := OLD_PREFIX.match(name))}
    own = split_qkv({name: tensor for name, tensor in visual.items() if name not in FROZEN})
    return _picked(own, {name: name for name in own}, {name: name for name in _table(MERGED, own)}, f"{path}: visual")


def _tower_config(hf_config: Mapping[str, Any], part: str) -> dict[str, Any]:
    """The settings of one tower; as in transformers, the older key `<part>_config_dict` goes before `<part>_config`."""
    older = hf_config.get(f"{part}_config_dict")
    given = (hf_config.get(f"{part}_config") or {}) if older is None else older
    for key, expected in FIXED.items():
        if (found := given.get(key, expected)) != expected:
            raise BenchmarkError(f"config.json: {part}_config.{key} {found!r}, only {expected!r} is supported")
    config = {ours: given.get(KEYS.get(ours, ours), default) for ours, default in DEFAULTS[part].items()}
    width, heads, inner = config["width"], config["heads"], config.pop("intermediate_size")
    if width % heads or int(width * (inner / width)) != inner:  # open_clip's own arithmetic
        raise BenchmarkError(f"config.json: {part}_config: {heads} heads or an MLP of {inner} do not fit width {width}")
    return config | {"mlp_ratio": inner / width}


def _tower(tensors: Mapping[str, Tensor], prefix: str, names: Names, other: tuple[str, ...] = ()) -> Weights:
    """The tensors of one tower; `prefix` may precede a name, `other` are the beginnings of the other tower's names."""
    own = (name for name in tensors if not name.startswith(other) and not name.endswith("position_ids"))
    found = {name.removeprefix(prefix).replace("pre_layernorm.", "pre_layrnorm."): name for name in own}
    return _picked(tensors, found, _table(names, found), prefix.rstrip("."))


def _table(names: Names, found: Iterable[str]) -> Names:
    """`names` with as many blocks written out as `found` has."""
    layers = 1 + max((int(match[1]) for match in map(LAYER.match, found) if match), default=0)
    blocks = {
        f"transformer.resblocks.{layer}.{ours}.{kind}": f"encoder.layers.{layer}.{theirs}.{kind}"
        for layer in range(layers)
        for modules in BLOCK
        for kind in ("weight", "bias")
        for ours, theirs in modules.items()
    }
    parts = [blocks if ours == "transformer" else {ours: theirs} for ours, theirs in names.items()]
    return {ours: theirs for part in parts for ours, theirs in part.items()}


def _picked(tensors: Mapping[str, Tensor], found: Names, table: Names, what: str) -> Weights:
    """{name in the layout: tensor, float32} in the order of `table`; `found` leads from its right side to `tensors`."""
    missing = [theirs for theirs in table.values() if theirs not in found]
    unknown = [found[name] for name in sorted(found.keys() - {*table.values()})]
    for problem, names in (("missing", missing), ("unknown", unknown)):
        if names:
            few = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            raise BenchmarkError(f"{what}: {problem} tensors ({len(names)}): {few}; expected one whole CLIP tower")
    return {ours: tensors[found[theirs]].detach().float() for ours, theirs in table.items()}
