"""The twenty tasks of TA-8, TALL-14 and TALL-20: sources of images and checkpoints, prompts, published anchors.

The facts are data, not code: tables/tasks.csv (a row per task) and tables/prompts.json (class names in label order and
caption templates) are read and checked when this module is imported. Anchors are the zero-shot and the expert accuracy
on the test split, in per cent to two decimals.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator

from pipeline.runtime import store
from pipeline.runtime.errors import BenchmarkError
from pipeline.suites._labels import LabelColumn
from pipeline.suites._tables import (
    TABLE_FOLDER,
    Identifier,
    Percent,
    RepositoryId,
    Row,
    Text,
    Texts,
    read_table_rows,
    validate_row,
)

BACKBONES = {
    "vit-b-32": "openai/clip-vit-base-patch32",
    "vit-b-16": "openai/clip-vit-base-patch16",
    "vit-l-14": "openai/clip-vit-large-patch14",
}
"""{backbone: repository of the pre-trained CLIP}."""


class Anchor(Row):
    """A task's expert on one backbone: its repository, its published accuracy, and the zero-shot accuracy."""

    checkpoint: RepositoryId
    revision: Annotated[Text, BeforeValidator(lambda cell: cell or "main")]
    zeroshot: Percent
    expert: Percent


class ClipTask(Row):
    """A task: a row of tasks.csv with its prompts."""

    name: Identifier
    suites: Annotated[tuple[Identifier, ...], BeforeValidator(lambda cell: cell.split(";"))]
    dataset: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$|^[./]")]
    """A repository of the hub, or a folder of this machine, which starts with `.` or `/`."""
    config: Annotated[Text | None, BeforeValidator(lambda cell: cell or None)]
    """Configuration of the dataset, where its repository has several."""
    revision: Texts
    """Commit, branch, or refs/convert/parquet, the hub's conversion of a repository that holds no parquet itself; of
    several, the first at which both splits are there."""
    train_split: Text
    test_split: Text
    image_column: Texts
    """Name of the column; of several, the first that the file has."""
    label_column: Texts
    label_offset: int
    """The dataset's label of the first class."""
    transpose: bool
    """Whether images are stored with rows and columns exchanged."""
    test_size: Annotated[int, Field(ge=1)]
    classes: Annotated[tuple[Text, ...], Field(min_length=2)]
    stored_classes: tuple[Text, ...] = ()
    """The class names as the data set stores them, where their order is not that of `classes`; no label changes."""
    templates: Annotated[tuple[Annotated[str, Field(pattern=r"^[^{}]*\{\}[^{}]*$")], ...], Field(min_length=1)]
    anchors: Mapping[str, Anchor]
    """{backbone: anchor} for all BACKBONES; empty for a task that is not in the tables."""
    note: str

    @property
    def labels(self) -> LabelColumn:
        """Its labels in parquet files."""
        return LabelColumn(self.name, self.label_column, self.stored_classes or self.classes, self.label_offset)

    @model_validator(mode="after")
    def _check(self) -> "ClipTask":
        if len({*self.classes}) != len(self.classes):
            raise ValueError("class names must differ")
        if self.stored_classes and len(self.stored_classes) != len(self.classes):
            raise ValueError(f"{len(self.stored_classes)} stored class names for {len(self.classes)} classes")
        if self.anchors and tuple(self.anchors) != tuple(BACKBONES):
            raise ValueError(f"anchors of {', '.join(self.anchors)}, expected {', '.join(BACKBONES)}")
        return self


def find_task(name: str) -> ClipTask:
    """Find the task called `name`; BenchmarkError with the nearest name if there is none."""
    if name not in CLIP_TASKS:
        near = get_close_matches(name, CLIP_TASKS, 1, 0)
        raise BenchmarkError(f"unknown task {name!r}; did you mean {near[0]!r}? There are {', '.join(CLIP_TASKS)}")
    return CLIP_TASKS[name]


def read_tasks(tables: Path = TABLE_FOLDER) -> Mapping[str, ClipTask]:
    """Read {name: task} in the order of tasks.csv, with prompts; BenchmarkError names the file, task and field."""
    rows, prompts = read_table_rows(tables / "tasks.csv"), store.read_json(tables / "prompts.json")
    names = [row.get("task", "") for row in rows]
    if sorted(names) != sorted(prompts):
        odd = ", ".join(sorted({*names} ^ {*prompts})) or "a task that occurs twice"
        raise BenchmarkError(f"{tables}: tasks.csv and prompts.json do not list the same tasks: {odd}")
    tasks = {}
    for row in rows:
        name, declared = row.pop("task"), row.pop("classes", "")
        anchors = {
            backbone: {field: row.pop(f"{field}_{backbone}", None) for field in Anchor.model_fields}
            for backbone in BACKBONES
        }
        where = f"{tables / 'tasks.csv'}: {name}"
        task = validate_row(ClipTask, {"name": name, **row, **prompts[name], "anchors": anchors}, where)
        if declared != str(len(task.classes)):
            raise BenchmarkError(f"{where}: {declared} classes, but prompts.json names {len(task.classes)}")
        tasks[name] = task
    return MappingProxyType(tasks)


CLIP_TASKS = read_tasks()
SUITES = {
    suite: tuple(name for name, task in CLIP_TASKS.items() if suite in task.suites)
    for suite in dict.fromkeys(suite for task in CLIP_TASKS.values() for suite in task.suites)
}
"""{suite: its tasks in the paper's order}: ta-8, tall-14, tall-20."""
