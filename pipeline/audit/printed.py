"""Printed tables -> cells: what a reader of the Markdown, LaTeX or HTML sees, as text and as numbers."""

import math
import re
from dataclasses import dataclass
from html.parser import HTMLParser

NUMBER = re.compile(r"[+-]?\d[\d,]*(?:\.\d+)?(?:e[+-]\d+)?")


@dataclass(frozen=True)
class Cell:
    """One cell: its text without marks, and its rank ("best", "second" or "")."""

    text: str
    mark: str = ""

    @property
    def mean(self) -> str:
        """The number before ±; – if undefined."""
        return self.text.partition("±")[0].strip()

    @property
    def deviation(self) -> str:
        """The number after ±; empty if there is none."""
        return self.text.partition("±")[2].strip()


@dataclass(frozen=True)
class Grid:
    """A table: its columns (the first is the rows' names) and (section, name, cells) of every row."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, str, tuple[Cell, ...]], ...]


def agrees(printed: str, value: float, significant: int = 0) -> bool:
    """Whether `printed` is `value` rounded to the digits that it shows, or to a number of significant digits.

    – and "" stand for an undefined value.
    """
    text = bare(printed)
    if text in {"", "–"} or math.isnan(value):
        return text in {"", "–"} and math.isnan(value)
    if not NUMBER.fullmatch(text):
        return False
    step = 10.0 ** (math.floor(math.log10(abs(value))) - significant + 1) if significant and value else last(text)
    return abs(float(text) - value) <= 0.5 * step * (1 + 1e-6) + 1e-9


def bare(printed: str) -> str:
    """A number as Python reads it."""
    return printed.replace(",", "").replace("−", "-").strip()


def last(text: str) -> float:
    """What one more is in the last digit of a number."""
    digits, _, power = text.partition("e")
    return 10.0 ** (int(power or 0) - len(digits.partition(".")[2]))


def markdown(text: str) -> list[Grid]:
    """Every table of a Markdown text."""
    blocks: list[list[str]] = [[]]
    for line in text.splitlines():
        if line.startswith("|"):
            blocks[-1].append(line)
        elif blocks[-1]:
            blocks.append([])
    return [_grid([[_markdown(cell) for cell in _split(line)] for line in block]) for block in blocks if len(block) > 2]


def plain(text: str) -> str:
    """Markdown without its escapes."""
    return re.sub(r"\\([\\|*_<>`\[\]])", r"\1", text)


def latex(text: str) -> list[Grid]:
    """Every tabular of a LaTeX text whose rules are booktabs'."""
    found = []
    for body in re.findall(r"\\toprule(.*?)\\bottomrule", text, re.DOTALL):
        lines = [line.strip() for line in re.sub(r"\\(midrule|cmidrule\S*)", "", body).split("\\\\")]
        rows = [[_latex(cell) for cell in re.split(r"(?<!\\)&", line)] for line in lines if line]
        found.append(_grid([rows[0], [], *rows[1:]]))
    return found


def html(text: str) -> list[Grid]:
    """Every table of a page whose first row is a head."""
    reader = _Reader()
    reader.feed(text)
    return [_grid([rows[0], [], *rows[1:]]) for rows in reader.tables if rows]


def _grid(rows: list[list[Cell]]) -> Grid:
    """Head, a row of no meaning, rows; a row whose further cells are empty or missing opens a section."""
    head, _, *body = rows
    section, found = "", []
    for name, *cells in body:
        if any(cell.text for cell in cells):
            found.append((section, name.text, tuple(cells)))
        else:
            section = name.text
    return Grid(tuple(cell.text for cell in head), tuple(found))


def _split(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]]


def _markdown(cell: str) -> Cell:
    mark = "best" if cell.startswith("**") else "second" if cell.startswith("<u>") else ""
    bare = re.sub(r"</?u>|(?<!\\)\*", "", cell)
    return Cell(plain(bare).strip(), mark)


LATEX = {
    r"\textbackslash{}": "\\",
    r"\textasciitilde{}": "~",
    r"\textasciicircum{}": "^",
    r"\textless{}": "<",
    r"\textgreater{}": ">",
    r"\textbar{}": "|",
    r"$\pm$": "±",
    r"$\times$": "×",
    "$-$": "−",
    r"$\to$": "→",
    r"$\theta$": "θ",
    r"$\lambda$": "λ",
    r"$\rho$": "ρ",
    "--": "–",
    "\\,": " ",
}


def _latex(cell: str) -> Cell:
    text = cell.strip()
    mark = "best" if text.startswith(r"\textbf") else "second" if text.startswith(r"\underline") else ""
    for written, meant in LATEX.items():
        text = text.replace(written, meant)
    text = re.sub(r"\\multicolumn\{\d+\}\{[^}]*\}", "", text)
    text = re.sub(r"\\(textbf|underline|emph|scriptsize|textit|small|footnotesize)(?![a-z])", "", text)
    text = re.sub(r"(?<!\\)[{}]", "", text)
    return Cell(re.sub(r"\s+", " ", re.sub(r"\\([&%$#_{}])", r"\1", text)).strip(), mark)


class _Reader(HTMLParser):
    """Rows of cells of every table."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: list[list[list[Cell]]] = []
        self._text: list[str] | None = None
        self._mark = ""

    def handle_starttag(self, tag: str, _: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self.tables.append([])
        elif tag == "tr" and self.tables:
            self.tables[-1].append([])
        elif tag in {"td", "th"}:
            self._text, self._mark = [], ""
        elif tag in {"b", "u"}:
            self._mark = {"b": "best", "u": "second"}[tag]

    def handle_endtag(self, tag: str) -> None:
        if tag in {"td", "th"} and self._text is not None:
            self.tables[-1][-1].append(Cell(re.sub(r"\s+", " ", "".join(self._text)).strip(), self._mark))
            self._text = None

    def handle_data(self, data: str) -> None:
        if self._text is not None:
            self._text.append(data)
