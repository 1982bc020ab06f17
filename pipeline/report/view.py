"""A view: what one section of a report shows. A view is made by one file of `views` or `studies`, found by its name."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pandas as pd
from matplotlib.figure import Figure

from pipeline.report.tables import Table
from pipeline.statistics.contrasts import Contrast, Order


@dataclass(frozen=True)
class Look:
    """How tables and figures look: the `report` parameters."""

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
    """What the page shows instead; None for `table`."""


@dataclass(frozen=True)
class Frame:
    """A table of texts and numbers, as rows; the first column names them."""

    rows: pd.DataFrame
    caption: str


@dataclass(frozen=True)
class Drawing:
    """A figure: its caption says what is shown, over how many seeds, on which split."""

    figure: Figure
    caption: str
    title: str = ""
    data: pd.DataFrame | None = None
    """What it shows, as tidy rows; None where it has no CSV file."""


@dataclass(frozen=True)
class View:
    """One section of a report. Files are called by the names of its tables and figures."""

    title: str = ""
    question: str = ""
    """One sentence: what the section asks and how; without one its sentences stand at the top of the suite."""
    sentences: tuple[str, ...] = ()
    """What the numbers say, in sentences made of them; each with its n."""
    tables: Mapping[str, Sheet | Frame] = field(default_factory=dict)
    figures: Mapping[str, Drawing] = field(default_factory=dict)
    contrasts: Mapping[str, Contrast | Order] = field(default_factory=dict)
    """Every comparison of settings that a study states, by a name of its own: written for whoever computes it again."""
