"""Toy suites of texts: both encoders with random weights, and random texts of different lengths."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor

from pipeline.calibration.problem import Problem
from pipeline.models.suite import SPLITS, Suite, Task
from pipeline.models.task_vectors import TaskVectors
from pipeline.models.weights import Weights
from pipeline.runtime import store
from tests.support import toy

BERT = {"layers": 2, "width": 16, "heads": 2, "hidden": 24, "vocabulary": 40, "positions": 12, "epsilon": 1e-12}
GPT2 = {"layers": 2, "width": 16, "heads": 2, "vocabulary": 40, "positions": 12, "epsilon": 1e-5}
MODELS: dict[str, dict[str, Any]] = {
    "bert": {"architecture": "bert", **BERT},
    "gpt2": {"architecture": "gpt2", **GPT2},
}
LENGTH = 9
FROZEN = ("word_embedding", "positional_embedding", "type_embedding", "ln_pre.weight", "ln_pre.bias")
"""What a suite on BERT does not merge; one on GPT-2 merges all tensors."""


def draw_texts(count: int, length: int = LENGTH, *, seed: int, vocabulary: int = 40) -> Tensor:
    """Draw texts int32 [count, length] of 1 to `length` tokens; the last is as long as may be."""
    rng = torch.Generator().manual_seed(seed)
    texts = torch.randint(vocabulary, (count, length), generator=rng, dtype=torch.int32)
    lengths = torch.randint(1, length + 1, (count,), generator=rng)
    lengths[-1] = length
    return texts.where(torch.arange(length) < lengths[:, None], -1)


def suite_of(model: Mapping[str, Any], name: str = "texts") -> Suite:
    """A suite of toy tasks on this model."""
    tasks = tuple(Task(name=task, classes=classes) for task, classes in toy.TASKS.items())
    suite = Suite(name=name, tasks=tasks, model=dict(model), groups=())
    groups = [*suite.encoder().shapes()]
    merged = tuple(group for group in groups if model["architecture"] == "gpt2" or group not in FROZEN)
    return suite.model_copy(update={"groups": merged})


def draw_weights(model: Mapping[str, Any], seed: int = 0, dtype: torch.dtype = torch.float32) -> Weights:
    """Random weights of an encoder: norms around one, matrices that keep the size of what they multiply."""
    rng = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in suite_of(model).encoder().shapes().items():
        noise = torch.randn(shape, generator=rng, dtype=dtype)
        norm = ".ln_" in f".{name}" and name.endswith("weight")
        weights[name] = 1 + 0.1 * noise if norm else noise * (0.1 if len(shape) == 1 else shape[-1] ** -0.5)
    return weights


def problem(kind: str, tasks: int = 3, dtype: torch.dtype = torch.float64, spread: float = 0.05) -> Problem:
    """A calibration problem on a toy BERT or GPT-2."""
    suite, rng = suite_of(MODELS[kind]), torch.Generator().manual_seed(7)
    encoder, base = suite.encoder(), draw_weights(MODELS[kind], dtype=dtype)
    experts = [
        {name: base[name] + spread * torch.randn(base[name].shape, generator=rng, dtype=dtype) for name in suite.groups}
        for _ in range(tasks)
    ]
    texts = [draw_texts(count, seed=index) for index, count in enumerate(toy.POOLS[:tasks])]
    heads = [torch.randn(count, encoder.width, generator=rng, dtype=dtype) for count in toy.CLASSES[:tasks]]
    teachers = [
        encoder({**base, **expert}, pool) @ head.T for expert, pool, head in zip(experts, texts, heads, strict=True)
    ]
    vectors = dict(TaskVectors(base, experts, suite.groups, dtype))
    return Problem(encoder, base, vectors, tuple(heads), tuple(texts), tuple(teachers), tuple(toy.TASKS)[:tasks])


PROBLEMS: dict[str, Callable[..., Problem]] = {
    "images": toy.clip_problem,
    "bert": partial(problem, "bert"),
    "gpt2": partial(problem, "gpt2"),
}
"""A toy problem on each encoder."""


def write_suite(folder: Path, kind: str) -> None:
    """Write a suite folder with random weights, texts and labels."""
    suite, rng = suite_of(MODELS[kind]), np.random.default_rng(0)
    base, noise = draw_weights(MODELS[kind]), torch.Generator().manual_seed(1)
    words = {f"w{token}": token for token in range(40)}
    store.write_text(folder / "tokenizer.json", Tokenizer(WordLevel(words, unk_token="w0")).to_str())
    store.write_tensors(folder / "base.safetensors", base)
    for index, (task, classes) in enumerate(toy.TASKS.items()):
        expert = {name: base[name] + 0.05 * torch.randn(base[name].shape, generator=noise) for name in suite.groups}
        store.write_tensors(folder / "experts" / f"{task}.safetensors", expert)
        for part, split in enumerate(SPLITS):
            texts = draw_texts(toy.SIZES[split], seed=10 * index + part)
            store.write_array(folder / "texts" / split / f"{task}.npy", texts.numpy())
            labels = rng.integers(len(classes), size=toy.SIZES[split], dtype=np.int64)
            store.write_array(folder / "labels" / split / f"{task}.npy", labels)
    width = suite.encoder().width
    heads = {name: torch.randn(len(classes), width, generator=noise) for name, classes in toy.TASKS.items()}
    store.write_tensors(folder / "heads.safetensors", heads)
    suite.save(folder)


def draw_hugging_face(kind: str, model: Mapping[str, Any], seed: int = 0) -> torch.nn.Module:
    """Draw a BertModel or GPT2Model with all tensors random, so that none can be mistaken for another."""
    import transformers

    if kind == "bert":
        config = transformers.BertConfig(
            num_hidden_layers=model["layers"],
            hidden_size=model["width"],
            num_attention_heads=model["heads"],
            intermediate_size=model["hidden"],
            vocab_size=model["vocabulary"],
            max_position_embeddings=model["positions"],
            layer_norm_eps=model["epsilon"],
        )
        module = transformers.BertModel(config, add_pooling_layer=False)
    else:
        config = transformers.GPT2Config(
            n_layer=model["layers"],
            n_embd=model["width"],
            n_head=model["heads"],
            vocab_size=model["vocabulary"],
            n_positions=model["positions"],
            layer_norm_epsilon=model["epsilon"],
            bos_token_id=None,
            eos_token_id=None,
        )
        module = transformers.GPT2Model(config)
    rng = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        scale = 0.1 if parameter.ndim == 1 else parameter.shape[-1] ** -0.5
        centre = 1.0 if name.endswith("weight") and parameter.ndim == 1 else 0.0
        parameter.data = centre + scale * torch.randn(parameter.shape, generator=rng)
    return module.eval().requires_grad_(False)
