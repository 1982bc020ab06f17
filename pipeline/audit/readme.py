"""The README: generated sections are their files' text, and the numbers of prose stand where they come from."""

import json
import re
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

from pipeline.audit.finding import Finding, Tally
from pipeline.audit.images import tasks_of
from pipeline.audit.known import RESCALED, know
from pipeline.audit.printed import agrees, plain
from pipeline.audit.repository import Repository, integers

DIGITS = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?")


def check(repository: Repository, widest: Repository, suites: list[str]) -> Finding:
    """Sections, scales and studies of the README of the current run; `widest`: the run whose table it shows."""
    tally, text = Tally("README", "generated sections and numbers of prose"), repository.text("README.md")
    if text is None:
        tally.absent.append("README.md")
        return tally.finding()
    section = _section(text, "results")
    for suite in [name for name in suites if f"Suite {name}:" in section] or suites[:1]:
        parts = [widest.text(f"reports/tables/{suite}-{name}.md") for name in ("overview", "sentences")]
        if None in parts:
            tally.absent.append(f"reports/tables/{suite}-overview.md, {suite}-sentences.md")
        else:
            _same(tally, "results", "\n".join(parts), section)
        studied, shown = repository.text(f"reports/studies/{suite}/sentences.md"), _section(text, "studies")
        prose = text.replace(section, "").replace(shown or section, "")
        _scales(tally, widest, suite, prose)
        if studied is not None:
            _same(tally, "studies", studied, shown)
            _studies(tally, prose, studied)
    tally.absent.append("numbers of prose on other things than scales and studies")
    _performance(tally, repository, _section(text, "performance"))
    return tally.finding()


def _section(text: str, name: str) -> str:
    found = re.search(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", text, re.DOTALL)
    return found[1] if found else ""


def _same(tally: Tally, name: str, made: str, section: str) -> None:
    """A generated section has the lines of what it was made from."""
    lines, shown = made.strip().splitlines(), section.strip().splitlines()
    for index in range(max(len(lines), len(shown))):
        own, said = (part[index] if index < len(part) else "" for part in (lines, shown))
        tally.expect(own == said, f"README.md, {name}: {_difference(said, own)}")


def _difference(said: str, own: str) -> str:
    """Where two lines part."""
    same = next((index for index, pair in enumerate(zip(said, own, strict=False)) if len({*pair}) > 1), 0)
    return f"“{said[max(0, same - 30) : same + 20]}”, the report has “{own[max(0, same - 30) : same + 20]}”"


def _scales(tally: Tally, repository: Repository, suite: str, text: str) -> None:
    """`<method> 57.3 → 81.3`: the average, and that with the scale chosen without labels; and on how many images."""
    scores = integers(repository, suite)
    if scores is None:
        return
    known = know(repository, suite, tuple(tasks_of(repository, suite)), scores)
    flat = re.sub(r"\s+", " ", text)
    for title, method in known.titles.items():
        for before, after in re.findall(rf"(?<![\w-]){re.escape(title)} (\d+\.\d+) → (\d+\.\d+)", flat):
            values = [known.values[name]["Average"].mean for name in (method, f"{method}{RESCALED}")]
            right = agrees(before, values[0]) and agrees(after, values[1])
            tally.expect(
                right, f"README.md: {title} {before} → {after}, the scores give {values[0]:.2f}, {values[1]:.2f}"
            )
    used = repository.yaml("params.yaml")["rescale"]["samples"]
    for said in re.findall(r"(\d+) unlabelled images (?:per task find|choose)", flat):
        tally.expect(said == str(used), f"README.md: scales chosen on {said} images, rescale.samples is {used}")


def _studies(tally: Tally, prose: str, studied: str) -> None:
    """Every number of a point, `1. ... *Ablation, Flatness*`, stands in those parts of the generated sentences."""
    _, _, text = prose.partition("\n## What the studies say\n")
    parts = dict(re.findall(r"^### (.*)\n([^#]*)", plain(studied), re.MULTILINE))
    for point in re.findall(r"^\d+\. ((?:.+\n)+?)(?=\d+\. |\n)", text.partition("\n## ")[0], re.MULTILINE):
        flat = re.sub(r"\s+", " ", point).strip()
        said, _, cited = flat.rstrip("*").rpartition(" *")
        names = cited.split(", ")
        tally.expect({*names} <= {*parts}, f"README.md: “{flat[:40]}…” names no part of the studies: {cited}")
        known = {number for name in names for number in DIGITS.findall(parts.get(name, ""))}
        for number in DIGITS.findall(said):
            tally.expect(number in known, f"README.md: {number} in “{flat[:40]}…” is not in the sentences on {cited}")


def _performance(tally: Tally, repository: Repository, section: str) -> None:
    """The section on speed is what benchmarks/readme.py makes of benchmarks/results."""
    results = repository.root / "benchmarks/results"
    if not section or not results.is_dir():
        return
    try:
        made = import_module("benchmarks.readme").performance(results)
    except ImportError as error:
        tally.absent.append(f"README's section on performance (its generator needs {error.name})")
        return
    _same(tally, "performance", made, section)
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
