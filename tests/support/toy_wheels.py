"""Tiny wheels with the members that the suites of text read: a toy BERT, and corpora that tell their classes apart."""

import bz2
import csv
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel

from pipeline.runtime import store
from pipeline.suites import _text_tables

TABLE = _text_tables.PATH
"""The real table, which tests replace."""
REAL = _text_tables.read_tables()
BERT = {
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 16,
}
FILLERS = tuple(f"w{index}" for index in range(60))
ROWS = {"train": 26, "test": 8}
"""Texts per label; a corpus of one file has twice the first number."""
FILMS = 40


def words_of(label: str) -> tuple[str, str]:
    """The two words that tell a label."""
    stem = "".join(filter(str.isalnum, label.lower()))
    return f"{stem}x", f"{stem}y"


def labels_of(corpus: str) -> list[str]:
    """The labels of a corpus."""
    return sorted({label for task in REAL.tasks.values() if task.corpus == corpus for label in task.labels})


def draw_text(label: str, rng: np.random.Generator) -> str:
    """Four words of the label's among fillers."""
    words = [*rng.choice(words_of(label), 4), *rng.choice(FILLERS, 5)]
    return " ".join(rng.permutation(words))


def write_table(corpus: str, rows: Sequence[tuple[str, str, str]]) -> bytes:
    """A file of the corpus with these rows (text, label, group), in the form that the real one has."""
    entry, buffer = REAL.corpora[corpus], io.StringIO()
    packed = entry.train.endswith(".bz2")
    columns = [entry.text, entry.label, *([entry.group] if entry.group else []), *sorted({*entry.keep} - {entry.label})]
    writer = csv.writer(buffer, delimiter="," if packed else "\t", lineterminator="\n")
    writer.writerow(columns)
    if not packed:
        writer.writerows([["string"] * len(columns), [""] * (len(columns) - 1) + ["class"]])
        buffer.write("\n")
    for text, label, group in rows:
        row = {column: values[0] for column, values in entry.keep.items()}
        row |= {entry.text: text, entry.label: label} | ({entry.group: group} if entry.group else {})
        writer.writerow([row[column] for column in columns])
    return bz2.compress(buffer.getvalue().encode()) if packed else buffer.getvalue().encode()


def draw_corpora() -> dict[str, bytes]:
    """{member: content} of every file of a corpus."""
    rng, files = np.random.default_rng(0), {}
    for corpus, entry in REAL.corpora.items():
        single = entry.train == entry.test
        for member, count in ((entry.train, ROWS["train"] * (1 + 5 * single)), (entry.test, ROWS["test"])):
            if member not in files:
                labels = [label for label in labels_of(corpus) for _ in range(count)]
                rows = [(draw_text(label, rng), label, f"film {at % FILMS}") for at, label in enumerate(labels)]
                files[member] = write_table(corpus, rows)
    return files


def build_tokenizer(extra: Sequence[str] = ()) -> Tokenizer:
    """A tokeniser of whole words: those of the corpora and the captions, and `extra` ones."""
    labels = [label for corpus in REAL.corpora for label in labels_of(corpus)]
    captions = " ".join(caption for task in REAL.tasks.values() for caption in task.captions)
    normalizer, splitter = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    known = [word for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(captions))]
    words = dict.fromkeys([*(word for label in labels for word in words_of(label)), *FILLERS, *known, *extra])
    vocabulary = {word: place for place, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.enable_padding(length=8)  # as the published one has it
    return tokenizer


def build_base(tokenizer: Tokenizer, **changes: Any) -> dict[str, bytes]:
    """{member: content} of a BERT with random weights for that tokeniser; `changes` of its configuration."""
    config = BertConfig(**{**BERT, "vocab_size": tokenizer.get_vocab_size(), **changes})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state = BertModel(config).state_dict()
    folder = REAL.bases["all-minilm-l6-v2"].folder
    loud = {name: 10 * tensor if "embeddings.word" in name else tensor.contiguous() for name, tensor in state.items()}
    return {
        f"{folder}/config.json": json.dumps({**config.to_dict(), "model_type": "bert"}).encode(),
        f"{folder}/tokenizer.json": tokenizer.to_str().encode(),
        f"{folder}/model.safetensors": save(loud),
    }


def write_wheel(folder: Path, name: str, version: str, members: Mapping[str, bytes]) -> Path:
    """Write a wheel with these members."""
    stem = f"{name.replace('-', '_')}-{version}"
    about = {
        "METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        "WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "RECORD": "",
    }
    path = folder / f"{stem}-py3-none-any.whl"
    with ZipFile(path, "w") as archive:
        for member, content in {
            **members,
            **{f"{stem}.dist-info/{file}": text for file, text in about.items()},
        }.items():
            archive.writestr(member, content)
    return path


def write_wheels(folder: Path, members: Mapping[str, bytes]) -> dict[str, Any]:
    """Write the wheels of the real table with these members; return the table with their hashes."""
    table = json.loads(TABLE.read_text("utf-8"))
    for name, wheel in REAL.wheels.items():
        content = write_wheel(folder, name, wheel.version, {key: members[key] for key in wheel.members}).read_bytes()
        hashes = {member: hashlib.sha256(members[member]).hexdigest() for member in wheel.members}
        table["wheels"][name] |= {
            "size": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
            "members": hashes,
        }
    return table


class Shop:
    """A folder of wheels with a table of them, and pip without an index."""

    def __init__(self, root: Path, wheels: Path, patch: pytest.MonkeyPatch) -> None:
        self.wheels, self.table = wheels, root / "texts.json"
        self.wheels.mkdir(parents=True)
        patch.setattr(constants, "HF_ASSETS_CACHE", str(root))
        patch.setattr(_text_tables, "PATH", self.table)
        patch.setenv("PIP_NO_INDEX", "1")
        patch.setenv("SAMERGING_WORKERS", "1")

    def offer(self, members: Mapping[str, bytes]) -> dict[str, Any]:
        """Write the wheels and their table; return the table."""
        table = write_wheels(self.wheels, members)
        self.state(table)
        return table

    def state(self, table: Mapping[str, Any]) -> None:
        """Write the table; classes keep their order."""
        store.write_text(self.table, json.dumps(table))
