"""What a suite's section was computed from, and what is wrong with its images."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.report.evidence import Evidence
from pipeline.report.page import Grid, Prose
from pipeline.report.tables import texts

GIB = 2**30


def warnings(evidence: Evidence) -> tuple[str, ...]:
    """What is wrong with the calibration images of the suite."""
    split, counts = evidence.protocol.calibration_split, evidence.origin["overlap"]
    return tuple(
        f"Warning: {n:,} calibration-pool image{'s' * (n != 1)} of task {task} also occur{'s' * (n == 1)} in its test "
        "split."
        for task in evidence.tasks
        if (n := counts[task].get(split, 0))
    )


def provenance(evidence: Evidence) -> tuple[Prose | Grid, ...]:
    """Parameters, versions, stages, what was fetched, and overlaps with the test images."""
    settings = [(key, json.dumps(value)) for key, value in sorted(evidence.parameters.items())]
    counts = evidence.origin["overlap"]
    shared = [(task, f"{counts[task]['train']:,}", f"{counts[task]['validation']:,}") for task in evidence.tasks]
    measured = "Wall time and peak memory of the largest process, per stage: measurements, not results."
    same = "Images that occur among the test images of their task, by content."
    sheets = {
        "parameters": ("Parameters of all stages", texts("", "Parameter", ("Value",), {"": settings}, ("Value",))),
        "versions": ("Versions", texts("", "Package", ("Version",), {"": _versions(evidence.records)}, ("Version",))),
        "stages": (
            "Stages",
            texts(measured, "Stage", ("Seconds", "MiB", "Hardware"), {"": _stages(evidence.records)}, ("Hardware",)),
        ),
        "fetched": (
            "Fetched and verified",
            texts("", "Repository", ("Commit", "Files", "GiB"), {"": _fetched(evidence.origin)}, ("Commit",)),
        ),
        "overlap": ("Overlap with the test images", texts(same, "Task", ("Train", "Validation"), {"": shared})),
    }
    grids = (Grid(f"{evidence.suite}-{end}", *sheet) for end, sheet in sheets.items() if sheet[1].sections[0][1])
    return (Prose((evidence.origin["source"],)), *grids)


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
