"""Tables of facts about public suites: rows of CSV files, checked; and the published results among them."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from pipeline.runtime import store
from pipeline.runtime.errors import BenchmarkError

TABLE_FOLDER = Path(__file__).parent / "tables"
Text = Annotated[str, Field(min_length=1)]
RepositoryId = Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")]
Percent = Annotated[float, Field(ge=0, le=100)]
Identifier = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$")]
Texts = Annotated[tuple[Text, ...], BeforeValidator(lambda cell: cell.split("|")), Field(min_length=1)]


class Row(BaseModel):
    """A row of a table, or what is made of several; an unknown column is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


_RowType = TypeVar("_RowType", bound=Row)


class PublishedResult(Row):
    """A published accuracy in per cent, for the checkpoints that the tables of tasks name."""

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


def read_table_rows(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a CSV file, as text by column."""
    return list(csv.DictReader(store.read_text(path).splitlines(), restkey="beyond the last column"))


def validate_row(kind: type[_RowType], content: Mapping[str, Any], where: str) -> _RowType:
    """Return `content` as a `kind`; BenchmarkError names `where` and the first field that is wrong."""
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise BenchmarkError(f"{where}: {field}: {first['msg']}, got {first['input']!r}") from error


def read_published(tables: Path = TABLE_FOLDER) -> tuple[PublishedResult, ...]:
    """Read the rows of published.csv; BenchmarkError names the invalid line and field."""
    path = tables / "published.csv"
    return tuple(
        validate_row(PublishedResult, row, f"{path}: line {line}") for line, row in enumerate(read_table_rows(path), 2)
    )
