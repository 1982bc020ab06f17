"""BERT and GPT-2 in the names and configurations of transformers, and the tokeniser.

The inverse of `pipeline.suites._text_weights`. A suite has one row of BERT's token types, and so has what is exported.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from pipeline.export.card import Guide
from pipeline.export.origins import Source
from pipeline.export.selection import Selection
from pipeline.models.encoder import block_name
from pipeline.models.weights import PARTS, Weights
from pipeline.runtime import store
from pipeline.suites._text_weights import FIXED, GPT2_BLOCK, GPT2_NAMES, SETTINGS, bert_names

CLASSES = {"bert": "BertModel", "gpt2": "GPT2Model"}
PADDING = ("[PAD]", "<|endoftext|>")
"""Tokens that may pad texts: BERT's, and GPT-2's only special one."""


def write_files(selection: Selection, encoder: Weights, sources: Sequence[Source], folder: Path) -> Guide:
    """Write weights, configuration and tokeniser into `folder`."""
    suite = selection.suite
    model, tokenizer = suite.suite.model, store.read_text(suite.folder / "tokenizer.json")
    predicts = suite.general() is not None
    settings = tokenizer_config(tokenizer, suite.blank().shape[1], "left" if predicts else "right")
    store.write_tensors(folder / "model.safetensors", text_weights(model, encoder))
    store.write_json(folder / "config.json", text_config(model))
    store.write_text(folder / "tokenizer.json", tokenizer)
    store.write_json(folder / "tokenizer_config.json", settings)
    kind = model["architecture"]
    facts = {
        "architecture": CLASSES[kind],
        "mean": kind == "bert",
        "length": settings["model_max_length"],
        "predicts": predicts,
    }
    return Guide("texts", "text-classification", (kind,), facts)


def text_weights(model: Mapping[str, Any], encoder: Weights) -> Weights:
    """Name the tensors of a suite's `model` as its class of CLASSES does."""
    if model["architecture"] == "bert":
        table = bert_names(model["layers"])
        return {theirs: encoder[ours] for ours, theirs in table.items()} | {
            table["type_embedding"]: encoder["type_embedding"][None]
        }
    weights = {theirs: encoder[ours] for ours, theirs in GPT2_NAMES.items()}
    for kind in ("weight", "bias"):
        for layer in range(model["layers"]):
            for module in GPT2_BLOCK:
                weights[f"h.{layer}.{module}.{kind}"] = _join_gpt2(encoder, block_name(layer), module, kind)
        weights[f"ln_f.{kind}"] = encoder[f"ln_post.{kind}"]
    return weights


def _join_gpt2(encoder: Weights, block: str, module: str, kind: str) -> torch.Tensor:
    """Return a tensor of a block as GPT-2 has it: q, k and v as one, matrices [in, out]."""
    ours = module.replace("attn.c_proj", "attn.out_proj")
    parts = [f"attn.{part}" for part in PARTS] if module == "attn.c_attn" else [ours]
    joined = torch.cat([encoder[f"{block}{part}.{kind}"] for part in parts])
    return joined.T.contiguous() if joined.ndim == 2 else joined


def text_config(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config.json of a suite's `model`."""
    kind = model["architecture"]
    sizes = {theirs: model[ours] for ours, theirs, _ in SETTINGS[kind]}
    special = {"type_vocab_size": 1} if kind == "bert" else {"bos_token_id": None, "eos_token_id": None}
    return {**FIXED[kind], **sizes, **special, "architectures": [CLASSES[kind]], "dtype": "float32", "model_type": kind}


def tokenizer_config(tokenizer: str, longest: int, cut: str) -> dict[str, Any]:
    """Return the tokenizer_config.json of a tokenizer.json.

    longest: tokens of a text at most, unless the tokeniser says so itself; cut: "left" or "right", the end where longer
    texts are cut. A text whose next token is asked for keeps its last tokens.
    """
    content = json.loads(tokenizer)
    truncation = content["truncation"] or {"max_length": longest}
    padding = [token for token in PADDING if token in content["model"]["vocab"]]
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": truncation["max_length"],
        "padding_side": "right",
        "truncation_side": cut,
        **({"pad_token": padding[0]} if padding else {}),
    }
