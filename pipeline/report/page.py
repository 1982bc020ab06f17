"""Blocks of text, tables and figures -> one HTML page that requests nothing but the data it links to.

The template, its style and its script lie in `templates`. The page carries both, and a policy by which browsers refuse
every other script and every request.
"""

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from pipeline.report.tables import Table

TEMPLATES = tuple(Path(__file__).parent / "templates" / name for name in ("page.html", "page.css", "page.js"))
ARXIV = re.compile(r"arXiv (\d{4}\.\d{4,5})")
WIDE = 9
"""Columns beyond which a table is printed on a landscape page."""


@dataclass(frozen=True)
class Link:
    """A link; `href` is relative to the page."""

    text: str
    href: str


@dataclass(frozen=True)
class Prose:
    """Paragraphs, then bullets; with a title it is listed in the contents."""

    paragraphs: tuple[str, ...] = ()
    bullets: tuple[str, ...] = ()
    title: str = ""
    id: str = ""
    links: tuple[Link, ...] = ()


@dataclass(frozen=True)
class Grid:
    """A table that readers can sort, with its caption; `rows`: where the titles of rows lead."""

    id: str
    title: str
    table: Table
    links: tuple[Link, ...] = ()
    rows: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Figure:
    """A drawing; `svg`: an element that `pipeline.report.figures.inline` made, trusted as it is."""

    id: str
    title: str
    svg: str
    caption: str
    links: tuple[Link, ...] = ()


@dataclass(frozen=True)
class MethodEntry:
    """A method in the list of references: its title, the name of its file, its paper, a note."""

    id: str
    title: str
    name: str
    source: str
    note: str = ""


@dataclass(frozen=True)
class Entries:
    """A list of references."""

    entries: tuple[MethodEntry, ...]
    title: str = ""


@dataclass(frozen=True)
class Fold:
    """Blocks that are hidden until the reader opens them."""

    id: str
    title: str
    blocks: tuple["Block", ...]


Block = Prose | Grid | Figure | Entries | Fold


@dataclass(frozen=True)
class Section:
    """Blocks under a heading; those with a title are listed in the contents."""

    id: str
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Page:
    """A page; `links` lead to its sister pages, `lead` stands above the first section."""

    title: str
    lead: tuple[Block, ...]
    sections: tuple[Section, ...]
    links: tuple[Link, ...] = ()


def render_page(page: Page) -> str:
    """Render the page as HTML; all text is escaped, every "arXiv 1234.56789" in it becomes a link."""
    layout, style, script = (path.read_text("utf-8") for path in TEMPLATES)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"cite": cite, "kind": lambda block: type(block).__name__, "spread": _spread}
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    return environment.from_string(layout, {"WIDE": WIDE}).render(
        page=page, style=Markup(style), script=Markup(script), policy=policy
    )


def cite(text: str) -> Markup:
    """Escape `text` and link its papers on arXiv."""
    return Markup(ARXIV.sub(r'<a href="https://arxiv.org/abs/\1">arXiv \1</a>', str(escape(text))))


def _spread(table: Table) -> set[int]:
    """Find the columns in which some cell has a deviation: there all means are aligned."""
    rows = (cells for _, rows in table.sections for _, cells in rows)
    return {index for cells in rows for index, cell in enumerate(cells) if cell.deviation}
