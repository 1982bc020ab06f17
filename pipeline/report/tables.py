"""Tables as text, and their Markdown, LaTeX and CSV."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pandas as pd

from pipeline.statistics.accuracy import WORST

LATEX = {character: f"\\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "–": "--",
    "−": "$-$",
    "→": r"$\to$",
    "θ": r"$\theta$",
    "λ": r"$\lambda$",
    "ρ": r"$\rho$",
}
COLUMN, PAGE = 40, 115
"""Characters that LaTeX can print legibly next to the titles of rows, in a column of text and across the page."""


@dataclass(frozen=True)
class Cell:
    """A rounded mean or a text, its rounded deviation if there is one, and its rank: "best", "second" or ""."""

    mean: str
    deviation: str = ""
    mark: str = ""


Cells = tuple[Cell, ...]
Sections = tuple[tuple[str, tuple[tuple[str, Cells], ...]], ...]
"""(title of the section, its rows), a row being (title, cells)."""


@dataclass(frozen=True)
class Table:
    """A table as text, one cell per column; `words` are the columns of text.

    A section without a title has no heading.
    """

    caption: str
    columns: tuple[str, ...]
    sections: Sections
    head: str = "Method"
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Summary:
    """Mean, sample standard deviation (undefined for one run) and number of runs: rows are methods."""

    means: pd.DataFrame
    deviations: pd.DataFrame
    counts: pd.DataFrame

    def cell(self, method: str, name: str, decimals: int, mark: str = "") -> Cell:
        """Return the mean and deviation of a method in column `name`."""
        deviation = float(self.deviations[name][method])
        spread = f"{deviation:.{decimals}f}" if np.isfinite(deviation) else ""
        return Cell(format_number(float(self.means[name][method]), decimals), spread, mark)


def summarise(runs: pd.DataFrame) -> Summary:
    """Summarise every column over the runs of each method."""
    methods = runs.groupby("method", sort=False)
    return Summary(methods.mean(), methods.std(), methods.count())


def build_table(
    runs: pd.DataFrame,
    groups: Mapping[str, Sequence[str]],
    titles: Mapping[str, str],
    decimals: int,
    caption: str,
    keep: Sequence[str] = (),
) -> Table:
    """Build the table of `runs`; `groups` are titles of sections and their methods, the first one not ranked.

    The worst task is left out unless `keep` names it: it stands among the tasks.
    """
    columns, summary = tuple(str(name) for name in runs if name != WORST or name in keep), summarise(runs)
    ranked = [method for _, methods in list(groups.items())[1:] for method in methods]
    printed = summary.means.loc[ranked].map(lambda value: float(f"{value:.{decimals}f}"))
    marks = {name: ranks(printed[name]) for name in columns}
    rows = {
        method: (title, tuple(summary.cell(method, name, decimals, marks[name].get(method, "")) for name in columns))
        for method, title in titles.items()
        if method in summary.means.index
    }
    return Table(caption, columns, group_rows(groups, rows))


def group_rows(groups: Mapping[str, Sequence[str]], rows: Mapping[str, tuple[str, Cells]]) -> Sections:
    """Return the sections of a table whose rows are methods; empty ones are left out."""
    return tuple((title, tuple(rows[method] for method in methods)) for title, methods in groups.items() if methods)


def text_table(
    caption: str,
    head: str,
    columns: tuple[str, ...],
    sections: Mapping[str, Sequence[tuple[str, ...]]],
    words: tuple[str, ...] = (),
) -> Table:
    """Build a table of plain texts; the first text of each row is its title."""
    plain = tuple(
        (title, tuple((name, tuple(map(Cell, cells))) for name, *cells in rows)) for title, rows in sections.items()
    )
    return Table(caption, columns, plain, head, words)


def format_number(value: float, decimals: int, sign: str = "") -> str:
    """Return `value` as tables print it; sign: "+" for differences."""
    return f"{value:{sign}.{decimals}f}".replace("-", "−") if np.isfinite(value) else "–"


def ranks(values: pd.Series) -> dict[str, str]:
    """Rank the printed values, {method: "best" or "second"}: equal ones share a rank, and two bests leave no second."""
    places = values.rank(method="min", ascending=False)
    return {str(method): {1: "best", 2: "second"}[place] for method, place in places.items() if place in (1, 2)}


def markdown(table: Table) -> str:
    """Return the table as GitHub-flavoured Markdown, caption last."""
    wrap = {"best": "**{}**", "second": "<u>{}</u>", "": "{}"}

    def text(cell: Cell) -> str:
        return wrap[cell.mark].format(_markdown(cell.mean)) + (f" ± {cell.deviation}" if cell.deviation else "")

    sides = [":--" if name in table.words else "--:" for name in table.columns]
    lines = [[*map(_markdown, (table.head, *table.columns))], [":--", *sides]]
    for title, rows in table.sections:
        if title:
            lines.append([f"*{_markdown(title)}*", *[""] * len(table.columns)])
        lines += [[_markdown(name), *map(text, cells)] for name, cells in rows]
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{body}\n\n{_markdown(table.caption)}\n"


def bullets(sentences: Sequence[str]) -> str:
    """Return the sentences as a Markdown list; empty ones are left out."""
    return "".join(f"- {_markdown(sentence)}\n" for sentence in sentences if sentence)


def latex(table: Table, label: str) -> str:
    """Return the table as LaTeX floats, as wide as a column of text or, where that is too narrow, as the page.

    A table that is still wider is scaled down; columns that would not be legible then go into floats of their own.
    The document needs the packages booktabs and graphicx.
    """
    count, parts = len(table.columns), -(-_breadth(table) // PAGE)
    edges = [count * part // parts for part in range(parts + 1)]
    floats = [_float(_part(table, first, end), label, first > 0) for first, end in pairwise(edges)]
    return "\n".join(floats)


def _breadth(table: Table) -> int:
    """Count the characters of the widest line, its title apart."""
    lines = [[len(cell.mean + cell.deviation) for cell in cells] for _, rows in table.sections for _, cells in rows]
    return sum(map(max, zip(map(len, table.columns), *lines, strict=True))) + len(table.columns)


def _part(table: Table, first: int, end: int) -> Table:
    """Return the table with its columns first, ..., end - 1."""
    sections = tuple((title, tuple((name, cells[first:end]) for name, cells in rows)) for title, rows in table.sections)
    return replace(table, columns=table.columns[first:end], sections=sections)


def _float(table: Table, label: str, continued: bool) -> str:
    wrap = {"best": r"\textbf{{{}}}", "second": r"\underline{{{}}}", "": "{}"}

    def text(cell: Cell) -> str:
        deviation = rf" {{\scriptsize$\pm$\,{cell.deviation}}}" if cell.deviation else ""
        return wrap[cell.mark].format(escape(cell.mean)) + deviation

    width, body = len(table.columns), []
    for title, rows in table.sections:
        body.append(r"\midrule")
        if title:
            body.append(rf"\multicolumn{{{width + 1}}}{{l}}{{\emph{{{escape(title)}}}}} \\")
        body += [" & ".join([escape(name), *map(text, cells)]) + r" \\" for name, cells in rows]
    head = " & ".join([escape(table.head), *map(escape, table.columns)]) + r" \\"
    sides = "".join("l" if name in table.words else "r" for name in table.columns)
    kind = "table*" if _breadth(table) > COLUMN else "table"
    named = [rf"\caption{{{escape(table.caption)}}}", rf"\label{{tab:{label}}}"]
    lines = [rf"\begin{{{kind}}}", r"\centering", r"\setlength{\belowcaptionskip}{6pt}"]
    lines += [r"\addtocounter{table}{-1}", r"\caption{(continued)}"] if continued else named
    lines += [r"\setlength{\tabcolsep}{3pt}", r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"]
    lines += [rf"\begin{{tabular}}{{l{sides}}}", r"\toprule", head, *body, r"\bottomrule", r"\end{tabular}}"]
    return "\n".join([*lines, rf"\end{{{kind}}}", ""])


def escape(text: str) -> str:
    """Escape `text` for LaTeX."""
    return "".join(LATEX.get(character, character) for character in text)


def _markdown(text: str) -> str:
    return re.sub(r"([\\|*_<>`\[\]])", r"\\\1", text)
