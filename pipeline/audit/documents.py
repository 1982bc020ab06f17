"""README.md and docs/: generated blocks are what is generated, and the numbers of prose stand where they come from."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from itertools import zip_longest
from typing import Any

from pipeline.audit.arithmetic import derive_accuracies
from pipeline.audit.finding import Finding, agrees, first_difference
from pipeline.audit.repository import Repository
from pipeline.audit.suite import AuditedSuite

NUMBER = re.compile(r"(?:(?<![\w.])([+-]))?(\d+(?:,\d{3})*(?:\.\d+)?)")
"""A number, and its sign if it has one."""
MARKED = re.compile(r"<!-- (\w+) -->\n(.*?)<!-- /\1 -->", re.DOTALL)
CHOSEN = re.compile(r"(\d+) unlabelled examples (?:per task find|choose)")
ESCAPED = re.compile(r"\\([\\|*_<>`\[\]])")
POINTS = ("What we found", "What the studies say", "Questions and answers")
"""Sections whose numbered points end with what their numbers are from, `*Results*` or `*Ablation, Flatness*`."""
RESULTS = {"Results": "methods", "Text": "text", "Low-rank experts": "lora", "Language models": "language"}
"""What a point cites for a run's sentences, and for the rows of the methods that it names; `Text: Ablation` for a study
of a run that is kept beside the default one."""
RESCALED = "-rescaled"


@dataclass(frozen=True)
class MarkedPage:
    """A page: its text without generated blocks, and (name, content) of each block."""

    path: str
    prose: str
    blocks: tuple[tuple[str, str], ...]


def check(repository: Repository, runs: Mapping[str, Repository]) -> Finding:
    """Check blocks, scales and points of every document; `runs`: those kept beside the default one, which they cite."""
    finding, documents = Finding("documents", "generated blocks and numbers of prose"), [*_documents(repository)]
    if not documents:
        return finding.skip("README.md, docs")
    _check_blocks(finding, repository, documents)
    cited: dict[str, str] = {}
    rows: dict[str, dict[str, str]] = {}
    for part, run in RESULTS.items():
        if run not in runs and run != "methods":
            finding.skip(f"reports/{run}")
            continue
        shown = runs.get(run, repository)
        name = shown.suites[0]
        overview, sentences = (shown.text(f"reports/tables/{name}-{part}.md") for part in ("overview", "sentences"))
        if overview is None or sentences is None:
            finding.skip(f"reports/tables/{name}-overview.md, {name}-sentences.md")
        else:
            cited[part] = ESCAPED.sub(r"\1", sentences)
            rows[part] = {line.split("|")[1].strip(): line for line in overview.splitlines() if line[:1] == "|"}
        if run in runs:
            cited |= {f"{part}: {title}": text for title, text in _read_studies(shown).items()}
    cited |= (studies := _read_studies(repository))
    if not studies:
        finding.skip(f"points on the studies of {repository.suites[0]}")
    for name in repository.suites[:1]:
        _check_scales(finding, AuditedSuite(runs.get("methods", repository), name), documents)
    for document in documents:
        _check_points(finding, document, cited, rows)
    finding.skip("numbers of prose on other things than scales, results and studies")
    _check_speed(finding, repository)
    return finding


def _read_studies(repository: Repository) -> dict[str, str]:
    """Return {title: sentences} of every study of the first suite."""
    text = repository.text(f"reports/studies/{repository.suites[0]}/sentences.md") or ""
    return dict(re.findall(r"^### (.*)\n([^#]*)", ESCAPED.sub(r"\1", text), re.MULTILINE))


def _documents(repository: Repository) -> Iterator[MarkedPage]:
    pages = sorted(path.name for path in (repository.root / "docs").glob("*.md"))
    for path in ("README.md", *(f"docs/{name}" for name in pages)):
        text = repository.text(path)
        if text is not None:
            yield MarkedPage(path, MARKED.sub("", text), tuple(MARKED.findall(text)))


def _check_blocks(finding: Finding, repository: Repository, documents: list[MarkedPage]) -> None:
    """Check that every block stands in one document, with the lines that its generator gives."""
    try:
        generated = import_module("benchmarks.readme").blocks(repository.root)
    except ImportError as error:
        finding.skip(f"generated blocks (their generator needs {error.name})")
        return
    except OSError as error:
        finding.expect(False, f"blocks cannot be generated: {error}")
        return
    places: dict[str, list[str]] = {name: [] for name in generated}
    for document in documents:
        for name, content in document.blocks:
            places.setdefault(name, []).append(document.path)
            if name in generated:
                lines = zip_longest(generated[name].strip().splitlines(), content.strip().splitlines(), fillvalue="")
                for expected, line in lines:
                    finding.expect(expected == line, f"{document.path}, {name}: {_difference(line, expected)}")
    for name, paths in places.items():
        if name in generated:
            complaint = f"the block {name} stands in {', '.join(paths) or 'no document'}, not in one"
            finding.expect(len(paths) == 1, complaint)
        else:
            finding.expect(False, f"{paths[0]}: nothing makes the block {name}")


def _difference(line: str, expected: str) -> str:
    """Return both lines around the place where they part."""
    place = first_difference(line, expected)
    return "“{}”, the report has “{}”".format(*(text[max(0, place - 30) : place + 20] for text in (line, expected)))


def _check_scales(finding: Finding, suite: AuditedSuite, documents: list[MarkedPage]) -> None:
    """Check `<method> 57.3 → 81.3`, the averages without and with the scale, and on how many examples it was chosen."""
    prose = {document.path: re.sub(r"\s+", " ", document.prose) for document in documents}
    used = str(suite.repository.params["rescale"]["samples"])
    for path, text in prose.items():
        for examples in CHOSEN.findall(text):
            finding.expect(examples == used, f"{path}: scales chosen on {examples} examples, rescale.samples is {used}")
    if suite.scores is None or suite.table is None:
        return
    per_cent = derive_accuracies(suite.scores, suite.tasks).per_cent
    for row in suite.table:
        title, methods = row["title"], (row["method"], f"{row['method']}{RESCALED}")
        pattern = re.compile(rf"(?<![\w-]){re.escape(title)} (\d+\.\d+) → (\d+\.\d+)")
        for path, pair in ((path, pair) for path, text in prose.items() for pair in pattern.findall(text)):
            values = [per_cent[method].mean() for method in methods]
            same = all(agrees(number, value) for number, value in zip(pair, values, strict=True))
            scores = "the scores give {:.2f}, {:.2f}".format(*values)
            finding.expect(same, f"{path}: {title} {' → '.join(pair)}, {scores}")


def _check_points(
    finding: Finding, document: MarkedPage, cited: Mapping[str, str], rows: Mapping[str, Mapping[str, str]]
) -> None:
    """Check that every number of a point stands in what the point cites."""
    for title in POINTS:
        for text in re.findall(rf"^#+ {title}\n(.*?)(?=^#|\Z)", document.prose, re.MULTILINE | re.DOTALL):
            for point in re.findall(r"^\d+\. ((?:.+\n)+?)(?=\d+\. |\n)", f"{text}\n\n", re.MULTILINE):
                flat = re.sub(r"\s+", " ", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", point)).strip()
                _check_point(finding, document.path, flat, cited, rows)


def _check_point(
    finding: Finding, path: str, flat: str, cited: Mapping[str, str], rows: Mapping[str, Mapping[str, str]]
) -> None:
    claim, _, parts = flat.rstrip("*").rpartition(" *")
    names = parts.split(", ")
    if not {*names} <= {*cited} and {*cited} <= {*RESULTS}:  # there are no studies
        return
    finding.expect({*names} <= {*cited}, f"{path}: “{flat[:40]}…” names no part of the studies: {parts}")
    known = {number for name in names for number in _numbers(cited.get(name, ""))}
    for name in {*names} & {*rows}:
        known |= {number for title, row in rows[name].items() if title in claim for number in _numbers(row)}
    known |= {("", digits) for _, digits in known}
    for sign, digits in _numbers(CHOSEN.sub("", claim)):
        complaint = f"{path}: {sign}{digits} in “{flat[:40]}…” is not in the sentences on {parts}"
        finding.expect((sign, digits) in known, complaint)


def _numbers(text: str) -> Iterator[tuple[str, str]]:
    """Yield the sign, if it has one, and the digits of every number."""
    yield from NUMBER.findall(text.replace("−", "-"))


def _check_speed(finding: Finding, repository: Repository) -> None:
    """Check that every median of benchmarks/results lies within its range."""
    for path in sorted((repository.root / "benchmarks/results").glob("*.json")):
        for where, spread in _spreads(json.loads(path.read_text("utf-8"))):
            ordered = spread["min"] <= spread["median"] <= spread["max"]
            finding.expect(ordered, f"{path.name}: {where}: median {spread['median']} is not within its range")
    finding.skip("measurements of speed (benchmarks/results is held by no lock)")


def _spreads(content: Any, where: str = "") -> Iterator[tuple[str, Mapping[str, float]]]:
    """Yield every median with its range, and where it stands."""
    if isinstance(content, dict) and {"min", "median", "max"} <= content.keys():
        yield where, content
    elif isinstance(content, dict):
        for name, part in content.items():
            yield from _spreads(part, f"{where} {name}".strip())
