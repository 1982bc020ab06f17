"""What four studies state, from their rows: tables and sentences on numbers per task, by other arithmetic.

The studies of the number of tasks, of robustness and of the landscape, and the rise of the loss in flatness, have a
number per task and seed, and no answers to single images: a grid [S, T] for every method or setting. Their intervals
draw seeds and tasks, see `pipeline.audit.resampling`. A text holds if its numbers are those that the rows give, in this
order and no others, and if names and verdicts stand in it in order; it may be worded freely.
"""

import csv
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import pandas as pd

from pipeline.audit.arithmetic import CEILING, FLOOR, MAIN
from pipeline.audit.finding import Finding, Part
from pipeline.audit.repository import EVIDENCE
from pipeline.audit.resampling import CONTRAST_DRAWS, central_interval, resample_grid
from pipeline.audit.suite import AuditedSuite

TWIN, PLAIN, SAM = "distillation", "plain", "sam"
SPACES = {"coefficients": "coefficients λ", "weights": "merged weights θ"}
CLEAR, UNCLEAR, SINGLE = "excludes zero", "includes zero", "no interval"
CHANCE = 0.05

Tables: TypeAlias = Mapping[str, pd.DataFrame]
"""{file of the study: its rows}."""
Grids: TypeAlias = dict[str, np.ndarray]
"""{method or setting: [S, T]}."""
Text: TypeAlias = list[Part]


class Study(NamedTuple):
    """What a study must state."""

    title: str
    """Of its part of the sentences."""
    table: str
    lines: Sequence[Text]
    """Of the table, its head first."""
    sentences: Sequence[Text]


def check(finding: Finding, suite: AuditedSuite, study: str, tables: Tables) -> None:
    """Check the table and the sentences of a study of STUDIES."""
    repository, folder = suite.repository, f"reports/studies/{suite.name}"
    titles = repository.json(f"{EVIDENCE}/studies/{suite.name}/titles.json")
    stated = STUDIES[study](tables, titles, suite)
    path, sentences = f"{folder}/tables/{study}-{stated.table}.csv", f"{folder}/sentences.md"
    if (text := repository.text(path)) is None:
        finding.skip(path)
    else:
        lines = [" | ".join(cells) for cells in csv.reader(text.splitlines())]
        _check_texts(finding, path, lines, stated.lines)
    if (text := repository.text(sentences)) is None:
        finding.skip(sentences)
    else:
        part = re.search(rf"^### {stated.title}\n([^#]*)", text.replace("\\", ""), re.MULTILINE)
        lines = part[1].replace("95 %", "").strip().split("\n") if part else []
        _check_texts(finding, f"{sentences}, {stated.title}", lines, stated.sentences)


def _check_texts(finding: Finding, where: str, texts: Sequence[str], expected: Sequence[Text]) -> None:
    finding.expect(len(texts) == len(expected), f"{where}: {len(texts)} lines, not {len(expected)}")
    for line, (text, parts) in enumerate(zip(texts, expected, strict=False), start=1):
        finding.expect_text(f"{where}, line {line}", text, parts)


def tabulate(rows: pd.DataFrame, by: str, column: str, value: str) -> Grids:
    """Return the means of `value`: a row per seed and a column per value of `column`, both ascending."""
    wide = rows.groupby([by, "seed", column])[value].mean().unstack(column)
    return {str(name): part.to_numpy() for name, part in wide.groupby(level=by)}


def describe(grid: np.ndarray, digits: int | None = None) -> Text:
    """Return mean, ends of the interval and verdict of a grid; mean and SINGLE of a single number.

    digits: how many significant ones are printed; without, as many decimals as there are.
    """
    if grid.size == 1:
        return [float(grid.mean()), SINGLE]
    low, high = central_interval(resample_grid(grid))
    return [*((float(end), digits) for end in (grid.mean(), low, high)), CLEAR if low > 0 or high < 0 else UNCLEAR]


def _compare(grids: Grids, method: str, other: str) -> Text:
    """Describe a difference; seeds of one method meet the only run of another one without randomness."""
    grid = grids[method] - grids[other]
    return [*describe(grid), *grid.shape]


def _spread(values: np.ndarray, *digits: int) -> Text:
    """Return mean and deviation over seeds; the mean alone of one seed, or of equal ones."""
    numbers = [values.mean(), values.std(ddof=1)] if len(values) > 1 else [values.mean()]
    return [(float(number), count) for number, count in zip(numbers, digits or (None, None), strict=False)]


def _add_accuracy(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(accuracy=100 * rows["correct"] / rows["total"])


def _state_tasks(tables: Tables, titles: Mapping[str, str], suite: AuditedSuite) -> Study:
    rows = _add_accuracy(tables["tasks"])
    floor, ceiling = (rows[rows["method"] == name].set_index("task")["accuracy"] for name in (FLOOR, CEILING))
    merges = rows[~rows["method"].isin((FLOOR, CEILING))]
    merges = merges.assign(
        normalised=100 * merges["accuracy"] / merges["task"].map(ceiling),
        gain=merges["accuracy"] - merges["task"].map(floor),
    )
    inside, outside = (
        {int(size): tabulate(part, "method", column, value) for size, part in merges[chosen].groupby("size")}
        for chosen, column, value in (
            (merges["merged"] == 1, "subset", "normalised"),
            (merges["merged"] == 0, "task", "gain"),
        )
    )
    names = [*dict.fromkeys(merges["method"])]
    free = [name for name in names if (merges["seed"][merges["method"] == name] < 0).all()]
    small, large = (inside[size] for size in (min(inside), max(inside)))
    falls = [part for name in sorted(names) for part in (titles[name], small[name].mean(), large[name].mean())]
    sentences = [[min(inside), small[MAIN].shape[1], max(inside), large[MAIN].shape[1], len(large[MAIN]), *falls]]
    for size, grids in inside.items():
        best = max(free, key=lambda name, grids=grids: grids[name].mean())
        pairs = [part for other in (TWIN, best) for part in (titles[other], *_compare(grids, MAIN, other))]
        sentences.append([size, titles[MAIN], *pairs])
    lines = [["Method", *inside, *["Left out"] * bool(outside)]]
    lines += [[titles[name], *(grids[name].mean() for grids in inside.values())] for name in names]
    if outside:
        gains = outside[max(outside)]
        for line, name in zip(lines[1:], names, strict=True):
            line += describe(gains[name])[:3]
        parts = [part for name in names for part in (titles[name], *describe(gains[name]), *gains[name].shape)]
        sentences += [[max(outside), *parts], [titles[MAIN], titles[TWIN], *_compare(gains, MAIN, TWIN)]]
    return Study("Number of tasks", "tasks", lines, sentences)


def _state_robustness(tables: Tables, titles: Mapping[str, str], suite: AuditedSuite) -> Study:
    rows = _add_accuracy(tables["robustness"])
    clean, *corrupted = (
        tabulate(rows[rows["corruption"] == name], "method", "task", "accuracy")
        for name in dict.fromkeys(rows["corruption"])
    )
    kinds = [name.replace("_", " ") for name in dict.fromkeys(rows["corruption"])][1:]
    every = {name: np.mean([grids[name] for grids in corrupted], axis=0) for name in clean}
    drop = {name: clean[name] - every[name] for name in clean}
    lines = [["Method", "Clean", *kinds, "Corrupted", "Drop"]]
    for name in dict.fromkeys(rows["method"]):
        averages = [grids[name].mean(1) for grids in (clean, *corrupted, every, drop)]
        spreads = [_spread(values if np.ptp(values) > 1e-9 else values[:1]) for values in averages]
        lines.append([titles[name], *(part for spread in spreads for part in spread)])
    losses = [part for name in (MAIN, TWIN, CEILING, FLOOR) for part in (titles[name], *describe(drop[name])[:3])]
    best = max(every.keys() - {FLOOR, CEILING}, key=lambda name: every[name].mean())
    averages = [every[name].mean() for name in (best, CEILING, FLOOR)]
    hardest = min(zip(kinds, corrupted, strict=True), key=lambda pair: pair[1][MAIN].mean())[0]
    gains = {kind: grids[MAIN] - grids[TWIN] for kind, grids in zip(kinds, corrupted, strict=True)}
    clear = [part for kind, gain in gains.items() if CLEAR in describe(gain) for part in (kind, gain.mean())]
    pair, size = (titles[MAIN], titles[TWIN]), clean[MAIN].shape
    sentences = [
        [len(kinds), *losses, *size],
        [titles[best], *averages, *size, titles[MAIN], hardest],
        [*pair, *_compare(every, MAIN, TWIN), *_compare(clean, MAIN, TWIN)],
        [*_compare(drop, TWIN, MAIN), *pair, len(clear) // 2, len(kinds), *clear],
    ]
    return Study("Robustness", "robustness", lines, sentences)


def _state_landscape(tables: Tables, titles: Mapping[str, str], suite: AuditedSuite) -> Study:
    def total(rows: pd.DataFrame, value: str) -> Grids:
        """Return T times the part of every task, in the suite's order."""
        place = rows["task"].map({task: index for index, task in enumerate(suite.tasks)})
        values = len(suite.tasks) * rows[value].astype(float)
        return tabulate(rows.assign(place=place, value=values), "method", "place", "value")

    solutions, curvature, rises = (tables[name] for name in ("solutions", "curvature", "rises"))
    held = solutions[solutions["split"] == solutions["split"].iloc[-1]]
    fitted = solutions[solutions["split"] == suite.repository.params["calibration_split"]]
    loss, before, accuracy = total(held, "loss"), total(fitted, "loss"), total(_add_accuracy(held), "accuracy")
    eigenvalue, trace = (total(curvature[curvature["measure"] == name], "value") for name in ("eigenvalue", "trace"))
    measures = {
        "accuracy, %": {name: grid / len(suite.tasks) for name, grid in accuracy.items()},
        "loss": loss,
        "loss above that of calibration images": {name: loss[name] - before[name] for name in loss},
        "largest Hessian eigenvalue": eigenvalue,
        "Hessian trace": trace,
    }
    worst = rises[rises["direction"] == "worst"].astype({"radius": float})
    for space, part in worst.groupby("space"):
        losses = {float(radius): total(rows, "loss") for radius, rows in part.groupby("radius")}
        for radius in sorted(losses.keys() - {0.0}):
            risen = {name: losses[radius][name] - losses[0.0][name] for name in loss}
            measures[f"worst rise within {radius:g} in {SPACES[str(space)]}"] = risen
    lines = [["method", *measures]]
    lines += [
        [titles[name], *(part for grids in measures.values() for part in _spread(grids[name].mean(1), 4, 2))]
        for name in loss
    ]
    sentences = []
    for name, grids in measures.items():
        gain, twin = grids[MAIN] - grids[TWIN], (float(grids[TWIN].mean()), 4)
        sentences.append([name, titles[MAIN], titles[TWIN], twin, *describe(gain, 3), *gain.shape])
    flat, exact = (
        {name: float(grid.mean()) for name, grid in measures[measure].items()}
        for measure in ("largest Hessian eigenvalue", "accuracy, %")
    )
    orders = (sorted(flat, key=flat.__getitem__), flat), (sorted(exact, key=lambda name: -exact[name]), exact)
    ordered = [part for names, values in orders for name in names for part in (titles[name], (values[name], 4))]
    error = curvature["value"][curvature["measure"] == "error"].astype(float).max()
    traces = np.concatenate([grid.mean(1) for grid in trace.values()])
    extremes = [(float(value), 3) for value in (error, traces.min(), traces.max())]
    sentences += [["largest Hessian eigenvalue", *ordered, len(flat)], [*extremes, len(traces)]]
    return Study("Loss landscape", "sharpness", lines, sentences)


def _state_flatness(tables: Tables, titles: Mapping[str, str], suite: AuditedSuite) -> Study:
    """State the rise of the loss, and the comparisons of answers, which the study's contrasts have."""
    path = f"reports/studies/{suite.name}/tables/flatness-contrasts.csv"
    contrasts = {row["name"]: row for row in suite.repository.rows(path) or ()}

    def gain(name: str, other: str = PLAIN, *kinds: str) -> list[float]:
        row = contrasts[f"{name} minus {other}"]
        return [float(row[column]) for column in (kinds or ("mean", "low", "high"))]

    rows = _add_accuracy(tables["flatness"]).astype({"loss": float, "rise": float})
    place = rows["task"].map({task: index for index, task in enumerate(suite.tasks)})
    losses, rises, accuracies = (
        tabulate(rows.assign(place=place), "setting", "place", value) for value in ("loss", "rise", "accuracy")
    )
    names = [*dict.fromkeys(rows["setting"])]
    words = {name: name.replace("smoothed", "random direction") for name in names}
    passes, merges = (
        {name: rows[column][rows["setting"] == name].mean() / rows[column][rows["setting"] == PLAIN].mean()
         for name in names} for column in ("passed", "merges")
    )  # fmt: skip
    flatter = {name: describe(rises[name] - rises[PLAIN]) for name in names}
    lines = [["Rule", "Passes", "Merges", "Average", "Minus plain", "like these", "loss", "Rise", "Rise minus plain"]]
    for name in names:
        better = [] if name == PLAIN else [*gain(name), *gain(name, PLAIN, "like low", "like high")]
        spreads = [part for grids in (losses, rises) for part in _spread(grids[name].mean(1))]
        changed = [] if name == PLAIN else flatter[name][:3]
        average = _spread(accuracies[name].mean(1))
        lines.append([words[name], passes[name], merges[name], *average, *better, *spreads, *changed])
    cheap = [name for name in names if name != PLAIN and passes[name] < passes[SAM]]
    cheaper = [part for name in cheap for part in (words[name], passes[name], *flatter[name][:3])]
    others = {name: gain(name, SAM) for name in names if name not in (PLAIN, SAM)}
    clear = [part for name, (mean, low, high) in others.items() if low > 0 or high < 0
             for part in (words[name], mean, low, high)]  # fmt: skip
    _, low, high = gain(SAM)
    seeds, images = len(rises[PLAIN]), int(rows.groupby("task")["total"].first().sum())
    size = [len(suite.tasks), seeds]
    sentences = [
        [*gain(SAM), CLEAR if low > 0 or high < 0 else UNCLEAR, rises[PLAIN].mean(), *flatter[SAM], seeds],
        [passes[SAM], *cheaper],
        [len(clear) // 4, len(others), *clear, CHANCE * len(others)],
        [CONTRAST_DRAWS, images, *size, *size],
        [],
    ]
    return Study("Flatness", "flatness", lines, sentences)


STUDIES: Mapping[str, Callable[[Tables, Mapping[str, str], AuditedSuite], Study]] = {
    "flatness": _state_flatness,
    "landscape": _state_landscape,
    "robustness": _state_robustness,
    "tasks": _state_tasks,
}
