"""The generated blocks of README.md and docs/: `python -m benchmarks.readme` writes them.

A block lies between `<!-- name -->` and `<!-- /name -->`, in whichever document has these markers. It is made from
reports/, benchmarks/results or pipeline/methods.
"""

import ast
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from ruamel.yaml import YAML
from scipy.stats import kendalltau, t

from benchmarks import RESULTS

ROOT = Path(__file__).parent.parent
SUITE = "mini-8"
KEPT = {"text": "text-5", "lora": "mini-8-lora", "language": "mini-lm"}
"""Runs that are kept beside the main one, in reports/<name>, and their suites."""
HEADLINE = (
    "Zero-shot", "Individual experts", "Simple average", "Task arithmetic", "TSV-M", "AdaMerging", "Distillation",
    "SAMerging",
)  # fmt: skip
"""The methods of the README's table."""
COLUMNS = ("Method", "Average", "Normalised", "Gap closed", "Examples")
ARXIV = re.compile(r"arXiv (\d{4}\.\d{5})")


def documents(root: Path = ROOT) -> list[Path]:
    """README.md and every page of docs/."""
    return [root / "README.md", *sorted((root / "docs").glob("*.md"))]


def blocks(root: Path = ROOT) -> dict[str, str]:
    """{name: Markdown} of every generated block: of the first suite, of every method if they ran."""
    reports = root / "reports"
    suite = YAML(typ="safe").load(root / "params.yaml")["suites"][0]
    every = reports / "methods" / "tables"
    tables = every if every.is_dir() else reports / "tables"
    overview = (tables / f"{suite}-overview.md").read_text("utf-8")
    studies = reports / "studies" / suite / "sentences.md"
    folders = {name: reports / name / "tables" for name in KEPT}
    kept = {
        name: results(folder, KEPT[name]) if folder.is_dir() else f"`make {name}` did not run."
        for name, folder in folders.items()
    }
    whole = reports / "methods" if every.is_dir() else reports
    scores = [
        folder / "evidence/suites" / name / "scores.csv"
        for folder, name in ((whole, suite), (reports / "lora", KEPT["lora"]))
    ]
    if all(path.is_file() for path in scores):
        kept["lora"] += f"\n{compare_orders(*scores)}"
    for name, other in KEPT.items():
        of_studies = reports / name / "studies" / other / "sentences.md"
        if of_studies.is_file():
            kept[name] += f"\n\n{of_studies.read_text('utf-8').strip()}"
    return {
        "headline": headline(overview),
        "results": results(tables, suite),
        **kept,
        "studies": studies.read_text("utf-8").strip() if studies.is_file() else "The studies did not run.",
        "performance": performance(root / "benchmarks" / "results"),
        "methods": methods(root),
    }


def replaced(text: str, made: Mapping[str, str]) -> str:
    """The text of a document with those blocks written again that it has."""
    for name, content in made.items():
        block = f"<!-- {name} -->\n\n{content}\n\n<!-- /{name} -->"
        text = re.sub(rf"<!-- {name} -->\n.*?<!-- /{name} -->", lambda _, new=block: new, text, flags=re.DOTALL)
    return text


def results(tables: Path, suite: str) -> str:
    """The overview of a suite and the sentences about it."""
    parts = ((tables / f"{suite}-{name}.md").read_text("utf-8") for name in ("overview", "sentences"))
    return "\n".join(parts).strip()


def compare_orders(first: Path, second: Path) -> str:
    """Compare the order of the methods in two suites of the same tasks, given by their scores.csv, in a sentence.

    Kendall's tau of the averages, over methods that are one merged model in both; its interval is a
    jackknife's over tasks, with Student's t.
    """
    accuracies = [_accuracies(path) for path in (first, second)]
    names = accuracies[0].index.intersection(accuracies[1].index)
    here, there = (table.loc[names].to_numpy() for table in accuracies)

    def correlate(tasks: np.ndarray) -> float:
        return kendalltau(here[:, tasks].mean(1), there[:, tasks].mean(1)).statistic

    tasks = np.arange(here.shape[1])
    tau, without = correlate(tasks), np.array([correlate(np.delete(tasks, task)) for task in tasks])
    half = t.ppf(0.975, len(tasks) - 1) * np.sqrt((len(tasks) - 1) * without.var())
    low, high = np.clip((tau - half, tau + half), -1, 1)
    gains = pd.Series(there.mean(1) - here.mean(1), names).sort_values()
    least, most = (
        ", ".join(f"`{name}` {gain:+.1f}" for name, gain in part.items()) for part in (gains[:3], gains[:-4:-1])
    )
    return (
        f"- The order of {len(names)} merges on {first.parent.name} and on {second.parent.name}, the same tasks: "
        f"Kendall's τ = {tau:.2f}, 95 % interval [{low:.2f}, {high:.2f}] over tasks. Points of average accuracy, there "
        f"minus here: most for {most}; least for {least}."
    )


def _accuracies(path: Path) -> pd.DataFrame:
    """Return the accuracy in %, mean over seeds: a row per merge that is one model, a column per task."""
    references = json.loads((path.parent / "methods.json").read_text("utf-8"))
    apart = {"zeroshot", "individual", *references["several"]}
    scores = pd.read_csv(path).assign(accuracy=lambda rows: 100 * rows.correct / rows.total)
    table = scores.pivot_table("accuracy", "method", "task")
    return table[[name not in apart and not name.endswith("-rescaled") for name in table.index]]


def headline(overview: str) -> str:
    """The rows of HEADLINE and the columns of COLUMNS of a suite's overview, without its marks of the best values."""
    unmarked = re.sub(r"\*\*|</?u>", "", overview)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in unmarked.splitlines() if line[:1] == "|"]
    places = [rows[0].index(column) for column in COLUMNS]
    by_title = {row[0]: row for row in rows}
    shown = [by_title[title] for title in HEADLINE if title in by_title]
    lines = [f"| {' | '.join(row[place] for place in places)} |" for row in (rows[0], *shown)]
    return "\n".join([lines[0], f"| :-- |{' --: |' * (len(COLUMNS) - 1)}", *lines[1:]])


def methods(root: Path = ROOT) -> str:
    """A line per method, from the text of its file: nothing is imported."""
    lines: dict[str, list[str]] = {"merge": [], "calibrate": []}
    for path in sorted((root / "pipeline" / "methods").glob("[!_]*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        lines["calibrate" if "calibrate" in defined else "merge"].append(_method(path.stem, tree))
    papers = _constants(ast.parse((root / "pipeline/report/collect.py").read_text("utf-8")), "SVC", "SURGERY")
    refining = []
    for name, title, full in (
        ("svc", "SVC", "Singular value calibration"),
        ("surgery", "Surgery", "Representation Surgery"),
    ):
        tree = ast.parse((root / f"pipeline/steps/{name}.py").read_text("utf-8"))
        refining.append(
            f"- [{title}](../pipeline/steps/{name}.py): {_does(tree, full)}. *{_linked(papers[name.upper()])}.*"
        )
    parts = [
        ("Data-free", lines["merge"]),
        ("Calibrated on unlabelled examples", lines["calibrate"]),
        ("On top of a merge", refining),
    ]
    return "\n\n".join(f"### {title}\n\n" + "\n".join(listed) for title, listed in parts)


def _method(name: str, tree: ast.Module) -> str:
    known = _constants(tree, "TITLE", "PAPER", "UNVERIFIED")
    doubt = f" † Our reading: {known['UNVERIFIED']}." if "UNVERIFIED" in known else ""
    title = f"[{known['TITLE']}](../pipeline/methods/{name}.py)"
    return f"- {title} (`{name}`): {_does(tree, known['TITLE'])}. *{_linked(known['PAPER'])}.*{doubt}"


def _does(tree: ast.Module, title: str) -> str:
    """The first line of a file, without the method's name."""
    summary = (ast.get_docstring(tree) or "").partition("\n")[0].rstrip(".:")
    named, _, rest = summary.partition(": ")
    return rest if rest and named in title else summary


def _constants(tree: ast.Module, *names: str) -> dict[str, str]:
    """{name: value} of the constants that a module assigns."""
    return {
        target.id: ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name) and target.id in names
    }


def _linked(paper: str) -> str:
    return ARXIV.sub(r"[arXiv \1](https://arxiv.org/abs/\1)", paper)


def performance(results: Path = RESULTS) -> str:
    """What benchmarks/results holds, as tables."""
    found = {path.stem: json.loads(path.read_text("utf-8")) for path in sorted(results.glob("*.json"))}
    parts = [
        (
            "calibration_step",
            "One calibration step, in turn with its floor (a plain forward and backward over the same images)",
            _steps,
        ),
        ("evaluation", "Scoring a merged model, against open_clip's own forward on images in memory", _evaluations),
        (
            "data_free",
            "Data-free merges: median seconds, over those of a thread reading the experts once, peak memory",
            _data_free,
        ),
        ("against_public", "Data-free merges as commands, against public programs, ours / theirs", _against_public),
        ("growth", "How a SAMerging step grows with tasks T and images k", _growth),
        ("whole_run", "The whole run on the embedded suite, stages one after the other", _whole_run),
        ("full_size", "Every stage at full size, random weights in the public file formats", _full_size),
        ("on_gpu", "On a GPU, next to targets", _on_gpu),
    ]
    tables = ((module, title, _table(list(make(found)))) for module, title, make in parts)
    return "\n\n".join(f"{title} (`benchmarks.{module}`):\n\n{table}" for module, title, table in tables if table)


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
    return _range(row["ratio"])


def _range(spread: dict[str, float]) -> str:
    return f"{spread['median']:.2f} ({spread['min']:.2f} to {spread['max']:.2f})"


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


def _against_public(found: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """A row per merge of ours; what `start` takes is also in the other rows, unless it is taken off."""
    measured = ("wall, s", "ratio", "CPU, s", "ratio", "CPU beyond start, s", "peak, GiB")
    yield ("models", "program", "its merge", "ours", *measured, "agreement", "hardware")
    for content in _of(found, "against_public"):
        given, rows = content["arguments"], content["rows"]
        models = f"{given['backbone']}, T = {given['tasks']}"
        program = f"{given['package']} {content['public'][given['package']]}"
        for recipe in sorted(rows, key=lambda name: (name != "start", name)):
            theirs = rows[recipe]["theirs"]
            for variant in sorted(rows[recipe].keys() - {"theirs"}):
                sides = rows[recipe][variant], theirs
                costs = (_pair(sides, "seconds"), _range(sides[0]["seconds_ratio"]))
                costs += (_pair(sides, "cpu_seconds"), _range(sides[0]["cpu_seconds_ratio"]))
                costs += (_beyond(sides, rows["start"]), " / ".join(f"{side['peak_mib'] / 1024:.1f}" for side in sides))
                named = (recipe, variant) if recipe != "start" else ("start", "start")
                yield (models, program, *named, *costs, _agreement(sides[0].get("agreement")), _where(content))


def _pair(sides: tuple[dict[str, Any], ...], field: str) -> str:
    return " / ".join(f"{side[field]['median']:.1f}" for side in sides)


def _beyond(sides: tuple[dict[str, Any], ...], start: dict[str, dict[str, Any]]) -> str:
    starts = start["average"], start["theirs"]
    spent = [
        side["cpu_seconds"]["median"] - alone["cpu_seconds"]["median"]
        for side, alone in zip(sides, starts, strict=True)
    ]
    return " / ".join(f"{seconds:.1f}" for seconds in spent)


def _agreement(agreement: dict[str, Any] | None) -> str:
    if agreement is None:
        return ""
    if "cosine" in agreement:
        return ", ".join(f"{agreement[name]:.4f}" for name in ("cosine", "length", "spread"))
    skipped = agreement["undecided_entries"]
    beside = f" beside {skipped:,} ties in {agreement['entries']:,} entries" if skipped else ""
    return f"{agreement['largest_relative_difference']:.1e}{beside}"


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


def _on_gpu(found: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    yield ("part", "row", "measured", "hardware")
    for content in _of(found, "on_gpu"):
        for name, row in content["rows"].items():
            for target in row["targets"]:
                yield (content["part"], name, target["text"], _where(content))


def main() -> None:
    """Write the blocks of every document."""
    made = blocks()
    for path in documents():
        path.write_text(replaced(path.read_text("utf-8"), made), "utf-8")


if __name__ == "__main__":
    main()
