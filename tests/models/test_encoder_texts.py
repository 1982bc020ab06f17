"""BERT and GPT-2: equal to transformers' own forward passes, blind to padding, their parts equal to the whole."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from pipeline.models import examples
from pipeline.models.encoder import Hidden, Transformer, block_name, join_hidden, product
from pipeline.models.examples import cut_padding, encode
from pipeline.models.weights import Weights, has_gradient
from pipeline.suites._text_weights import from_bert, from_gpt2
from tests.support import toy, toy_texts
from tests.support.precision import tolerance

CPU, KINDS = torch.device("cpu"), (*toy_texts.MODELS,)
MINILM = {"layers": 6, "width": 384, "heads": 12, "hidden": 1536, "vocabulary": 1000, "positions": 64, "epsilon": 1e-12}
SMALL = {"layers": 12, "width": 768, "heads": 12, "vocabulary": 1000, "positions": 64, "epsilon": 1e-5}
"""all-MiniLM-L6-v2 and GPT-2 small, with fewer words and positions."""


def hugging_face_features(module: torch.nn.Module, kind: str, texts: Tensor) -> Tensor:
    """The features of texts by transformers: mean pooling and unit length, or the last token."""
    valid = texts >= 0
    hidden = module(input_ids=texts.clamp(min=0).long(), attention_mask=valid.long()).last_hidden_state
    if kind == "bert":
        return normalize((hidden * valid[..., None]).sum(1) / valid.sum(1, keepdim=True), dim=-1)
    return hidden[torch.arange(len(texts)), valid.sum(1) - 1]


def converted(module: torch.nn.Module, kind: str) -> Weights:
    """The weights of transformers' model under the suite's names."""
    return {"bert": from_bert, "gpt2": from_gpt2}[kind](module.state_dict())


def toy_encoder(kind: str, dtype: torch.dtype = torch.float64) -> tuple[Transformer, Weights]:
    """A toy encoder and random weights."""
    model = toy_texts.MODELS[kind]
    return toy_texts.suite_of(model).encoder(), toy_texts.draw_weights(model, dtype=dtype)


@pytest.mark.parametrize(
    ("kind", "model", "length"),
    [("bert", toy_texts.BERT, 12), ("gpt2", toy_texts.GPT2, 12), ("bert", MINILM, 30), ("gpt2", SMALL, 30)],
    ids=("toy BERT", "toy GPT-2", "MiniLM", "GPT-2 small"),
)
def test_features_are_those_of_transformers(kind: str, model: Mapping[str, Any], length: int):
    module = toy_texts.draw_hugging_face(kind, model)
    encoder, weights = toy_texts.suite_of({"architecture": kind, **model}).encoder(), converted(module, kind)
    assert {name: tuple(tensor.shape) for name, tensor in weights.items()} == encoder.shapes()
    assert [*weights] == [*encoder.shapes()]
    texts = toy_texts.draw_texts(5, length, seed=1, vocabulary=model["vocabulary"])
    expected = hugging_face_features(module, kind, texts)
    assert expected.std() > 1e-2
    torch.testing.assert_close(encoder(weights, texts), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("kind", KINDS)
def test_padding_does_not_change_features(kind: str):
    encoder, weights = toy_encoder(kind)
    texts = toy_texts.draw_texts(6, seed=2)
    together = encoder(weights, texts)
    alone = torch.cat([encoder(weights, cut_padding(text[None])) for text in texts])
    assert len({cut_padding(text[None]).shape[1] for text in texts}) > 3
    torch.testing.assert_close(together, alone, rtol=0, atol=tolerance(torch.float64, 4000))
    wider = torch.cat([texts, texts.new_full((6, 3), -1)], dim=1)
    torch.testing.assert_close(encoder(weights, wider), alone, rtol=0, atol=tolerance(torch.float64, 4000))
    changed = texts.clone()
    changed[-1, -1] = (changed[-1, -1] + 1) % 40  # of the longest text
    moved = (encoder(weights, changed) - together).abs().amax(1)
    assert moved[-1] > 1e-3
    assert moved[:-1].max() == 0


@pytest.mark.parametrize("kind", KINDS)
def test_many_texts_are_encoded_batch_by_batch_each_cut_to_its_longest(kind: str, monkeypatch: pytest.MonkeyPatch):
    encoder, weights = toy_encoder(kind)
    texts, lengths = toy_texts.draw_texts(10, seed=3), []

    def counted(tensors: Mapping[str, Tensor], batch: Tensor) -> Tensor:
        lengths.append(batch.shape[1])
        return encoder(tensors, batch)

    monkeypatch.setattr(examples, "BATCH", 4)
    found = encode(counted, weights, texts.numpy(), CPU)
    assert lengths == [int((part >= 0).sum(1).max()) for part in texts.split(4)]
    assert min(lengths) < toy_texts.LENGTH
    torch.testing.assert_close(found, encoder(weights, texts), rtol=0, atol=tolerance(torch.float64, 4000))


def test_trimming_keeps_images():
    images = np.zeros((2, 4, 4, 3), dtype=np.uint8)
    assert cut_padding(images) is images


@pytest.mark.parametrize("kind", KINDS)
def test_the_parts_compose_the_encoder(kind: str):
    encoder, weights = toy_encoder(kind)
    texts = toy_texts.draw_texts(5, seed=4)
    hidden = encoder.embed(weights, texts)
    assert hidden.tokens.shape == (5, toy_texts.LENGTH, 16)
    assert encoder.count_tokens(texts) == toy_texts.LENGTH
    assert hidden.count() == int((texts >= 0).sum())
    for index in range(encoder.depth):
        block = {name: tensor for name, tensor in weights.items() if name.startswith(block_name(index))}
        assert len(block) == 16
        hidden = join_hidden([encoder.block(block, index, part) for part in hidden.split(2)])
    torch.testing.assert_close(
        encoder.finish(weights, hidden), encoder(weights, texts), rtol=0, atol=tolerance(torch.float64, 4000)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_are_those_of_the_tokens_that_are_no_padding(kind: str):
    """Text by text without padding, the same rows enter every matrix, in the same order."""
    encoder, weights = toy_encoder(kind)
    texts = toy_texts.draw_texts(5, seed=5)

    def inputs(batch: Tensor) -> Weights:
        hidden = encoder.block(weights, 0, encoder.embed(weights, batch))
        return encoder.inputs(weights, 1, hidden)

    rows, parts = inputs(texts), [inputs(cut_padding(text[None])) for text in texts]
    stem = block_name(1)
    assert {*rows} == {f"{stem}{part}.weight" for part in (
        "attn.q", "attn.k", "attn.v", "attn.out_proj", "mlp.c_fc", "mlp.c_proj"
    )}  # fmt: skip
    assert rows[f"{stem}attn.q.weight"] is rows[f"{stem}attn.v.weight"]
    for name, x in rows.items():
        assert x.shape == (int((texts >= 0).sum()), weights[name].shape[1])
        torch.testing.assert_close(x, torch.cat([part[name] for part in parts]), rtol=0, atol=1e-12)
    activated = encoder.activate(product(weights, f"{stem}mlp.c_fc", rows[f"{stem}mlp.c_fc.weight"]))
    torch.testing.assert_close(rows[f"{stem}mlp.c_proj.weight"], activated, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_every_tensor_but_the_bias_of_k_has_a_gradient(kind: str):
    encoder, weights = toy_encoder(kind)
    leaves = {name: tensor.requires_grad_() for name, tensor in weights.items()}
    loss = encoder(leaves, toy_texts.draw_texts(5, seed=6)).pow(3).sum()
    for name, slope in zip(leaves, torch.autograd.grad(loss, [*leaves.values()]), strict=True):
        assert (float(slope.abs().max()) > 1e-9) == has_gradient(name), name


def test_hidden_states_of_images_have_no_mask():
    tokens = torch.arange(24.0).view(3, 2, 4)
    hidden = Hidden(tokens)
    assert hidden.mask().all()
    assert hidden.count() == 6
    assert torch.equal(hidden.rows(tokens), tokens.view(6, 4))
    assert toy.same({"": join_hidden(hidden.split(2)).tokens}, {"": tokens})
    assert hidden[torch.tensor([2, 0])].valid is None
