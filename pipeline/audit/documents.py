"""README.md and docs/: generated blocks are what is generated, and the numbers of prose stand where they come from."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from pipeline.audit.arithmetic import agrees, know
from pipeline.audit.finding import Finding, Tally
from pipeline.audit.images import tasks_of
from pipeline.audit.repository import Repository, integers

DIGITS = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?")
MARKED = re.compile(r"<!-- (\w+) -->\n(.*?)<!-- /\1 -->", re.DOTALL)
CHOSEN = re.compile(r"(\d+) unlabelled images (?:per task find|choose)")
ESCAPED = re.compile(r"\\([\\|*_<>`\[\]])")
POINTS = ("What we found", "What the studies say")
"""Sections whose numbered points end with what their numbers are from, `*Results*` or `*Ablation, Flatness*`."""
RESULTS = "Results"
"""What a point cites for the sentences on the results, and for the rows of the methods that it names."""
RESCALED = "-rescaled"


@dataclass(frozen=True)
class Document:
    """A page: its text without generated blocks, and {name: content} of these."""

    path: str
    prose: str
    blocks: tuple[tuple[str, str], ...]


def check(repository: Repository, widest: Repository, suites: list[str]) -> Finding:
    """Blocks, scales and points of every document; `widest`: the run of every method, whose table they show."""
    tally, documents = Tally("documents", "generated blocks and numbers of prose"), [*_documents(repository)]
    if not documents:
        tally.absent.append("README.md, docs")
        return tally.finding()
    _blocks(tally, repository, documents)
    cited: dict[str, str] = {}
    rows: dict[str, str] = {}
    for suite in suites[:1]:
        overview, sentences = (widest.text(f"reports/tables/{suite}-{name}.md") for name in ("overview", "sentences"))
        if overview is None or sentences is None:
            tally.absent.append(f"reports/tables/{suite}-overview.md, {suite}-sentences.md")
        else:
            cited[RESULTS] = ESCAPED.sub(r"\1", sentences)
            rows = {line.split("|")[1].strip(): line for line in overview.splitlines() if line[:1] == "|"}
        studied = repository.text(f"reports/studies/{suite}/sentences.md")
        if studied is None:
            tally.absent.append(f"points on the studies of {suite}")
        else:
            cited |= dict(re.findall(r"^### (.*)\n([^#]*)", ESCAPED.sub(r"\1", studied), re.MULTILINE))
        _scales(tally, widest, suite, documents)
    for document in documents:
        _points(tally, document, cited, rows)
    tally.absent.append("numbers of prose on other things than scales, results and studies")
    _speed(tally, repository)
    return tally.finding()


def _documents(repository: Repository) -> Iterator[Document]:
    pages = sorted(path.name for path in (repository.root / "docs").glob("*.md"))
    for path in ("README.md", *(f"docs/{name}" for name in pages)):
        text = repository.text(path)
        if text is not None:
            yield Document(path, MARKED.sub("", text), tuple(MARKED.findall(text)))


def _blocks(tally: Tally, repository: Repository, documents: list[Document]) -> None:
    """Every block stands in one document, with the lines that its generator gives."""
    try:
        made = import_module("benchmarks.readme").blocks(repository.root)
    except ImportError as error:
        tally.absent.append(f"generated blocks (their generator needs {error.name})")
        return
    except OSError as error:
        tally.expect(False, f"blocks cannot be generated: {error}")
        return
    places: dict[str, list[str]] = {name: [] for name in made}
    for document in documents:
        for name, content in document.blocks:
            places.setdefault(name, []).append(document.path)
            lines, shown = made.get(name, "").strip().splitlines(), content.strip().splitlines()
            for index in range(max(len(lines), len(shown)) if name in made else 0):
                given, line = (part[index] if index < len(part) else "" for part in (lines, shown))
                tally.expect(given == line, f"{document.path}, {name}: {_difference(line, given)}")
    for name, paths in places.items():
        if name in made:
            stands = f"the block {name} stands in {', '.join(paths) or 'no document'}, not in one"
            tally.expect(len(paths) == 1, stands)
        else:
            tally.expect(False, f"{paths[0]}: nothing makes the block {name}")


def _difference(shown: str, made: str) -> str:
    """Where two lines part."""
    pairs = enumerate(zip(shown, made, strict=False))
    place = next((index for index, pair in pairs if len({*pair}) > 1), min(len(shown), len(made)))
    return "“{}”, the report has “{}”".format(*(line[max(0, place - 30) : place + 20] for line in (shown, made)))


def _scales(tally: Tally, repository: Repository, suite: str, documents: list[Document]) -> None:
    """`<method> 57.3 → 81.3`: the average, and that with the scale chosen without labels; and on how many images."""
    prose = {document.path: re.sub(r"\s+", " ", document.prose) for document in documents}
    used = str(repository.yaml("params.yaml")["rescale"]["samples"])
    for path, text in prose.items():
        for images in CHOSEN.findall(text):
            tally.expect(images == used, f"{path}: scales chosen on {images} images, rescale.samples is {used}")
    scores, table = integers(repository, suite), repository.table(f"reports/tables/{suite}.csv")
    if scores is None or table is None:
        return
    accuracies = know(scores, tasks_of(repository, suite)).accuracies
    for title, method in zip(table.title, table.method, strict=True):
        pattern = re.compile(rf"(?<![\w-]){re.escape(title)} (\d+\.\d+) → (\d+\.\d+)")
        for path, pair in ((path, pair) for path, text in prose.items() for pair in pattern.findall(text)):
            values = [accuracies[name].mean() for name in (method, f"{method}{RESCALED}")]
            right = all(agrees(shown, value) for shown, value in zip(pair, values, strict=True))
            made = "the scores give {:.2f}, {:.2f}".format(*values)
            tally.expect(right, f"{path}: {title} {' → '.join(pair)}, {made}")


def _points(tally: Tally, document: Document, cited: Mapping[str, str], rows: Mapping[str, str]) -> None:
    """Every number of a point stands in what the point cites."""
    for title in POINTS:
        for text in re.findall(rf"^#+ {title}\n(.*?)(?=^#|\Z)", document.prose, re.MULTILINE | re.DOTALL):
            for point in re.findall(r"^\d+\. ((?:.+\n)+?)(?=\d+\. |\n)", f"{text}\n\n", re.MULTILINE):
                flat = re.sub(r"\s+", " ", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", point)).strip()
                _point(tally, document.path, flat, cited, rows)


def _point(tally: Tally, path: str, flat: str, cited: Mapping[str, str], rows: Mapping[str, str]) -> None:
    claim, _, parts = flat.rstrip("*").rpartition(" *")
    names = parts.split(", ")
    if not {*names} <= {*cited} and {*cited} <= {RESULTS}:  # there are no studies
        return
    tally.expect({*names} <= {*cited}, f"{path}: “{flat[:40]}…” names no part of the studies: {parts}")
    known = {number for name in names for number in DIGITS.findall(cited.get(name, ""))}
    if RESULTS in names:
        known |= {number for title, row in rows.items() if title in claim for number in DIGITS.findall(row)}
    for number in DIGITS.findall(CHOSEN.sub("", claim)):
        tally.expect(number in known, f"{path}: {number} in “{flat[:40]}…” is not in the sentences on {parts}")


def _speed(tally: Tally, repository: Repository) -> None:
    """Every median of benchmarks/results lies within its range."""
    for path in sorted((repository.root / "benchmarks/results").glob("*.json")):
        for where, spread in _spreads(json.loads(path.read_text("utf-8"))):
            ordered = spread["min"] <= spread["median"] <= spread["max"]
            tally.expect(ordered, f"{path.name}: {where}: median {spread['median']} is not within its range")
    tally.absent.append("measurements of speed (benchmarks/results is held by no lock)")


def _spreads(content: Any, where: str = "") -> Iterator[tuple[str, Mapping[str, float]]]:
    """Every median with its range, and where it stands."""
    if isinstance(content, dict) and {"min", "median", "max"} <= content.keys():
        yield where, content
    elif isinstance(content, dict):
        for name, part in content.items():
            yield from _spreads(part, f"{where} {name}".strip())
