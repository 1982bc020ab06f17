"""The sources of a suite's section, and warnings about its examples."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline.report.evidence import Evidence
from pipeline.report.page import Grid, Prose
from pipeline.report.tables import text_table

GIB = 2**30


def warnings(evidence: Evidence) -> tuple[str, ...]:
    """Warn of calibration examples that are test examples as well."""
    split, counts = evidence.protocol.calibration_split, evidence.origin["overlap"]
    return tuple(
        f"Warning: {n:,} calibration-pool example{'s' * (n != 1)} of task {task} also occur{'s' * (n == 1)} in its "
        "test split."
        for task in evidence.tasks
        if (n := counts[task].get(split, 0))
    )


def provenance(evidence: Evidence) -> tuple[Prose | Grid, ...]:
    """Tabulate parameters, versions, stages, fetched files, and overlaps with the test examples."""
    settings = [(key, json.dumps(value)) for key, value in sorted(evidence.parameters.items())]
    counts = evidence.origin["overlap"]
    shared = [(task, f"{counts[task]['train']:,}", f"{counts[task]['validation']:,}") for task in evidence.tasks]
    measured = "Wall time and peak memory of the largest process, per stage: measurements, not results."
    same = "Examples that occur among the test examples of their task, by content."
    records, origin = evidence.records, evidence.origin

    def grid(
        end: str,
        title: str,
        rows: Sequence[tuple[str, ...]],
        head: str,
        columns: str,
        words: str = "",
        caption: str = "",
    ) -> Grid:
        table = text_table(caption, head, tuple(columns.split()), {"": rows}, tuple(words.split()))
        return Grid(f"{evidence.suite}-{end}", title, table)

    grids = (
        grid("parameters", "Parameters of all stages", settings, "Parameter", "Value", "Value"),
        grid("versions", "Versions", _versions(records), "Package", "Version", "Version"),
        grid("stages", "Stages", _stages(records), "Stage", "Seconds MiB Hardware", "Hardware", measured),
        grid("fetched", "Fetched and verified", _fetched(origin), "Repository", "Commit Files GiB", "Commit"),
        grid("overlap", "Overlap with the test examples", shared, "Task", "Train Validation", caption=same),
    )
    sources = tuple(origin[key] for key in ("source", "note") if key in origin)
    return (Prose(sources), *(grid for grid in grids if grid.table.sections[0][1]))


def _versions(records: Iterable[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    packages: dict[str, set[str]] = {}
    for record in records:
        for name, version in {"python": record["python"], **record["packages"]}.items():
            packages.setdefault(name, set()).add(version)
    return [(name, ", ".join(sorted(versions))) for name, versions in packages.items()]


def _stages(records: Iterable[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    return [
        (
            " ".join([record["stage"], *(value for name, value in record["arguments"].items() if name != "suite")]),
            f"{record['seconds']:,.1f}",
            f"{record['peak_mib']:,}",
            f"{record['device']}; {record['cores']} cores of {record['processor']}",
        )
        for record in records
    ]


def _fetched(origin: Mapping[str, Any]) -> list[tuple[str, ...]]:
    return [
        (
            repository["repo"]
            if repository["repo"] == repository["id"]
            else f"{repository['repo']} (now {repository['id']})",
            repository["commit"][:12],
            f"{len(repository['files']):,}",
            f"{sum(file['size'] for file in repository['files']) / GIB:,.2f}",
        )
        for repository in origin["fetched"]
    ]
