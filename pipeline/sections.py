"""Results, tables and drawings -> the blocks of the report's page."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from pipeline import figures, page
from pipeline.diagnostics import MEASURES, METHODS, SIZE
from pipeline.page import Entries, Entry, Fold, Grid, Link, Page, Prose, Section
from pipeline.references import Reference
from pipeline.results import Results, parameters
from pipeline.tables import Cell, Table, number

NAMES = {"csv": "CSV", "md": "Markdown", "tex": "LaTeX", "pdf": "PDF", "svg": "SVG", "png": "PNG"}
GIB = 2**30
PIXELS = 100
"""Dots per inch of what an SVG holds as pixels."""


@dataclass(frozen=True)
class Drawing:
    """A figure with what is said of it."""

    title: str
    figure: Figure
    caption: str
    data: pd.DataFrame | None = None
    """What it shows, as tidy rows; None for pictures."""


@dataclass(frozen=True)
class Tabled:
    """A table with its title; `kinds`: the files that hold it."""

    title: str
    table: Table
    kinds: tuple[str, ...] = ()


def report(sections: Iterable[Section], references: Mapping[str, Reference]) -> Page:
    """The page of the whole report."""
    lead = (
        "Model merging by multi-teacher distillation (arXiv 2512.21288) against its baselines, computed from the runs "
        "that each section names. Click a heading to sort a table by it.",
    )
    found = tuple(sections)
    explained = Link("Every column and figure explained", "README.md")
    studied = tuple(Link(f"Studies of {one.id} (make studies)", f"studies/{one.id}/index.html") for one in found)
    return Page("SAMerging benchmark", (Prose(lead, links=(explained, *studied)),), (*found, methods(references)))


def suite(
    results: Results,
    said: Sequence[str],
    tabled: Mapping[str, Tabled],
    diagnosis: str,
    drawn: Mapping[str, Drawing],
    references: Mapping[str, Reference],
) -> Section:
    """The section of a suite. tabled, drawn: by the end of their files' names."""
    name = results.suite
    rows = {one.title: f"#{anchor(method)}" for method, one in references.items()}
    grids = tuple(
        Grid(f"{name}-{end or 'tasks'}", one.title, one.table, files("tables", _stem(name, end), one.kinds), rows)
        for end, one in tabled.items()
    )
    found = Prose(
        (diagnosis,),
        title="Does anything measured before merging predict what it costs?",
        id=f"{name}-diagnosis",
    )
    predicted = Grid(
        f"{name}-table-prediction",
        "Rank correlations of measures and losses",
        predictions(results.predictions),
        files("tables", f"{name}-prediction", ("csv",)),
    )
    drawings = tuple(
        page.Figure(
            f"{name}-figure-{end}",
            one.title,
            figures.inline(one.figure, f"{name}-{end}", PIXELS),
            one.caption,
            files("figures", f"{name}-{end}", (*["csv"] * (one.data is not None), *figures.FORMATS)),
        )
        for end, one in drawn.items()
    )
    records = Fold(f"{name}-records", "Computed from: parameters, versions, origin, hardware", provenance(results))
    lead = Prose(warnings(results), tuple(said))
    return Section(name, f"Suite {name}", (lead, *grids, *drawings, found, predicted, records))


def methods(references: Mapping[str, Reference]) -> Section:
    """Every method with its paper and what of it is our reading."""
    entries = tuple(
        Entry(anchor(name), one.title, name, one.paper, f"Our reading: {one.unverified}." if one.unverified else "")
        for name, one in references.items()
    )
    return Section("methods", "Methods", (Entries(entries),))


def anchor(method: str) -> str:
    """The id of a method's entry."""
    return f"method-{method}"


def files(folder: str, stem: str, kinds: Iterable[str]) -> tuple[Link, ...]:
    """Links to the files of a table or figure."""
    return tuple(Link(NAMES[kind], f"{folder}/{stem}.{kind}") for kind in kinds)


def _stem(suite: str, end: str) -> str:
    return f"{suite}-{end}" if end else suite


def predictions(found: pd.DataFrame) -> Table:
    """The rank correlations of a diagnosis, a section per scope."""
    names, edges = {**MEASURES, SIZE: "number of tasks"}, ("low", "high", "task_low", "task_high")
    sections = {
        scope: [
            (names[row["measure"]], METHODS[row["method"]], *(number(row[one], 2, "+") for one in ("rho", *edges)))
            for row in rows.to_dict("records")
        ]
        for scope, rows in found.groupby("scope", sort=False)
    }
    caption = (
        "Spearman's ρ between a measure taken before merging and the loss of accuracy of a merge. Low and high: 95 % "
        "interval over the points; of tasks: over the tasks, which subsets share."
    )
    columns = ("Loss of", "ρ", "Low", "High", "Low, of tasks", "High, of tasks")
    return texts(caption, "Measure", columns, sections, words=("Loss of",))


def warnings(results: Results) -> tuple[str, ...]:
    """What is wrong with the calibration images of the suite."""
    split, counts = results.protocol.calibration_split, results.origin["overlap"]
    return tuple(
        f"Warning: {n:,} calibration-pool image{'s' * (n != 1)} of task {task} also occur{'s' * (n == 1)} in its test "
        "split."
        for task in results.tasks
        if (n := counts[task].get(split, 0))
    )


def provenance(results: Results) -> tuple[Prose | Grid, ...]:
    """Parameters, versions, stages, what was fetched, and overlaps with the test images."""
    settings = [(key, json.dumps(value)) for key, value in sorted(parameters("", results.records).items())]
    counts = results.origin["overlap"]
    shared = [(task, f"{counts[task]['train']:,}", f"{counts[task]['validation']:,}") for task in results.tasks]
    measured = "Wall time and peak memory of the largest process, per stage: measurements, not results."
    same = "Images that occur among the test images of their task, by content."
    sheets = {
        "parameters": ("Parameters of all stages", texts("", "Parameter", ("Value",), {"": settings}, ("Value",))),
        "versions": ("Versions", texts("", "Package", ("Version",), {"": _versions(results.records)}, ("Version",))),
        "stages": (
            "Stages",
            texts(measured, "Stage", ("Seconds", "MiB", "Hardware"), {"": _stages(results.records)}, ("Hardware",)),
        ),
        "fetched": (
            "Fetched and verified",
            texts("", "Repository", ("Commit", "Files", "GiB"), {"": _fetched(results.origin)}, ("Commit",)),
        ),
        "overlap": ("Overlap with the test images", texts(same, "Task", ("Train", "Validation"), {"": shared})),
    }
    grids = (Grid(f"{results.suite}-{end}", *sheet) for end, sheet in sheets.items() if sheet[1].sections[0][1])
    return (Prose((results.origin["source"],)), *grids)


def _versions(records: Iterable[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    found: dict[str, set[str]] = {}
    for record in records:
        for name, version in {"python": record["python"], **record["packages"]}.items():
            found.setdefault(name, set()).add(version)
    return [(name, ", ".join(sorted(versions))) for name, versions in found.items()]


def _stages(records: Iterable[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    return [
        (
            " ".join([record["stage"], *(one for name, one in record["arguments"].items() if name != "suite")]),
            f"{record['seconds']:,.1f}",
            f"{record['peak_mib']:,}",
            f"{record['device']}; {record['cores']} cores of {record['processor']}",
        )
        for record in records
    ]


def _fetched(origin: Mapping[str, Any]) -> list[tuple[str, ...]]:
    return [
        (
            one["repo"] if one["repo"] == one["id"] else f"{one['repo']} (now {one['id']})",
            one["commit"][:12],
            f"{len(one['files']):,}",
            f"{sum(file['size'] for file in one['files']) / GIB:,.2f}",
        )
        for one in origin["fetched"]
    ]


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
