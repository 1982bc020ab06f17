"""Hugging Face's BERT and GPT-2 in the suite's layout: every tensor, and refusals of what no encoder expresses."""

from typing import Any

import pytest
import torch

from pipeline.models.weights import Weights, fuse_qkv
from pipeline.runtime.errors import BenchmarkError
from pipeline.suites._text_weights import convert_config, from_bert, from_gpt2
from tests.support import toy, toy_texts


@pytest.fixture(scope="module")
def bert() -> torch.nn.Module:
    return toy_texts.draw_hugging_face("bert", toy_texts.BERT)


@pytest.fixture(scope="module")
def gpt2() -> torch.nn.Module:
    return toy_texts.draw_hugging_face("gpt2", toy_texts.GPT2)


def test_bert_has_the_tensors_of_the_contract(bert: torch.nn.Module):
    state, weights = bert.state_dict(), from_bert(bert.state_dict())
    assert [*weights][:5] == [
        "word_embedding",
        "positional_embedding",
        "type_embedding",
        "ln_pre.weight",
        "ln_pre.bias",
    ]
    assert len(weights) == 5 + 16 * 2
    stem = "transformer.resblocks.1."
    for ours, theirs in {
        "word_embedding": "embeddings.word_embeddings.weight",
        f"{stem}ln_1.weight": "encoder.layer.1.attention.output.LayerNorm.weight",
        f"{stem}attn.k.weight": "encoder.layer.1.attention.self.key.weight",
        f"{stem}ln_2.bias": "encoder.layer.1.output.LayerNorm.bias",
        f"{stem}mlp.c_proj.weight": "encoder.layer.1.output.dense.weight",
    }.items():
        assert torch.equal(weights[ours], state[theirs])
    assert torch.equal(weights["type_embedding"], state["embeddings.token_type_embeddings.weight"][0])


def test_gpt2_has_transposed_matrices_and_three_projections(gpt2: torch.nn.Module):
    state, weights = gpt2.state_dict(), from_gpt2(gpt2.state_dict())
    assert len(weights) == 2 + 16 * 2 + 2
    fused = fuse_qkv(weights)
    stem = "transformer.resblocks.0."
    assert torch.equal(fused[f"{stem}attn.in_proj_weight"], state["h.0.attn.c_attn.weight"].T)
    assert torch.equal(fused[f"{stem}attn.in_proj_bias"], state["h.0.attn.c_attn.bias"])
    assert torch.equal(weights[f"{stem}mlp.c_fc.weight"], state["h.0.mlp.c_fc.weight"].T)
    assert torch.equal(weights[f"{stem}attn.out_proj.weight"], state["h.0.attn.c_proj.weight"].T)
    assert torch.equal(weights["ln_post.bias"], state["ln_f.bias"])
    assert all(tensor.is_contiguous() for tensor in weights.values())


def test_models_with_heads_and_older_names_give_the_same_tensors(bert: torch.nn.Module, gpt2: torch.nn.Module):
    older = {
        f"bert.{name}".replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for name, value in bert.state_dict().items()
    }
    extra = {"cls.predictions.bias": torch.zeros(3), "bert.embeddings.position_ids": torch.arange(4)[None]}
    assert toy.same(from_bert(older | extra), from_bert(bert.state_dict()))
    headed = {f"transformer.{name}": value for name, value in gpt2.state_dict().items()}
    extra = {"score.weight": torch.zeros(2, 4), "transformer.h.0.attn.bias": torch.ones(1, 1, 4, 4)}
    extra |= {"transformer.h.1.attn.masked_bias": torch.tensor(-1e4), "lm_head.weight": torch.zeros(4, 4)}
    assert toy.same(from_gpt2(headed | extra), from_gpt2(gpt2.state_dict()))


@pytest.mark.parametrize(
    ("convert", "name"),
    [(from_bert, "encoder.layer.0.output.dense.bias"), (from_gpt2, "h.1.ln_2.weight")],
)
def test_missing_and_unknown_tensors_are_named(convert: Any, name: str, bert: torch.nn.Module, gpt2: torch.nn.Module):
    state: Weights = dict((bert if convert is from_bert else gpt2).state_dict())
    tensor = state.pop(name)
    with pytest.raises(BenchmarkError, match=rf"missing tensors \(1\), the first is '{name}'"):
        convert(state)
    with pytest.raises(BenchmarkError, match=r"unknown tensors \(1\), the first is 'adapter'"):
        convert({**state, name: tensor, "adapter": tensor})


def test_configurations_become_models():
    minilm = {"model_type": "bert", "hidden_size": 384, "num_hidden_layers": 6, "intermediate_size": 1536}
    assert convert_config(minilm | {"hidden_act": "gelu", "type_vocab_size": 2}) == {
        "architecture": "bert", "layers": 6, "width": 384, "heads": 12, "hidden": 1536,
        "vocabulary": 30522, "positions": 512, "epsilon": 1e-12,
    }  # fmt: skip
    assert convert_config({"model_type": "gpt2", "n_inner": 3072, "n_ctx": 1024}) == {
        "architecture": "gpt2", "layers": 12, "width": 768, "heads": 12,
        "vocabulary": 50257, "positions": 1024, "epsilon": 1e-5,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        ([], r"config\.json is \[\], expected an object"),
        ({"model_type": "llama"}, r"model_type 'llama', expected one of bert, gpt2"),
        ({"model_type": "bert", "hidden_act": "relu"}, r"hidden_act 'relu', only 'gelu'"),
        ({"model_type": "bert", "position_embedding_type": "relative_key"}, r"position_embedding_type 'relative_key'"),
        ({"model_type": "bert", "is_decoder": True}, r"is_decoder True, only False"),
        ({"model_type": "gpt2", "activation_function": "gelu"}, r"activation_function 'gelu', only 'gelu_new'"),
        ({"model_type": "gpt2", "scale_attn_by_inverse_layer_idx": True}, r"scale_attn_by_inverse_layer_idx True"),
        ({"model_type": "gpt2", "n_inner": 1024}, r"n_inner 1024, only 3072"),
    ],
)
def test_unsupported_settings_are_named(config: Any, fault: str):
    with pytest.raises(BenchmarkError, match=fault):
        convert_config(config)
