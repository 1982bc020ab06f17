"""Published CLIP weights in the suite's layout, from Hugging Face or older open_clip checkpoints.

On Hugging Face, openai/clip-vit-{base-patch32,base-patch16,large-patch14} are the bases; CLIPVisionModel checkpoints of
the same shapes are the experts. The image tower is merged, 199 or 391 (large) tensors, except for `proj`, the base's
visual projection. `tensors` may be any mapping, such as a `store.TensorFile`: only the returned tensors are read.
"""

import pickle
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch.nn.functional import normalize

from pipeline.models.weights import FROZEN, Weights, build_clip, fuse_qkv, split_qkv
from pipeline.runtime.errors import BenchmarkError

if TYPE_CHECKING:
    from open_clip import CLIP

NameMap = dict[str, str]
"""{name in the suite's layout: name in the checkpoint}."""
Tokenizer = Callable[[list[str]], Tensor]

VISION_NAMES: NameMap = {
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
TEXT_NAMES: NameMap = {
    "positional_embedding": "embeddings.position_embedding.weight",
    "text_projection": "text_projection.weight",
    "logit_scale": "logit_scale",
    "transformer": "encoder",
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "ln_final.weight": "final_layer_norm.weight",
    "ln_final.bias": "final_layer_norm.bias",
}
"""Tensors of the two towers, in open_clip's order; `transformer` stands for all blocks."""

BLOCK: tuple[NameMap, ...] = (
    {"ln_1": "layer_norm1"},
    {"attn.q": "self_attn.q_proj", "attn.k": "self_attn.k_proj", "attn.v": "self_attn.v_proj"},
    {"attn.out_proj": "self_attn.out_proj"},
    {"ln_2": "layer_norm2"},
    {"mlp.c_fc": "mlp.fc1"},
    {"mlp.c_proj": "mlp.fc2"},
)
"""Modules of a block; q, k and v share an entry, as all their weights precede all their biases."""

KEYS = {"layers": "num_hidden_layers", "width": "hidden_size", "heads": "num_attention_heads"}
DEFAULTS = {
    "vision": {"layers": 12, "width": 768, "heads": 12, "intermediate_size": 3072, "image_size": 224, "patch_size": 32},
    "text": {"layers": 12, "width": 512, "heads": 8, "intermediate_size": 2048, "vocab_size": 49408}
    | {"max_position_embeddings": 77, "eos_token_id": 49407},
}
"""Values that transformers fills in for keys that a config.json lacks; KEYS maps the names that differ."""

FIXED = {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "num_channels": 3}
MERGED_NAMES: NameMap = {ours: theirs for ours, theirs in VISION_NAMES.items() if ours not in FROZEN}
LAYER = re.compile(r"(?:encoder\.layers|transformer\.resblocks)\.(\d{1,3})\.")
OLD_PREFIX = re.compile(r"(?:(?:module|model|image_encoder)\.)*visual\.")


def convert_config(hf_config: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a CLIPModel's config.json to arguments of `open_clip.CLIP`; BenchmarkError if they cannot express it."""
    if (kind := hf_config.get("model_type", "clip")) != "clip":
        raise BenchmarkError(f"config.json: model_type {kind!r}, expected 'clip'; take the config.json of the base")
    vision, text = (_tower_config(hf_config, part) for part in DEFAULTS)
    vision["head_width"] = vision["width"] // vision.pop("heads")
    text["context_length"] = text.pop("max_position_embeddings")
    if (end := text.pop("eos_token_id")) not in (2, text["vocab_size"] - 1):  # 2, in older files: the largest token
        raise BenchmarkError(f"config.json: text_config.eos_token_id {end}, expected the last of the vocabulary, or 2")
    embed_dim = hf_config.get("projection_dim", 512)
    return {"embed_dim": embed_dim, "vision_cfg": vision, "text_cfg": text, "quick_gelu": True}


def convert_expert(tensors: Mapping[str, Tensor]) -> Weights:
    """Convert a CLIPVisionModel checkpoint to the merged tensors, float32; the prefix `vision_model.` is optional."""
    return _tower(tensors, "vision_model.", MERGED_NAMES)


def convert_base(tensors: Mapping[str, Tensor]) -> Weights:
    """Convert a CLIPModel (or CLIPVisionModelWithProjection) checkpoint to theta_0, float32, with frozen tensors."""
    base = _tower(tensors, "vision_model.", VISION_NAMES, ("text_model.", "text_projection.", "logit_scale"))
    return {**base, "proj": base["proj"].T.contiguous()}


def convert_text(tensors: Mapping[str, Tensor]) -> Weights:
    """Convert a CLIPModel checkpoint to the text tower and logit scale of `open_clip.CLIP`, float32, q, k, v fused."""
    text = fuse_qkv(_tower(tensors, "text_model.", TEXT_NAMES, ("vision_model.", "visual_projection.")))
    return {**text, "text_projection": text["text_projection"].T.contiguous()}


def load_text_tower(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> "CLIP":
    """Build an `open_clip.CLIP` of `config` with the text side of a CLIPModel checkpoint; `visual` has no storage.

    Raises BenchmarkError if the tensors do not fit `config`.
    """
    with torch.device("meta"):
        clip = cast("CLIP", build_clip(config))
    skeleton = {f"visual.{name}": tensor for name, tensor in clip.visual.state_dict().items()}
    try:
        clip.load_state_dict({**skeleton, **convert_text(tensors)}, assign=True)
    except RuntimeError as error:
        raise BenchmarkError(f"the text tower is not that of its config.json, fetch both again: {error}") from error
    # The causal mask is not part of the state.
    clip.attn_mask = torch.full(cast("Tensor", clip.attn_mask).shape, -torch.inf).triu(1)
    return clip.eval().requires_grad_(False)


@torch.no_grad()
def build_zero_shot_head(
    clip: "CLIP", tokenize: Tokenizer, classnames: Sequence[str], templates: Sequence[str], batch: int = 256
) -> Tensor:
    """Build the zero-shot head [classes, D]: unit rows (mean of the templates' unit embeddings) times exp(logit scale).

    batch: captions that are encoded at once. Raises BenchmarkError without classes or valid templates.
    """
    if not classnames or not templates or any("{}" not in template for template in templates):
        raise BenchmarkError(f"{len(classnames)} classes, templates {list(templates)}: expected some, each with {{}}")
    captions = [template.format(name) for name in classnames for template in templates]
    parts = [tokenize(captions[start : start + batch]) for start in range(0, len(captions), batch)]
    embedded = torch.cat([clip.encode_text(part.to(clip.logit_scale.device), normalize=True) for part in parts])
    return normalize(embedded.unflatten(0, (-1, len(templates))).mean(1), dim=-1) * clip.logit_scale.exp()


def read_pickle(path: Path) -> dict[str, Tensor]:
    """Read the state dict that `torch.save` wrote to `path` without running code; BenchmarkError for anything else."""
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


def read_older_expert(path: Path) -> Weights:
    """Read the merged tensors, float32, of an older open_clip image encoder: `[image_encoder.][model.]visual.*`.

    Those experts fine-tuned `visual.proj` too. The base's projection is used instead, so that accuracies may differ
    slightly from the published ones.
    """
    content = read_pickle(path)
    visual = {name[match.end() :]: content[name] for name in content if (match := OLD_PREFIX.match(name))}
    tower = split_qkv({name: tensor for name, tensor in visual.items() if name not in FROZEN})
    table = {name: name for name in _table(MERGED_NAMES, tower)}
    return _picked(tower, {name: name for name in tower}, table, f"{path}: visual")


def _tower_config(hf_config: Mapping[str, Any], part: str) -> dict[str, Any]:
    """Convert the settings of one tower; as in transformers, `<part>_config_dict` precedes `<part>_config`."""
    older = hf_config.get(f"{part}_config_dict")
    settings = (hf_config.get(f"{part}_config") or {}) if older is None else older
    for key, expected in FIXED.items():
        if (value := settings.get(key, expected)) != expected:
            raise BenchmarkError(f"config.json: {part}_config.{key} {value!r}, only {expected!r} is supported")
    config = {ours: settings.get(KEYS.get(ours, ours), default) for ours, default in DEFAULTS[part].items()}
    width, heads, inner = config["width"], config["heads"], config.pop("intermediate_size")
    if width % heads or int(width * (inner / width)) != inner:  # open_clip's own arithmetic
        raise BenchmarkError(f"config.json: {part}_config: {heads} heads or an MLP of {inner} do not fit width {width}")
    return config | {"mlp_ratio": inner / width}


def _tower(tensors: Mapping[str, Tensor], prefix: str, names: NameMap, other: tuple[str, ...] = ()) -> Weights:
    """Pick the tensors of one tower; `prefix` may precede a name, `other` are prefixes of the other tower's names."""
    tower = (name for name in tensors if not name.startswith(other) and not name.endswith("position_ids"))
    keys = {name.removeprefix(prefix).replace("pre_layernorm.", "pre_layrnorm."): name for name in tower}
    return _picked(tensors, keys, _table(names, keys), prefix.rstrip("."))


def _table(names: NameMap, tensor_names: Iterable[str]) -> NameMap:
    """Expand `transformer` in `names` to as many blocks as `tensor_names` have."""
    layers = 1 + max((int(match[1]) for match in map(LAYER.match, tensor_names) if match), default=0)
    blocks = {
        f"transformer.resblocks.{layer}.{ours}.{kind}": f"encoder.layers.{layer}.{theirs}.{kind}"
        for layer in range(layers)
        for modules in BLOCK
        for kind in ("weight", "bias")
        for ours, theirs in modules.items()
    }
    parts = [blocks if ours == "transformer" else {ours: theirs} for ours, theirs in names.items()]
    return {ours: theirs for part in parts for ours, theirs in part.items()}


def _picked(tensors: Mapping[str, Tensor], keys: Mapping[str, str], table: NameMap, what: str) -> Weights:
    """Return {name in the layout: tensor, float32} in the order of `table`; `keys` maps its values to `tensors`' keys.

    Raises BenchmarkError for missing and for unknown tensors; `what` names their source.
    """
    missing = [theirs for theirs in table.values() if theirs not in keys]
    unknown = [keys[name] for name in sorted(keys.keys() - {*table.values()})]
    for problem, names in (("missing", missing), ("unknown", unknown)):
        if names:
            few = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            raise BenchmarkError(f"{what}: {problem} tensors ({len(names)}): {few}; expected one whole CLIP tower")
    return {ours: tensors[keys[theirs]].detach().float() for ours, theirs in table.items()}
