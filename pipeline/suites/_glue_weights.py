"""The models of GLUE-7: a pre-trained GPT-2, and GPT2ForSequenceClassification checkpoints fine-tuned from it.

The trunk of an expert is merged. Its head, `score.weight`, is the head of its task and stays as it is.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from pipeline.models.gpt2 import Gpt2
from pipeline.models.weights import Weights
from pipeline.runtime.errors import BenchmarkError, abbreviate
from pipeline.suites._checkpoints import Checkpoint
from pipeline.suites._glue_tasks import GlueTask
from pipeline.suites._labels import check_class_names
from pipeline.suites._text_weights import convert_config, from_gpt2

HEAD = "score.weight"
TWO = {"0": "LABEL_0", "1": "LABEL_1"}
"""The classes of a config.json that names none, as in transformers."""
EMBEDDINGS = ("word_embedding", "positional_embedding")
"""wte and wpe."""


def read_model(path: Path, title: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read a config.json: the suite's `model`, and the settings as they are; BenchmarkError if it is no GPT-2."""
    try:
        config = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BenchmarkError(f"{title}: config.json cannot be read as JSON ({error}); fetch it again") from error
    try:
        model = convert_config(config)
        if model["architecture"] != "gpt2":
            raise BenchmarkError(f"model_type {model['architecture']!r}, expected 'gpt2'; take another model")
        Gpt2.check(model)
    except (BenchmarkError, ValueError) as error:
        raise BenchmarkError(f"{title}: config.json: {error}") from error
    return model, config


def check_expert_config(base: Mapping[str, Any], task: GlueTask, path: Path, title: str, end: int) -> None:
    """Check an expert's config.json against the base's model, its task and the id of the end token, which pads.

    Raises BenchmarkError for another architecture, other classes, and another padding token: the logits of a text are
    those of its last token that is no padding.
    """
    model, config = read_model(path, title)
    for key, value in model.items():
        if value != base[key]:
            raise BenchmarkError(f"{title}: {key} {value}, the base has {base[key]}; it comes from another base")
    named = config.get("id2label", TWO)
    if not isinstance(named, Mapping):
        raise BenchmarkError(f"{title}: config.json: id2label {abbreviate(named)}, expected an object; fetch it again")
    check_class_names(f"{title}: config.json", "id2label", [str(name) for name in named.values()], task.labels)
    if (padding := config.get("pad_token_id")) not in (None, end):
        raise BenchmarkError(
            f"{title}: config.json: pad_token_id {padding}, expected {end}, with which texts are padded; it was "
            "trained with another tokeniser"
        )


def check_trunk(model: Mapping[str, Any], tensors: Checkpoint) -> Weights:
    """Return the trunk's tensors, float32; BenchmarkError unless they are those of `model`."""
    try:
        trunk = from_gpt2(tensors)
    except BenchmarkError as error:
        raise BenchmarkError(f"{tensors.title}: {error}") from error
    for name, shape in Gpt2(model).shapes().items():
        if name not in trunk or tuple(trunk[name].shape) != tuple(shape):
            given = [*trunk[name].shape] if name in trunk else "none"
            raise BenchmarkError(
                f"{tensors.title}: {name} has shape {given}, config.json asks for {[*shape]}; take both files from one "
                "model"
            )
    return trunk


def read_head(model: Mapping[str, Any], task: GlueTask, tensors: Checkpoint) -> Tensor:
    """Return the expert's head, float32 [classes, width]; BenchmarkError if there is none of that shape."""
    shape = (len(task.classes), model["width"])
    given = tuple(tensors[HEAD].shape) if HEAD in tensors else None
    if given != shape:
        raise BenchmarkError(
            f"{tensors.title}: {HEAD} has shape {given and [*given]}, expected {[*shape]}, a row per class of "
            f"{task.name}; save the GPT2ForSequenceClassification with its head"
        )
    return tensors[HEAD]
