"""Tables as text, and what they look like in Markdown and LaTeX."""

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
"""Characters beside the titles of rows that LaTeX can print legibly in a column of text, and across the page."""


@dataclass(frozen=True)
class Cell:
    """A rounded mean, its rounded deviation ("" where there is none), and its rank: "best", "second" or ""."""

    mean: str
    deviation: str
    mark: str


@dataclass(frozen=True)
class Table:
    """A table as text: sections of rows (title, cells), one cell per column; `words` are the columns of text.

    A section without a title has no heading.
    """

    caption: str
    columns: tuple[str, ...]
    sections: tuple[tuple[str, tuple[tuple[str, tuple[Cell, ...]], ...]], ...]
    head: str = "Method"
    words: tuple[str, ...] = ()


def statistics(runs: pd.DataFrame, by: Sequence[str] = ("method",)) -> pd.DataFrame:
    """Mean, sample standard deviation (undefined for one run) and number of runs of every column."""
    return runs.groupby(list(by), sort=False).agg(["mean", "std", "count"])


def build(
    runs: pd.DataFrame,
    groups: Mapping[str, Sequence[str]],
    titles: Mapping[str, str],
    decimals: int,
    caption: str,
    keep: Sequence[str] = (),
) -> Table:
    """The table of `runs`; `groups` are titles of sections and their methods, the first one not ranked.

    The worst task is left out where it is not in `keep`: it stands among the tasks.
    """
    columns, found = tuple(name for name in runs if name != WORST or name in keep), statistics(runs)
    ranked = [method for _, methods in list(groups.items())[1:] for method in methods]
    printed = found.xs("mean", axis=1, level=1).loc[ranked].map(lambda value: float(f"{value:.{decimals}f}"))
    marks = {name: ranks(printed[name]) for name in columns}

    def cell(method: str, name: str) -> Cell:
        mean, deviation, _ = found.loc[method, name]
        spread = f"{deviation:.{decimals}f}" if np.isfinite(deviation) else ""
        return Cell(number(mean, decimals), spread, marks[name].get(method, ""))

    return Table(
        caption,
        columns,
        tuple(
            (title, tuple((titles[method], tuple(cell(method, name) for name in columns)) for method in methods))
            for title, methods in groups.items()
            if methods
        ),
    )


def texts(
    caption: str,
    head: str,
    columns: tuple[str, ...],
    sections: Mapping[str, Sequence[tuple[str, ...]]],
    words: tuple[str, ...] = (),
) -> Table:
    """A table of plain texts; the first of each row is its title."""
    plain = tuple(
        (title, tuple((name, tuple(Cell(text, "", "") for text in cells)) for name, *cells in rows))
        for title, rows in sections.items()
    )
    return Table(caption, columns, plain, head, words)


def number(value: float, decimals: int, sign: str = "") -> str:
    """`value` as tables print it; `sign`: "+" for differences."""
    return f"{value:{sign}.{decimals}f}".replace("-", "−") if np.isfinite(value) else "–"


def ranks(values: pd.Series) -> dict[str, str]:
    """{method: "best" or "second"} of the printed values: equal ones share a rank, and two bests leave no second."""
    places = values.rank(method="min", ascending=False)
    return {str(method): {1: "best", 2: "second"}[place] for method, place in places.items() if place in (1, 2)}


def markdown(table: Table) -> str:
    """The table as GitHub-flavoured Markdown, caption last."""
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
    """The sentences as a Markdown list; empty ones are left out."""
    return "".join(f"- {_markdown(sentence)}\n" for sentence in sentences if sentence)


def latex(table: Table, label: str) -> str:
    """Floats that need the packages booktabs and graphicx: a column of text wide, or the page where the table is wider.

    What is still wider is scaled down; columns that would not be legible then go into floats of their own.
    """
    count, parts = len(table.columns), -(-_breadth(table) // PAGE)
    edges = [count * part // parts for part in range(parts + 1)]
    floats = [_float(_part(table, first, end), label, first > 0) for first, end in pairwise(edges)]
    return "\n".join(floats)


def _breadth(table: Table) -> int:
    """Characters of a line beside its title."""
    lines = [[len(cell.mean + cell.deviation) for cell in cells] for _, rows in table.sections for _, cells in rows]
    return sum(map(max, zip(map(len, table.columns), *lines, strict=True))) + len(table.columns)


def _part(table: Table, first: int, end: int) -> Table:
    """The table with the columns from `first` to before `end`."""
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
    """`text` as LaTeX shows it."""
    return "".join(LATEX.get(character, character) for character in text)


def _markdown(text: str) -> str:
    return re.sub(r"([\\|*_<>`\[\]])", r"\\\1", text)


def csv(frame: pd.DataFrame, digits: int = 6) -> str:
    """The rows with so many significant digits; empty where undefined."""
    return frame.to_csv(index=False, float_format=f"%.{digits}g", lineterminator="\n")
