"""A view: the content of one section of a report, made by one file of `views` or `studies`, found by its name."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pandas as pd
from matplotlib.figure import Figure

from pipeline.report.tables import Table
from pipeline.statistics.contrasts import Contrast, ReplicatedContrast


@dataclass(frozen=True)
class Look:
    """The look of tables and figures: the `report` parameters."""

    dpi: int
    width: float
    """Of a text column, in inches."""
    decimals: int


@dataclass(frozen=True)
class Sheet:
    """A table whose cells are texts."""

    table: Table
    title: str = ""
    csv: str | None = None
    """The same with more digits; None where no CSV file is written."""
    page: Table | None = None
    """The table that the page shows instead; None for `table`."""


@dataclass(frozen=True)
class Frame:
    """A table of texts and numbers, as rows; the first column names them."""

    rows: pd.DataFrame
    caption: str


@dataclass(frozen=True)
class Drawing:
    """A figure; its caption names the quantity, the number of seeds and the split."""

    figure: Figure
    caption: str
    title: str = ""
    data: pd.DataFrame | None = None
    """Its data, as tidy rows; None where it has no CSV file."""


@dataclass(frozen=True)
class View:
    """One section of a report. Files are called by the names of its tables and figures."""

    title: str = ""
    question: str = ""
    """One sentence: the section's question and method; without one its sentences stand at the top of the suite."""
    sentences: tuple[str, ...] = ()
    """The findings, computed from the numbers; each with its n."""
    tables: Mapping[str, Sheet | Frame] = field(default_factory=dict)
    figures: Mapping[str, Drawing] = field(default_factory=dict)
    contrasts: Mapping[str, Contrast | ReplicatedContrast] = field(default_factory=dict)
    """Every comparison of settings that a study states, under a unique name: for recomputation."""
