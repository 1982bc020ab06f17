"""Replicas of the hub's repositories that the suite of GLUE needs: real names, columns and types, tiny content.

The GPT-2 has real names, two layers, 32 channels and random weights; its tokeniser is a byte-level BPE of 300 tokens.
Texts are a few words, some of which the label determines. All of it is deterministic.
"""

import json
from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
import pyarrow as pa
import torch
from pyarrow import parquet
from safetensors.torch import save
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from pipeline.suites._glue_tasks import GLUE_TASKS, GlueTask
from pipeline.suites._glue_texts import END
from pipeline.suites.glue import PUBLISHED

Repositories = dict[str, dict[str, bytes]]
BASE, DATA = PUBLISHED["base"], PUBLISHED["data"]
WORDS = ("the", "film", "was", "a", "man", "played", "guitar", "who", "is", "It's", "café", "because", "of")
MARKS = (("not", "bad"), ("good", "same"), ("other", "unclear"))
"""Words that texts of a label hold more often, by label."""


@cache
def tokenizer() -> Tokenizer:
    """A tokeniser made as GPT-2's is."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.post_processor = processors.ByteLevel(trim_offsets=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=[END], initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator([" ".join([*WORDS, *sum(MARKS, ())])] * 4, trainer)
    return made


def texts(task: GlueTask, split: str, rows: int) -> tuple[dict[str, list[str]], list[int]]:
    """The texts of a split by column, and its labels."""
    rng = np.random.default_rng([*f"{task.name} {split}".encode()])
    labels = [row % len(task.classes) for row in range(rows)]
    columns = {
        name: [" ".join(rng.permutation([*rng.choice(WORDS, rng.integers(1, 7)), *MARKS[label]])) for label in labels]
        for name in task.text_columns
    }
    return columns, labels


def data(rows_train: int = 20, rows_test: int = 6, tasks: Sequence[str] = tuple(GLUE_TASKS)) -> Repositories:
    """{repository: {file name: bytes}} of GLUE; its test splits have no labels, -1."""
    files = {"README.md": b"", ".gitattributes": b""}
    for name in tasks:
        task = GLUE_TASKS[name]
        scored = ("validation_matched", "validation_mismatched") if name == "mnli" else ("validation",)
        for split, rows in {"train": rows_train, **dict.fromkeys(scored, rows_test)}.items():
            files[f"{name}/{split}-00000-of-00001.parquet"] = table(task, *texts(task, split, rows))
        columns, labels = texts(task, "test", 3)
        files[f"{name}/test-00000-of-00001.parquet"] = table(task, columns, [-1] * len(labels))
    return {DATA: files}


def table(task: GlueTask, columns: Mapping[str, Sequence[str | None]], labels: Sequence[int]) -> bytes:
    """A parquet file of GLUE."""
    features = {"label": {"names": [*task.classes], "_type": "ClassLabel"}}
    described = json.dumps({"info": {"features": features}})
    content = {**columns, "label": pa.array(labels, pa.int64()), "idx": pa.array(range(len(labels)), pa.int32())}
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.table(content).replace_schema_metadata({"huggingface": described}), sink, row_group_size=8)
    return sink.getvalue().to_pybytes()


def checkpoints(tasks: Sequence[str] = tuple(GLUE_TASKS), positions: int = 512) -> Repositories:
    """{repository: {file name: bytes}}: the pre-trained GPT-2, and an expert per task.

    As in the real files, the base's names have no prefix and its causal masks are there, while the experts have
    `transformer.` and a head.
    """
    from transformers import GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel

    size = tokenizer().get_vocab_size()
    shape = {"vocab_size": size, "n_positions": positions, "n_embd": 32, "n_layer": 2, "n_head": 2}
    end = tokenizer().token_to_id(END)
    tokens = {"bos_token_id": end, "eos_token_id": end}
    tokens_json = tokenizer().to_str().encode()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = GPT2Config(**shape, **tokens)
        pretrained = GPT2LMHeadModel(config).transformer.state_dict()
        masks = {f"h.{layer}.attn.bias": torch.ones(1, 1, positions, positions).tril() for layer in range(2)}
        described = {**config.to_dict(), "architectures": ["GPT2LMHeadModel"]}
        repositories = {BASE: model({**pretrained, **masks}, described) | {"tokenizer.json": tokens_json}}
        for name in tasks:
            task = GLUE_TASKS[name]
            config = GPT2Config(**shape, **tokens, pad_token_id=end, num_labels=len(task.classes))
            expert = GPT2ForSequenceClassification(config)
            expert.transformer.load_state_dict(pretrained)
            with torch.no_grad():
                for parameter in expert.parameters():
                    parameter.add_(torch.randn_like(parameter), alpha=0.05)
            content = {**config.to_dict(), "architectures": ["GPT2ForSequenceClassification"]}
            repositories[task.checkpoint] = model(expert.state_dict(), content)
    return repositories


def model(tensors: Mapping[str, torch.Tensor], config: Mapping[str, object]) -> dict[str, bytes]:
    """The files of a checkpoint."""
    weights = save({name: tensor.contiguous() for name, tensor in tensors.items()}, {"format": "pt"})
    return {"config.json": json.dumps(config).encode(), "model.safetensors": weights, "README.md": b""}
