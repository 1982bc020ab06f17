"""README.md and docs/: generated blocks are their files' text, and the numbers of prose stand where they come from."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from pipeline.audit.evidence import Evidence, integers
from pipeline.audit.finding import Finding, Tally
from pipeline.audit.images import tasks_of
from pipeline.audit.known import RESCALED, know
from pipeline.audit.printed import agrees, markdown, plain

DIGITS = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?")
MARKED = re.compile(r"<!-- (\w+) -->\n(.*?)<!-- /\1 -->", re.DOTALL)
CHOSEN = re.compile(r"(\d+) unlabelled images (?:per task find|choose)")
BLOCKS = ("headline", "results", "studies", "performance", "methods")
POINTS = ("What we found", "What the studies say")
"""Sections whose numbered points end with what their numbers are from, `*Results*` or `*Ablation, Flatness*`."""
RESULTS = "Results"
"""What a point cites for the sentences on the results, and the rows of the methods that it names."""
COLUMNS = ("Method", "Average", "Normalised", "Gap closed", "Images")
HEADLINE = (
    "Zero-shot", "Individual experts", "Simple average", "Task arithmetic", "TSV-M", "AdaMerging", "Distillation",
    "SAMerging",
)  # fmt: skip


@dataclass(frozen=True)
class Document:
    """A page: its text without generated blocks, and (name, content) of these."""

    path: str
    prose: str
    blocks: tuple[tuple[str, str], ...]


def check(evidence: Evidence, widest: Evidence, suites: list[str]) -> Finding:
    """Blocks, scales and points of every document of the current run; `widest`: the run whose table they show."""
    tally, documents = Tally("documents", "generated blocks and numbers of prose"), [*_documents(evidence)]
    if not documents:
        tally.absent.append("README.md, docs")
        return tally.finding()
    shown = [(one.path, name, content) for one in documents for name, content in one.blocks]
    for name in BLOCKS:
        places = [path for path, block, _ in shown if block == name]
        tally.expect(len(places) == 1, f"the block {name} stands in {', '.join(places) or 'no document'}, not in one")
    contents = {name: (f"{path}, {name}", content) for path, name, content in shown}
    tally.expect(contents.keys() <= {*BLOCKS}, f"nothing makes the blocks {', '.join(contents.keys() - {*BLOCKS})}")
    results, cited = contents.get("results", ("", ""))[1], {}
    tables: list[str] = []
    for suite in [name for name in suites if f"Suite {name}:" in results] or suites[:1]:
        parts = [widest.text(f"reports/tables/{suite}-{name}.md") for name in ("overview", "sentences")]
        if None in parts:
            tally.absent.append(f"reports/tables/{suite}-overview.md, {suite}-sentences.md")
        else:
            _same(tally, contents.get("results"), "\n".join(parts))
            _headline(tally, contents.get("headline"), parts[0])
            tables.append(parts[0])
            cited[RESULTS] = cited.get(RESULTS, "") + plain(parts[1])
        studied = evidence.text(f"reports/studies/{suite}/sentences.md")
        _scales(tally, widest, suite, documents)
        if studied is None:
            tally.absent.append(f"points on the studies of {suite}")
        else:
            _same(tally, contents.get("studies"), studied)
            cited |= dict(re.findall(r"^### (.*)\n([^#]*)", plain(studied), re.MULTILINE))
    for one in documents:
        _points(tally, one, cited, tables)
    tally.absent.append("numbers of prose on other things than scales, results and studies")
    _generated(tally, evidence, contents)
    return tally.finding()


def _documents(evidence: Evidence) -> Iterator[Document]:
    pages = sorted(path.name for path in (evidence.root / "docs").glob("*.md"))
    for path in ("README.md", *(f"docs/{name}" for name in pages)):
        text = evidence.text(path)
        if text is not None:
            yield Document(path, MARKED.sub("", text), tuple(MARKED.findall(text)))


def _same(tally: Tally, shown: tuple[str, str] | None, made: str) -> None:
    """A generated block, (where it stands, its content), has the lines of what it was made from."""
    if shown is None:
        return
    where, content = shown
    lines, said = made.strip().splitlines(), content.strip().splitlines()
    for index in range(max(len(lines), len(said))):
        own, line = (part[index] if index < len(part) else "" for part in (lines, said))
        tally.expect(own == line, f"{where}: {_difference(line, own)}")


def _headline(tally: Tally, shown: tuple[str, str] | None, overview: str) -> None:
    """The block is a table, whose rows are those of HEADLINE that the overview has, cell by cell."""
    if shown is None:
        return
    (where, content), (whole,) = shown, markdown(overview)
    tables, lines = markdown(content), content.strip().splitlines()
    alone = len(tables) == 1 and all(line.startswith("|") for line in lines)
    tally.expect(alone and tables[0].columns == COLUMNS, f"{where}: it is not one table of {', '.join(COLUMNS)}")
    own = {name: dict(zip(whole.columns[1:], cells, strict=True)) for _, name, cells in whole.rows}
    rows = [(name, cells) for table in tables for _, name, cells in table.rows]
    expected = [title for title in HEADLINE if title in own]
    tally.expect([name for name, _ in rows] == expected, f"{where}: its rows are not {', '.join(expected)}")
    for name, cells in rows:
        for column, cell in zip(COLUMNS[1:], cells, strict=False):
            said = own[name][column].text if name in own and column in own[name] else "nothing"
            tally.expect(cell.text == said, f"{where}: {name}, {column} {cell.text}, the report has {said}")


def _difference(said: str, own: str) -> str:
    """Where two lines part."""
    same = next((index for index, pair in enumerate(zip(said, own, strict=False)) if len({*pair}) > 1), 0)
    return f"“{said[max(0, same - 30) : same + 20]}”, the report has “{own[max(0, same - 30) : same + 20]}”"


def _scales(tally: Tally, evidence: Evidence, suite: str, documents: list[Document]) -> None:
    """`<method> 57.3 → 81.3`: the average, and that with the scale chosen without labels; and on how many images."""
    prose = {one.path: re.sub(r"\s+", " ", one.prose) for one in documents}
    for path, said in ((path, said) for path, text in prose.items() for said in CHOSEN.findall(text)):
        used = evidence.yaml("params.yaml")["rescale"]["samples"]
        tally.expect(said == str(used), f"{path}: scales chosen on {said} images, rescale.samples is {used}")
    scores = integers(evidence, suite)
    if scores is None:
        return
    known = know(evidence, suite, tuple(tasks_of(evidence, suite)), scores)
    for title, method in known.titles.items():
        pattern = re.compile(rf"(?<![\w-]){re.escape(title)} (\d+\.\d+) → (\d+\.\d+)")
        for path, pair in ((path, pair) for path, text in prose.items() for pair in pattern.findall(text)):
            values = [known.values[name]["Average"].mean for name in (method, f"{method}{RESCALED}")]
            right = all(agrees(said, value) for said, value in zip(pair, values, strict=True))
            made = "the scores give {:.2f}, {:.2f}".format(*values)
            tally.expect(right, f"{path}: {title} {' → '.join(pair)}, {made}")


def _points(tally: Tally, document: Document, cited: Mapping[str, str], tables: list[str]) -> None:
    """Every number of a point stands in what the point cites; the text is not searched for what it should cite."""
    for title in POINTS:
        for text in re.findall(rf"^#+ {title}\n(.*?)(?=^#|\Z)", document.prose, re.MULTILINE | re.DOTALL):
            for point in re.findall(r"^\d+\. ((?:.+\n)+?)(?=\d+\. |\n)", f"{text}\n\n", re.MULTILINE):
                _point(tally, document.path, re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", point), cited, tables)


def _point(tally: Tally, path: str, point: str, cited: Mapping[str, str], tables: list[str]) -> None:
    flat = re.sub(r"\s+", " ", point).strip()
    said, _, parts = flat.rstrip("*").rpartition(" *")
    names = parts.split(", ")
    if not {*names} <= {*cited} and {*cited} <= {RESULTS}:  # no study is at hand
        return
    tally.expect({*names} <= {*cited}, f"{path}: “{flat[:40]}…” names no part of the studies: {parts}")
    known = {number for name in names for number in DIGITS.findall(cited.get(name, ""))}
    if RESULTS in names:
        rows = [row for text in tables for table in markdown(text) for row in table.rows]
        cells = [cell.text for _, name, found in rows if name in said for cell in found]
        known |= {*DIGITS.findall(" ".join(cells))}
    for number in DIGITS.findall(CHOSEN.sub("", said)):
        tally.expect(number in known, f"{path}: {number} in “{flat[:40]}…” is not in the sentences on {parts}")


def _generated(tally: Tally, evidence: Evidence, contents: Mapping[str, tuple[str, str]]) -> None:
    """The blocks on speed and methods are what benchmarks/readme.py makes of benchmarks/results and the methods."""
    results = evidence.root / "benchmarks/results"
    if not results.is_dir():
        return
    try:
        generator = import_module("benchmarks.readme")
    except ImportError as error:
        tally.absent.append(f"the blocks on performance and methods (their generator needs {error.name})")
        return
    _same(tally, contents.get("performance"), generator.performance(results))
    _same(tally, contents.get("methods"), generator.methods(evidence.root))
    for path in sorted(results.glob("*.json")):
        for where, one in _spreads(json.loads(path.read_text("utf-8"))):
            ordered = one["min"] <= one["median"] <= one["max"]
            tally.expect(ordered, f"{path.name}: {where}: median {one['median']} is not within its range")
    tally.absent.append("measurements of speed (benchmarks/results is held by no lock)")


def _spreads(content: Any, where: str = "") -> Iterator[tuple[str, Mapping[str, float]]]:
    """Every median with its range, and where it stands."""
    if isinstance(content, dict) and {"min", "median", "max"} <= content.keys():
        yield where, content
    elif isinstance(content, dict):
        for name, one in content.items():
            yield from _spreads(one, f"{where} {name}".strip())
