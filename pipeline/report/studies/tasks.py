"""Number of tasks in the report: what more tasks in one merge cost, and what a merge does to tasks outside it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from pipeline.report.figures import STYLE, Style
from pipeline.report.studies import Context, _shared
from pipeline.report.view import Drawing, Frame, View
from pipeline.report.words import ZERO, compare, count, differs, interval, listed, percentages, side_by_side
from pipeline.statistics.accuracy import CEILING, FLOOR, MAIN, TWIN
from pipeline.statistics.contrasts import PairedDifference

DATA_FREE = ("average", "task_arithmetic", "ties", "tsv_m")
SHIFT = 0.09
"""Neighbours are shifted sideways by this many tasks, so that equal ones do not hide each other."""

Tables = Mapping[int, pd.DataFrame]
"""{size of the merge: values as of `words.side_by_side`}."""
Means = Mapping[int, Mapping[str, PairedDifference]]
"""{size of the merge: {method: mean with its interval}}."""


def view(rows: pd.DataFrame, context: Context) -> View:
    """`rows`: columns as in `pipeline.studies.tasks`."""
    frame = percentages(rows)
    floor, ceiling = (frame[frame.method == name].set_index("task").accuracy for name in (FLOOR, CEILING))
    merges = frame[~frame.method.isin((FLOOR, CEILING))]
    merges = merges.assign(
        normalised=100 * merges.accuracy / merges.task.map(ceiling), gain=merges.accuracy - merges.task.map(floor)
    )
    inside = _tabulate(merges[merges.merged == 1], "normalised")
    outside = _tabulate(merges[merges.merged == 0], "gain")
    means, gains, names = _average(inside), _average(outside), [*dict.fromkeys(merges.method)]
    seeds = count(merges[merges.seed >= 0].seed.nunique(), "seed")
    sizes = ", ".join(f"{size}: {table.shape[1]}" for size, table in inside.items())
    cells = [
        {"Method": context.titles[name]}
        | {f"{size} tasks": f"{found[name].mean:.{context.decimals}f}" for size, found in means.items()}
        | ({"Left out": interval(gains[max(gains)][name], context.decimals)} if gains else {})
        for name in names
    ]
    return View(
        title="Number of tasks",
        question=(
            "How much does each further task in a merge cost, and does a merge help tasks outside it? The same subsets "
            "of experts are merged by every method, calibrated on examples of the subset's tasks only."
        ),
        sentences=(*_describe_inside(inside, means, context), *_describe_outside(outside, gains, names, context)),
        figures={
            "tasks": Drawing(
                _draw(means, gains, context.styles(names), context.width),
                f"Suite {context.suite}. Left: normalised accuracy on the merged tasks against their number (subsets "
                f"of each size: {sizes}). Right: accuracy minus that of zero-shot on the tasks left out of the merge. "
                f"Scored on the {context.evaluation_split} split; means over subsets and {seeds} of the "
                f"calibrated methods, with 95 % intervals over both, not over examples; none where subsets are scored "
                f"on the same tasks.",
            )
        },
        tables={
            "tasks": Frame(
                pd.DataFrame(cells),
                f"Normalised accuracy in % on the merged tasks by their number, and points over zero-shot on the tasks "
                f"left out of merges of {max(outside)} with 95 % intervals over merges; {context.evaluation_split} "
                f"split, {seeds} of the calibrated methods; subsets of each size: {sizes}."
                if outside
                else f"Normalised accuracy in % on the merged tasks by their number; {seeds}; subsets: {sizes}.",
            )
        },
    )


def _tabulate(merges: pd.DataFrame, value: str) -> Tables:
    """Return {size: a column per subset}, named after the tasks that it is scored on here."""
    scored = merges.groupby("subset").task.agg(lambda tasks: "+".join(dict.fromkeys(tasks)))
    named = merges.assign(scored=merges.subset.map(scored))
    sizes = sorted(merges["size"].unique().tolist())
    return {size: side_by_side(named[named["size"] == size], "scored", value) for size in sizes}


def _compare(table: pd.DataFrame, method: str, other: str) -> PairedDifference:
    """Compare two methods; without an interval where subsets are scored on the same tasks: they are not independent."""
    difference, tasks = compare(table, method, other), "+".join(table.columns).split("+")
    return difference if len(tasks) == len({*tasks}) else replace(difference, low=math.nan, high=math.nan)


def _average(tables: Tables) -> Means:
    return {
        size: {str(name): _compare(table, str(name), ZERO) for name in table.index.unique("method").drop(ZERO)}
        for size, table in tables.items()
    }


def _describe_inside(tables: Tables, means: Means, context: Context) -> list[str]:
    titles, decimals = context.titles, context.decimals
    small, large = min(means), max(means)
    falls = [
        f"{titles[name]} {means[small][name].mean:.{decimals}f} → {means[large][name].mean:.{decimals}f}"
        for name in means[large]
    ]
    sentences = [
        f"Normalised accuracy (%) on the merged tasks, from {small} tasks "
        f"(n = {count(tables[small].shape[1], 'subset')}) to {large} (n = {count(tables[large].shape[1], 'subset')}"
        f"; {count(means[large][MAIN].seeds, 'seed')} of the calibrated methods): {listed(falls)}."
    ]
    for size, table in tables.items():
        best = max(DATA_FREE, key=lambda name, found=means[size]: found[name].mean)
        parts = [
            f"{titles[other]} {differs(_compare(table, MAIN, other), context.digits, 'subset')}"
            for other in (TWIN, best)
        ]
        sentences.append(f"With {size} tasks {titles[MAIN]} minus {'; minus '.join(parts)}.")
    return sentences


def _describe_outside(tables: Tables, gains: Means, names: Sequence[str], context: Context) -> list[str]:
    if not tables:
        return []
    size = max(tables)
    parts = [f"{context.titles[name]} {differs(gains[size][name], context.digits, 'merge')}" for name in names]
    twin = differs(_compare(tables[size], MAIN, TWIN), context.digits, "merge")
    return [
        f"On tasks left out, merges of {size} tasks against zero-shot: {'; '.join(parts)}.",
        f"On tasks left out {context.minus(MAIN, TWIN)}: {twin}.",
    ]


@mpl.rc_context(STYLE)
def _draw(inside: Means, outside: Means, looks: Mapping[str, Style], width: float) -> Figure:
    """Draw two panels over the number of merged tasks."""
    labels = ("normalised accuracy,\nmerged tasks (%)", "accuracy minus zero-shot,\ntasks left out (points)")
    figure, left, right = _shared.two_panels(width, 0.5, *labels)
    for axes, means in ((left, inside), (right, outside)):
        for index, (name, look) in enumerate(looks.items()):
            places = [size + SHIFT * (index - (len(looks) - 1) / 2) for size in means]
            differences = [found[name] for found in means.values()]
            _shared.plot_differences(axes, places, differences, _shared.line_style(look), width=0.7)
        axes.set(xlabel="tasks in the merge", xticks=[*means])
        axes.grid(axis="y", alpha=0.3, linewidth=0.5)
    right.axhline(0, color="#777777", linewidth=0.8, linestyle=(0, (1, 2)))
    return _shared.add_legend(figure, left, 4)
