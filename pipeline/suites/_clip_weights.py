"""Published CLIP weights in the suite's layout, from Hugging Face or older open_clip checkpoints.

On Hugging Face, openai/clip-vit-{base-patch32,base-patch16,large-patch14} are the bases; CLIPVisionModel checkpoints of
the same shapes are the experts. The image tower is merged, 199 or 391 (large) tensors, except for `proj`, the base's
visual projection. `tensors` may be any mapping, such as a `Checkpoint`: only the returned tensors are read.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch.nn.functional import normalize

from pipeline.models.weights import FROZEN, Weights, build_clip, fuse_qkv, split_qkv
from pipeline.runtime.errors import BenchmarkError, abbreviate
from pipeline.suites._checkpoints import Checkpoint

if TYPE_CHECKING:
    from open_clip import CLIP, SimpleTokenizer

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
OLD_PREFIX = re.compile(r"(?:(?:_orig_mod|module|model|image_encoder)\.)*visual\.")


def read_config(path: Path) -> dict[str, Any]:
    """Read a CLIPModel's config.json as arguments of `open_clip.CLIP`; BenchmarkError if they cannot express it."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BenchmarkError(f"{path}: cannot be read as JSON ({error}); export or fetch it again") from error
    try:
        return convert_clip_config(content)
    except BenchmarkError as error:
        raise BenchmarkError(f"{path}: {error}") from error


def convert_clip_config(hf_config: Any) -> dict[str, Any]:
    """Convert a CLIPModel's config.json to arguments of `open_clip.CLIP`; BenchmarkError if they cannot express it."""
    config = _mapping("config.json", hf_config)
    if (kind := config.get("model_type", "clip")) != "clip":
        raise BenchmarkError(f"model_type {kind!r}, expected 'clip'; take the config.json of the base")
    vision, text = (_tower_config(config, part) for part in DEFAULTS)
    vision["head_width"] = vision["width"] // vision.pop("heads")
    text["context_length"] = text.pop("max_position_embeddings")
    if (end := text.pop("eos_token_id")) not in (2, text["vocab_size"] - 1):  # 2, in older files: the largest token
        raise BenchmarkError(f"text_config.eos_token_id {end}, expected the last of the vocabulary, or 2")
    embed_dim = _positive("projection_dim", config.get("projection_dim", 512))
    return {"embed_dim": embed_dim, "vision_cfg": vision, "text_cfg": text, "quick_gelu": True}


def convert_expert(tensors: Mapping[str, Tensor]) -> Weights:
    """Convert an expert to the merged tensors, float32.

    Names are those of a CLIPVisionModel, with or without `vision_model.`, or of an older open_clip image encoder,
    `[image_encoder.]visual.*`. Older experts fine-tuned `visual.proj` too; the base's is used instead, so that
    accuracies may differ slightly from the published ones.
    """
    visual = {name[match.end() :]: name for name in tensors if (match := OLD_PREFIX.match(name))}
    if not visual:
        return _tower(tensors, "vision_model.", MERGED_NAMES)
    tower = split_qkv({name: tensors[stored] for name, stored in visual.items() if name not in FROZEN})
    table = {name: name for name in _table(MERGED_NAMES, tower)}
    return _picked(tower, f"{_title(tensors)}visual", {name: name for name in tower}, table)


def convert_base(tensors: Mapping[str, Tensor]) -> Weights:
    """Convert a CLIPModel (or CLIPVisionModelWithProjection) checkpoint to theta_0, float32, with frozen tensors."""
    base = _tower(tensors, "vision_model.", VISION_NAMES, ("text_model.", "text_projection.", "logit_scale"))
    return {**base, "proj": base["proj"].T.contiguous()}


def convert_text(tensors: Mapping[str, Tensor]) -> Weights:
    """Convert a CLIPModel checkpoint to the text tower and logit scale of `open_clip.CLIP`, float32, q, k, v fused."""
    text = fuse_qkv(_tower(tensors, "text_model.", TEXT_NAMES, ("vision_model.", "visual_projection.")))
    return {**text, "text_projection": text["text_projection"].T.contiguous()}


def check_base(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Weights:
    """Check that a base's tensors have the shapes of `config`, and return theta_0.

    tensors: on the device "meta", as only names, types and shapes are read. Raises BenchmarkError that names the first
    tensor of another shape.
    """
    with torch.device("meta"):
        expected = {name: tuple(tensor.shape) for name, tensor in build_clip(config).state_dict().items()}
    base = convert_base(tensors)
    visual = {f"visual.{name}": tensor for name, tensor in fuse_qkv(base).items()}
    given = {name: tuple(tensor.shape) for name, tensor in {**visual, **convert_text(tensors)}.items()}
    for name in sorted(expected.keys() | given.keys()):
        if expected.get(name) != given.get(name):
            raise BenchmarkError(
                f"{_title(tensors)}{name}: the weights have {_shape(given.get(name))}, config.json asks for "
                f"{_shape(expected.get(name))}; take both files from one model"
            )
    return base


def check_expert(base: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    """Check that an expert's merged tensors have the base's shapes; both are on the device "meta".

    Raises BenchmarkError that names the first tensor of another shape.
    """
    expert = convert_expert(tensors)
    for name in base.keys() - {*FROZEN}:
        given, expected = (_shape(weights[name].shape if name in weights else None) for weights in (expert, base))
        if given != expected:
            raise BenchmarkError(
                f"{_title(tensors)}{name}: the expert has {given}, the base {expected}; it comes from another base"
            )


def check_captions(
    tokenize: "SimpleTokenizer", context: int, classes: Sequence[str], templates: Sequence[str], task: str
) -> None:
    """Check that a task's captions fit into `context` tokens, and that no two classes have the same captions.

    Raises BenchmarkError that names the caption, or both classes.
    """
    rows: dict[tuple[tuple[int, ...], ...], str] = {}
    for name in classes:
        captions = [template.format(name) for template in templates]
        tokens = tuple(tuple(tokenize.encode(caption)) for caption in captions)
        for caption, encoded in zip(captions, tokens, strict=True):
            if len(encoded) + 2 > context:  # the start and the end take a token each
                raise BenchmarkError(
                    f"{task}: the caption {abbreviate(caption)} has {len(encoded)} tokens, the text encoder takes "
                    f"{context - 2}; shorten the class name or the template"
                )
        if (earlier := rows.setdefault(tokens, name)) != name:
            raise BenchmarkError(
                f"{task}: the classes {earlier!r} and {name!r} have the same captions, so the same zero-shot head; "
                "name them so that their captions differ in more than case and spaces"
            )


def load_text_tower(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> "CLIP":
    """Build an `open_clip.CLIP` of `config` with the text side of a CLIPModel checkpoint; `visual` has no storage.

    `check_base` has to have passed.
    """
    with torch.device("meta"):
        clip = cast("CLIP", build_clip(config))
    skeleton = {f"visual.{name}": tensor for name, tensor in clip.visual.state_dict().items()}
    clip.load_state_dict({**skeleton, **convert_text(tensors)}, assign=True)
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


def _tower_config(hf_config: Mapping[str, Any], part: str) -> dict[str, Any]:
    """Convert the settings of one tower; as in transformers, `<part>_config_dict` precedes `<part>_config`."""
    older = hf_config.get(f"{part}_config_dict")
    settings = _mapping(f"{part}_config", (hf_config.get(f"{part}_config") or {}) if older is None else older)
    for key, expected in FIXED.items():
        if (value := settings.get(key, expected)) != expected:
            raise BenchmarkError(f"{part}_config.{key} {value!r}, only {expected!r} is supported")
    config = {}
    for ours, default in DEFAULTS[part].items():
        key = KEYS.get(ours, ours)
        config[ours] = _positive(f"{part}_config.{key}", settings.get(key, default))
    width, heads, inner = config["width"], config["heads"], config.pop("intermediate_size")
    if width % heads or int(width * (inner / width)) != inner:  # open_clip's own arithmetic
        raise BenchmarkError(f"{part}_config: {heads} heads or an MLP of {inner} do not fit width {width}")
    return config | {"mlp_ratio": inner / width}


def _mapping(key: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise BenchmarkError(f"{key} {abbreviate(value)}, expected an object")
    return value


def _positive(key: str, value: Any) -> int:
    if type(value) is not int or value < 1:
        raise BenchmarkError(f"{key} {abbreviate(value)}, expected a positive whole number")
    return value


def _tower(tensors: Mapping[str, Tensor], prefix: str, names: NameMap, other: tuple[str, ...] = ()) -> Weights:
    """Pick the tensors of one tower; `prefix` may precede a name, `other` are prefixes of the other tower's names."""
    tower = (name for name in tensors if not name.startswith(other) and not name.endswith("position_ids"))
    keys = {name.removeprefix(prefix).replace("pre_layernorm.", "pre_layrnorm."): name for name in tower}
    return _picked(tensors, f"{_title(tensors)}{prefix.rstrip('.')}", keys, _table(names, keys))


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


def _picked(tensors: Mapping[str, Tensor], title: str, keys: Mapping[str, str], table: NameMap) -> Weights:
    """Return {name in the layout: tensor, float32} in the order of `table`; `keys` maps its values to `tensors`' keys.

    Raises BenchmarkError for missing and for unknown tensors; `title` names their source.
    """
    missing = [theirs for theirs in table.values() if theirs not in keys]
    unknown = [keys[name] for name in sorted(keys.keys() - {*table.values()})]
    for problem, names in (("missing", missing), ("unknown", unknown)):
        if names:
            raise BenchmarkError(
                f"{title}: {problem} tensors ({len(names)}): {_few(names)}; expected one whole CLIP tower and nothing "
                f"else, there are {_few([*tensors])}"
            )
    return {ours: tensors[keys[theirs]].detach().float() for ours, theirs in table.items()}


def _title(tensors: Mapping[str, Tensor]) -> str:
    """Return how a message about `tensors` starts: with the file that they come from, if there is one."""
    return f"{tensors.title}: " if isinstance(tensors, Checkpoint) else ""


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _shape(shape: Sequence[int] | None) -> str:
    return "none" if shape is None else str(list(shape))
