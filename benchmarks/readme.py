"""The README's sections of numbers, from reports and benchmarks/results: `python -m benchmarks.readme`."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import RESULTS

ROOT = Path(__file__).parent.parent
SUITE = "mini-8"


def sections() -> dict[str, str]:
    """{name: Markdown} of what lies between `<!-- name -->` and `<!-- /name -->`."""
    tables = ROOT / "reports" / "methods" / "tables"
    found = [(tables / f"{SUITE}-{name}.md").read_text("utf-8") for name in ("overview", "sentences")]
    studies = (ROOT / "reports" / "studies" / SUITE / "sentences.md").read_text("utf-8").strip()
    return {"results": "\n".join(found).strip(), "studies": studies, "performance": performance()}


def replaced(text: str) -> str:
    """The README's text with its sections written anew."""
    for name, content in sections().items():
        before, _, rest = text.partition(f"<!-- {name} -->")
        _, _, after = rest.partition(f"<!-- /{name} -->")
        text = f"{before}<!-- {name} -->\n\n{content}\n\n<!-- /{name} -->{after}"
    return text


def performance(results: Path = RESULTS) -> str:
    """What benchmarks/results holds, as tables."""
    found = {path.stem: json.loads(path.read_text("utf-8")) for path in sorted(results.glob("*.json"))}
    parts = [
        ("One calibration step, in turn with its floor (a plain forward and backward over the same images)", _steps),
        ("Scoring a merged model, against open_clip's own forward on images in memory", _evaluations),
        ("Data-free merges: median seconds, over those of a thread reading the experts once, peak memory", _data_free),
        ("How a SAMerging step grows with tasks T and images k", _growth),
        ("The whole run on the embedded suite, stages one after the other", _whole_run),
        ("Every stage at full size, random weights in the public file formats", _full_size),
    ]
    return "\n\n".join(f"{title}:\n\n{table}" for title, make in parts if (table := _table(list(make(found)))))


def _table(rows: list[tuple[str, ...]]) -> str:
    if len(rows) < 2:
        return ""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])


def _of(found: dict[str, Any], kind: str) -> Iterator[dict[str, Any]]:
    return (content for name, content in found.items() if name.startswith(f"{kind}-"))


def _where(one: dict[str, Any]) -> str:
    threads = one.get("threads") or one["arguments"].get("threads")
    plural = "" if threads == 1 else "s"
    return f"{one['device']}, {one['cores']} cores" + (f", {threads} thread{plural}" if threads else "")


def _ratio(row: dict[str, Any]) -> str:
    ratio = row["ratio"]
    return f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})"


def _steps(found: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    yield ("backbone", "T x batch", "precision", "floor, s", "step / floor", "SAM / floor", "graph / floor", "hardware")
    for one in _of(found, "calibration_step"):
        given, rows = one["arguments"], one["rows"]
        ratios = [_ratio(rows[name]) if name in rows else "not run" for name in ("plain", "sam", "graph")]
        size = f"{given['tasks']} x {given['batch']}"
        floor = f"{rows['floor']['seconds']['median']:.3f}"
        yield (given["backbone"], size, given["precision"], floor, *ratios, _where(one))


def _evaluations(found: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    yield ("backbone", "plain, images/s", "pipeline, images/s", "seconds / plain", "hardware")
    for one in _of(found, "evaluation"):
        rows = one["rows"]
        speeds = [f"{rows[name]['images_per_second']:,.0f}" for name in ("plain", "pipeline")]
        yield (one["arguments"]["backbone"], *speeds, _ratio(rows["pipeline"]), _where(one))


def _data_free(found: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """A column per backbone and number of tasks, a row per method."""
    runs = sorted(_of(found, "data_free"), key=_size)
    yield ("method", *(f"{_tower(one['arguments'])}, T = {one['arguments']['tasks']}" for one in runs))
    yield ("experts", *(f"{one['experts_mib'] / 1024:.1f} GiB" for one in runs))
    for name in sorted({name for one in runs for name in one["rows"]}):
        yield (name, *(_merge(one["rows"].get(name)) for one in runs))
    yield ("hardware", *(_where(one) for one in runs))


def _size(one: dict[str, Any]) -> tuple[str, int, int]:
    given = one["arguments"]
    return given["backbone"], given["of_blocks"] - given["blocks"], given["tasks"]


def _merge(row: dict[str, Any] | None) -> str:
    if row is None:
        return "not run"
    return f"{row['seconds']['median']:.1f} s, {row['ratio']['median']:.1f} ×, {row['peak_mib'] / 1024:.1f} GiB"


def _tower(given: dict[str, Any]) -> str:
    part = f", {given['blocks']} of {given['of_blocks']} blocks" if given["blocks"] < given["of_blocks"] else ""
    return given["backbone"] + part


def _growth(found: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    yield ("backbone", "T", "k", "batch", "s/step", "peak, GiB", "hardware")
    for one in _of(found, "growth"):
        given = one["arguments"]
        for row in one["rows"]:
            numbers = (str(row["tasks"]), str(row["samples"]), str(given["batch"]), f"{row['seconds_per_step']:.3f}")
            yield (given["backbone"], *numbers, f"{row['peak_mib'] / 1024:.1f}", _where(one))


def _whole_run(found: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    yield ("suite", "stage", "how many", "seconds, all", "longest", "its seconds", "peak, GiB", "hardware")
    for one in _of(found, "whole_run"):
        for stage, row in sorted(one["rows"].items(), key=lambda item: -item[1]["seconds"]):
            longest = row["longest"].removeprefix(one["arguments"]["suite"]).strip()
            numbers = (f"{row['seconds']:.0f}", longest, f"{row['longest_seconds']:.0f}")
            peak = f"{row['peak_mib'] / 1024:.1f}"
            yield (one["arguments"]["suite"], stage, str(row["stages"]), *numbers, peak, _where(one))


def _full_size(found: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    yield ("suite", "stage", "seconds", "peak, GiB", "hardware")
    for one in _of(found, "full_size"):
        given = one["arguments"]
        suite = f"{given['tasks']} tasks, {given['backbone']}, {given['images']} images, {given['steps']} steps"
        for stage in one["stages"]:
            name = " ".join((stage["stage"], *[value for key, value in stage["arguments"].items() if key != "suite"]))
            where = f"{stage['processor']}, {stage['cores']} cores" if stage["device"] == "cpu" else stage["device"]
            yield (suite, name, f"{stage['seconds']:.0f}", f"{stage['peak_mib'] / 1024:.1f}", where)


def main() -> None:
    """Write the README's sections."""
    path = ROOT / "README.md"
    path.write_text(replaced(path.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    main()
