"""The twenty tasks of TA-8, TALL-14 and TALL-20: sources of images and checkpoints, prompts, published anchors.

The facts are data, not code: tables/tasks.csv (a row per task), tables/prompts.json (class names in label order and
caption templates) and tables/published.csv (accuracies published for the same checkpoints). The first two are read and
checked when this module is imported. Anchors are the zero-shot and the expert accuracy on the test split, in per cent
to two decimals.
"""

import csv
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from pipeline.runtime import store
from pipeline.runtime.errors import BenchmarkError

TABLE_FOLDER = Path(__file__).parent / "tables"
BACKBONES = {
    "vit-b-32": "openai/clip-vit-base-patch32",
    "vit-b-16": "openai/clip-vit-base-patch16",
    "vit-l-14": "openai/clip-vit-large-patch14",
}
"""{backbone: repository of the pre-trained CLIP}."""

Text = Annotated[str, Field(min_length=1)]
RepositoryId = Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")]
Percent = Annotated[float, Field(ge=0, le=100)]
Identifier = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$")]
OneOf = Annotated[tuple[Text, ...], BeforeValidator(lambda cell: cell.split("|")), Field(min_length=1)]


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


_RowType = TypeVar("_RowType", bound=_Row)


class Anchor(_Row):
    """A task's expert on one backbone: its repository, its published accuracy, and the zero-shot accuracy."""

    checkpoint: RepositoryId
    revision: Annotated[Text, BeforeValidator(lambda cell: cell or "main")]
    zeroshot: Percent
    expert: Percent


class ClipTask(_Row):
    """A task: a row of tasks.csv with its prompts."""

    name: Identifier
    suites: Annotated[tuple[Identifier, ...], BeforeValidator(lambda cell: cell.split(";"))]
    dataset: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$|^[./]")]
    """A repository of the hub, or a folder of this machine, which starts with `.` or `/`."""
    config: Annotated[Text | None, BeforeValidator(lambda cell: cell or None)]
    """Configuration of the dataset, where its repository has several."""
    revision: OneOf
    """Commit, branch, or refs/convert/parquet, the hub's conversion of a repository that holds no parquet itself; of
    several, the first at which both splits are there."""
    train_split: Text
    test_split: Text
    image_column: OneOf
    """Name of the column; of several, the first that the file has."""
    label_column: OneOf
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

    @model_validator(mode="after")
    def _check(self) -> "ClipTask":
        if len({*self.classes}) != len(self.classes):
            raise ValueError("class names must differ")
        if self.stored_classes and len(self.stored_classes) != len(self.classes):
            raise ValueError(f"{len(self.stored_classes)} stored class names for {len(self.classes)} classes")
        if self.anchors and tuple(self.anchors) != tuple(BACKBONES):
            raise ValueError(f"anchors of {', '.join(self.anchors)}, expected {', '.join(BACKBONES)}")
        return self


class PublishedResult(_Row):
    """A published accuracy in per cent, for the checkpoints that tasks.csv names."""

    suite: Identifier
    backbone: Identifier
    method: Text
    hyperparameters: str
    task: Identifier
    accuracy: Percent
    protocol: Text
    """Which data the method used, and what it keeps at inference."""
    source: Text
    note: str


def find_task(name: str) -> ClipTask:
    """Find the task called `name`; BenchmarkError with the nearest name if there is none."""
    if name not in CLIP_TASKS:
        near = get_close_matches(name, CLIP_TASKS, 1, 0)
        raise BenchmarkError(f"unknown task {name!r}; did you mean {near[0]!r}? There are {', '.join(CLIP_TASKS)}")
    return CLIP_TASKS[name]


def plain_name(name: str) -> str:
    """Return a class name without case, spaces and punctuation, as data sets and prompts write it differently."""
    return "".join(filter(str.isalnum, name.lower()))


def find_label(text: str, classes: Sequence[str]) -> int | None:
    """Return the label of the class that `text` names: as it stands, or else in the one plain spelling; None if none.

    "C" and "C++" have the same plain spelling, so that neither is found by it.
    """
    if text in classes:
        return classes.index(text)
    alike = [label for label, name in enumerate(classes) if plain_name(name) == plain_name(text)]
    return alike[0] if len(alike) == 1 else None


def find_parquet_files(names: Sequence[str], config: str | None, split: str) -> list[str]:
    """Find the parquet files of a split among the files of a dataset repository, in row order.

    Known layouts: [folder/]<split>-00000-of-00004[-<hash>].parquet, [folder/]<split>/0000.parquet (the hub's own
    conversion) and [folder/]<split>.parquet. The folder's last part is the configuration. Without a configuration, the
    folder is `data`, none or `default`, or else the only one. Raises BenchmarkError if there is no such file, or if a
    shard is missing.
    """
    kinds = r"(?:-(?P<shard>\d+)-of-(?P<count>\d+)(?:-[0-9a-f]+)?|/(?P<part>\d+))?"
    pattern = re.compile(rf"(?:(?P<folder>.+)/)?{re.escape(split)}{kinds}\.parquet")
    folders = defaultdict(list)
    for match in filter(None, map(pattern.fullmatch, names)):
        folders[match["folder"] or ""].append((int(match["shard"] or match["part"] or 0), match["count"], match.string))
    usual = [folder for folder in ("data", "", "default") if folder in folders]
    matching = (
        [folder for folder in folders if folder.split("/")[-1] == config] if config else usual[:1] or list(folders)
    )
    what = f"split {split!r}" + (f" of configuration {config!r}" if config else "")
    if len(matching) != 1:
        problem = f"several folders hold {what}, name a configuration" if matching else f"no parquet file of {what}"
        if any(f"partial-{split}/" in name for name in names):
            problem = f"only a part of {what} was converted to parquet (partial-{split})"
        raise BenchmarkError(f"{problem}; the repository has: {', '.join(sorted(names)[:20])} ({len(names)} files)")
    numbers, counts, shards = zip(*sorted(folders[matching[0]]), strict=True)
    total = int(counts[0] or len(shards))
    if numbers != tuple(range(total)) or len({*counts}) > 1:
        raise BenchmarkError(f"{what}: expected {total} files, each number once, found {', '.join(shards)}")
    return list(shards)


def read_tasks(tables: Path = TABLE_FOLDER) -> Mapping[str, ClipTask]:
    """Read {name: task} in the order of tasks.csv, with prompts; BenchmarkError names the file, task and field."""
    rows, prompts = _rows(tables / "tasks.csv"), store.read_json(tables / "prompts.json")
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
        task = _validated(ClipTask, {"name": name, **row, **prompts[name], "anchors": anchors}, where)
        if declared != str(len(task.classes)):
            raise BenchmarkError(f"{where}: {declared} classes, but prompts.json names {len(task.classes)}")
        tasks[name] = task
    return MappingProxyType(tasks)


def read_published(tables: Path = TABLE_FOLDER) -> tuple[PublishedResult, ...]:
    """Read the rows of published.csv; BenchmarkError names the invalid line and field."""
    path = tables / "published.csv"
    return tuple(_validated(PublishedResult, row, f"{path}: line {line}") for line, row in enumerate(_rows(path), 2))


def _rows(path: Path) -> list[dict[str, Any]]:
    return list(csv.DictReader(store.read_text(path).splitlines(), restkey="beyond the last column"))


def _validated(kind: type[_RowType], content: Mapping[str, Any], where: str) -> _RowType:
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise BenchmarkError(f"{where}: {field}: {first['msg']}, got {first['input']!r}") from error


CLIP_TASKS = read_tasks()
SUITES = {
    suite: tuple(name for name, task in CLIP_TASKS.items() if suite in task.suites)
    for suite in dict.fromkeys(suite for task in CLIP_TASKS.values() for suite in task.suites)
}
"""{suite: its tasks in the paper's order}: ta-8, tall-14, tall-20."""
