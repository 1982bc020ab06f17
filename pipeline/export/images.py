"""A CLIP image tower in the names and configurations of transformers and open_clip.

transformers keeps q, k and v apart, as a suite does, and transposes the projection; open_clip fuses the three.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from pipeline.export.card import Guide
from pipeline.export.origins import Source, read_text_tower
from pipeline.export.selection import Selection
from pipeline.models.suite import Suite
from pipeline.models.weights import FROZEN, Weights, build_clip, fuse_qkv
from pipeline.runtime import store
from pipeline.suites._clip_weights import BLOCK, FIXED, KEYS, LAYER, VISION_NAMES

MODULES = {ours: theirs for modules in BLOCK for ours, theirs in modules.items()}
NO_TEXT = {"context_length": 1, "vocab_size": 1, "width": 1, "heads": 1, "layers": 1}
"""The smallest text tower that open_clip builds; any caption is out of its vocabulary, so that no one can use it."""


def write_files(selection: Selection, tower: Weights, sources: Sequence[Source], folder: Path) -> Guide:
    """Write weights and configurations of both libraries into `folder`, with the base's text tower if it is there."""
    suite = selection.suite.suite
    model, text = suite.model, read_text_tower(sources)
    guide = Guide("images", "zero-shot-image-classification", ("clip", "open_clip"), {"text": text is not None})
    if text is None:
        model, text = placeholder_text(model)
    store.write_tensors(folder / "model.safetensors", transformers_weights(tower))
    store.write_tensors(folder / "open_clip_model.safetensors", open_clip_weights(tower, text))
    store.write_json(folder / "config.json", transformers_config(suite.model))
    store.write_json(folder / "preprocessor_config.json", processor_config(suite))
    store.write_json(folder / "open_clip_config.json", open_clip_config(suite, model))
    return guide


def transformers_weights(tower: Weights) -> Weights:
    """Name the tensors as `CLIPVisionModelWithProjection` does."""
    return {_transformers_name(name): tensor.T if name in FROZEN else tensor for name, tensor in tower.items()}


def transformers_config(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config.json of a suite's `model`."""
    vision = model["vision_cfg"]
    sizes = {"layers": vision["layers"], "width": vision["width"], "heads": vision["width"] // vision["head_width"]}
    return {
        **FIXED,
        **{KEYS[name]: size for name, size in sizes.items()},
        "architectures": ["CLIPVisionModelWithProjection"],
        "dtype": "float32",
        "hidden_act": "quick_gelu" if model.get("quick_gelu") else "gelu",
        "image_size": vision["image_size"],
        "intermediate_size": int(vision["width"] * vision.get("mlp_ratio", 4.0)),
        "model_type": "clip_vision_model",
        "patch_size": vision["patch_size"],
        "projection_dim": model["embed_dim"],
    }


def processor_config(suite: Suite) -> dict[str, Any]:
    """Return the preprocessor_config.json: what `CLIPImageProcessor` does to an image before the tower sees it."""
    side = suite.model["vision_cfg"]["image_size"]
    steps = ("do_convert_rgb", "do_resize", "do_center_crop", "do_rescale", "do_normalize")
    return {
        **dict.fromkeys(steps, True),
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": side},
        "resample": 3,  # bicubic
        "crop_size": {"height": side, "width": side},
        "rescale_factor": 1 / 255,
        "image_mean": suite.mean,
        "image_std": suite.std,
    }


def open_clip_weights(tower: Weights, text: Weights) -> Weights:
    """Name the tensors as `open_clip.CLIP` does; `text` are those of its text side, in these names already."""
    return {**{f"visual.{name}": tensor for name, tensor in fuse_qkv(tower).items()}, **text}


def open_clip_config(suite: Suite, model: Mapping[str, Any]) -> dict[str, Any]:
    """Return the open_clip_config.json of `model`."""
    preprocessing = {"mean": suite.mean, "std": suite.std, "interpolation": "bicubic", "resize_mode": "shortest"}
    return {"model_cfg": model, "preprocess_cfg": preprocessing}


def placeholder_text(model: Mapping[str, Any]) -> tuple[dict[str, Any], Weights]:
    """Return `model` with the text tower NO_TEXT, and the tensors of that, all zero."""
    small = {**model, "text_cfg": NO_TEXT}
    with torch.device("meta"):
        skeleton = build_clip(small).state_dict()
    zeros = {name: torch.zeros(tensor.shape) for name, tensor in skeleton.items() if not name.startswith("visual.")}
    return small, zeros


def _transformers_name(name: str) -> str:
    if block := LAYER.match(name):
        module, _, kind = name[block.end() :].rpartition(".")
        return f"vision_model.encoder.layers.{block[1]}.{MODULES[module]}.{kind}"
    return VISION_NAMES[name] if name in FROZEN else f"vision_model.{VISION_NAMES[name]}"
