"""Published BERT and GPT-2 weights in the suite's layout, from Hugging Face checkpoints.

`state` maps Hugging Face's names to tensors, of the plain encoder or of a model with a head on top; heads and BERT's
pooler are left out. It may be any mapping, such as a `Checkpoint`: only the tensors that are returned are read.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from pipeline.models.weights import PARTS, Weights
from pipeline.runtime.errors import BenchmarkError, abbreviate

BERT_NAMES = {
    "word_embedding": "embeddings.word_embeddings.weight",
    "positional_embedding": "embeddings.position_embeddings.weight",
    "type_embedding": "embeddings.token_type_embeddings.weight",
    "ln_pre.weight": "embeddings.LayerNorm.weight",
    "ln_pre.bias": "embeddings.LayerNorm.bias",
}
BERT_BLOCK = (
    {"ln_1": "attention.output.LayerNorm"},
    {"attn.q": "attention.self.query", "attn.k": "attention.self.key", "attn.v": "attention.self.value"},
    {"attn.out_proj": "attention.output.dense"},
    {"ln_2": "output.LayerNorm"},
    {"mlp.c_fc": "intermediate.dense"},
    {"mlp.c_proj": "output.dense"},
)
"""Modules of a block in the order of CLIP's; q, k and v share an entry: all their weights precede all their biases."""
BERT_IGNORED = ("pooler.", "cls.", "classifier.", "embeddings.position_ids")

GPT2_NAMES = {"word_embedding": "wte.weight", "positional_embedding": "wpe.weight"}
GPT2_BLOCK = ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")
GPT2_IGNORED = ("score.", "lm_head.", "classifier.")
GPT2_MASKS = (".attn.bias", ".attn.masked_bias")
"""Buffers of the causal mask, which older checkpoints hold."""

Setting = tuple[str, str, int | float]
"""Our key, theirs, and the value that transformers fills in where it is missing."""
SETTINGS: dict[str, tuple[Setting, ...]] = {
    "bert": (
        ("layers", "num_hidden_layers", 12),
        ("width", "hidden_size", 768),
        ("heads", "num_attention_heads", 12),
        ("hidden", "intermediate_size", 3072),
        ("vocabulary", "vocab_size", 30522),
        ("positions", "max_position_embeddings", 512),
        ("epsilon", "layer_norm_eps", 1e-12),
    ),
    "gpt2": (
        ("layers", "n_layer", 12),
        ("width", "n_embd", 768),
        ("heads", "n_head", 12),
        ("vocabulary", "vocab_size", 50257),
        ("positions", "n_positions", 1024),
        ("epsilon", "layer_norm_epsilon", 1e-5),
    ),
}
FIXED: dict[str, dict[str, Any]] = {
    "bert": {
        "hidden_act": "gelu",
        "position_embedding_type": "absolute",
        "is_decoder": False,
        "add_cross_attention": False,
    },
    "gpt2": {
        "activation_function": "gelu_new",
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "add_cross_attention": False,
    },
}
"""Settings that change what an encoder computes, with the only supported value, which is also transformers' default."""


def convert_config(config: Any) -> dict[str, Any]:
    """Convert a config.json of Hugging Face to a suite's `model`.

    Raises BenchmarkError that names a setting which the encoders do not support.
    """
    if not isinstance(config, Mapping):
        raise BenchmarkError(f"config.json is {abbreviate(config)}, expected an object")
    kind = config.get("model_type")
    if kind not in SETTINGS:
        raise BenchmarkError(f"model_type {abbreviate(kind)}, expected one of {', '.join(SETTINGS)}; take another base")
    fixed = dict(FIXED[kind])
    model = {"architecture": kind} | {ours: config.get(theirs, default) for ours, theirs, default in SETTINGS[kind]}
    if kind == "gpt2" and config.get("n_inner") is not None:
        fixed["n_inner"] = 4 * model["width"]
    for key, expected in fixed.items():
        if (value := config.get(key, expected)) != expected:
            raise BenchmarkError(f"{key} {abbreviate(value)}, only {expected!r} is supported; take another base")
    return model


def bert_names(depth: int) -> dict[str, str]:
    """Return {name in a suite: name of Hugging Face} of the tensors of a BERT with `depth` blocks."""
    return BERT_NAMES | {
        f"transformer.resblocks.{layer}.{ours}.{kind}": f"encoder.layer.{layer}.{theirs}.{kind}"
        for layer in range(depth)
        for modules in BERT_BLOCK
        for kind in ("weight", "bias")
        for ours, theirs in modules.items()
    }


def from_bert(state: Mapping[str, Tensor]) -> Weights:
    """Return all tensors of a BERT encoder, float32; BenchmarkError for missing and for unknown tensors.

    `type_embedding` is the row of token type 0, to which all tokens of a text belong.
    """
    keys = {name.replace(".gamma", ".weight").replace(".beta", ".bias"): key for name, key in _keys(state, "bert.")}
    table = bert_names(_depth(keys, "encoder.layer."))
    read = _reader("BERT", state, keys, table.values(), lambda name: name.startswith(BERT_IGNORED))
    weights = {ours: read(theirs) for ours, theirs in table.items()}
    return {**weights, "type_embedding": weights["type_embedding"][0].clone()}


def from_gpt2(state: Mapping[str, Tensor]) -> Weights:
    """Return all tensors of a GPT-2, float32; BenchmarkError for missing and for unknown tensors.

    Matrices are transposed to [out, in], and q, k and v are three.
    """
    keys = dict(_keys(state, "transformer."))
    stems = [f"h.{layer}.{module}" for layer in range(_depth(keys, "h.")) for module in GPT2_BLOCK]
    names = [*GPT2_NAMES.values(), *(f"{stem}.{kind}" for stem in (*stems, "ln_f") for kind in ("weight", "bias"))]
    read = _reader("GPT-2", state, keys, names, lambda name: name.startswith(GPT2_IGNORED) or name.endswith(GPT2_MASKS))
    weights = {ours: read(theirs) for ours, theirs in GPT2_NAMES.items()}
    for stem in stems:
        ours = f"transformer.resblocks.{stem.removeprefix('h.')}".replace("attn.c_proj", "attn.out_proj")
        for kind in ("weight", "bias"):
            tensor = read(f"{stem}.{kind}")
            tensor = tensor.T.contiguous() if tensor.ndim == 2 else tensor
            if stem.endswith("c_attn"):
                for part, rows in zip(PARTS, tensor.chunk(3), strict=True):
                    weights[f"{ours.removesuffix('c_attn')}{part}.{kind}"] = rows.clone()
            else:
                weights[f"{ours}.{kind}"] = tensor
    return weights | {f"ln_post.{kind}": read(f"ln_f.{kind}") for kind in ("weight", "bias")}


def _keys(state: Mapping[str, Tensor], prefix: str) -> list[tuple[str, str]]:
    """Return (name without the prefix of a model with a head, name in `state`) of every tensor."""
    return [(key.removeprefix(prefix), key) for key in state]


def _depth(names: Iterable[str], prefix: str) -> int:
    layers = {name.removeprefix(prefix).partition(".")[0] for name in names if name.startswith(prefix)}
    return 1 + max((int(layer) for layer in layers if layer.isdecimal()), default=0)


def _reader(
    title: str,
    state: Mapping[str, Tensor],
    keys: Mapping[str, str],
    names: Iterable[str],
    ignored: Callable[[str], bool],
) -> Callable[[str], Tensor]:
    """Return the function that reads a tensor by its name without prefix, once all `names` and no others are there."""
    expected = {*names}
    missing = sorted(expected - keys.keys())
    unknown = sorted(name for name in keys.keys() - expected if not ignored(name))
    for problem, some in (("missing", missing), ("unknown", unknown)):
        if some:
            raise BenchmarkError(
                f"{title}: {problem} tensors ({len(some)}), the first is {some[0]!r}; expected a whole {title} encoder "
                f"under the names of Hugging Face"
            )
    return lambda name: state[keys[name]].detach().to(torch.float32).contiguous()
