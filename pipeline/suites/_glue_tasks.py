"""The tasks of GLUE-7 on GPT-2: texts, experts and published anchors, a row of tables/glue.csv each.

`zeroshot` is the accuracy of the pre-trained trunk under the expert's head, `expert` that of the expert, `average` that
of the seven experts' average; all on the scored split, in per cent. GLUE (arXiv 1804.07461) publishes no labels of its
test splits: its validation splits are scored, of MNLI the matched one.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

from pydantic import BeforeValidator, Field

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


class GlueTask(Row):
    """A task of GLUE with one label per text or pair of texts; its name is that of GLUE's configuration."""

    name: Identifier
    test_split: Text
    """The split that is scored."""
    text_columns: Annotated[Texts, Field(max_length=2)]
    """One column, or the two of a pair, in the order in which they are concatenated."""
    classes: Texts
    test_size: Annotated[int, Field(ge=1)]
    checkpoint: RepositoryId
    revision: Annotated[Text, BeforeValidator(lambda cell: cell or "main")]
    zeroshot: Percent
    expert: Percent
    average: Percent

    @property
    def labels(self) -> LabelColumn:
        """Its labels in parquet files."""
        return LabelColumn(self.name, ("label",), self.classes)


def find_glue_task(name: str) -> GlueTask:
    """Find the task called `name`; BenchmarkError with the nearest name if there is none."""
    if name not in GLUE_TASKS:
        near = get_close_matches(name, GLUE_TASKS, 1, 0)
        raise BenchmarkError(f"unknown task {name!r}; did you mean {near[0]!r}? There are {', '.join(GLUE_TASKS)}")
    return GLUE_TASKS[name]


def read_glue_tasks(tables: Path = TABLE_FOLDER) -> Mapping[str, GlueTask]:
    """Read {name: task} in the order of glue.csv; BenchmarkError names the file, task and field."""
    path = tables / "glue.csv"
    rows = [{"name": row.pop("task", ""), **row} for row in read_table_rows(path)]
    return MappingProxyType({row["name"]: validate_row(GlueTask, row, f"{path}: {row['name']}") for row in rows})


GLUE_TASKS = read_glue_tasks()
