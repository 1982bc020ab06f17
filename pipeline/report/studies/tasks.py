"""Number of tasks in the report: what more tasks in one merge cost, and what a merge does to tasks outside it."""

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.report.figures import STYLE, Style, styles
from pipeline.report.studies import Context
from pipeline.report.view import Drawing, Frame, View
from pipeline.report.words import ZERO, compare, count, differs, interval, listed, percentages, side_by_side
from pipeline.statistics.accuracy import CEILING, FLOOR, MAIN, TWIN
from pipeline.statistics.contrasts import Difference

DATA_FREE = ("average", "task_arithmetic", "ties", "tsv_m")


def view(rows: pd.DataFrame, context: Context) -> View:
    """`rows`: columns as in `pipeline.studies.tasks`."""
    frame = percentages(rows)
    floor, ceiling = (frame[frame.method == name].set_index("task").accuracy for name in (FLOOR, CEILING))
    own = frame[~frame.method.isin((FLOOR, CEILING))]
    own = own.assign(normalised=100 * own.accuracy / own.task.map(ceiling), gain=own.accuracy - own.task.map(floor))
    inside = {size: side_by_side(part, "subset", "normalised") for size, part in own[own.merged == 1].groupby("size")}
    outside = {size: side_by_side(part, "task", "gain") for size, part in own[own.merged == 0].groupby("size")}
    names = [*dict.fromkeys(own.method)]
    looks = styles({name: context.titles[name] for name in names})
    seeds = count(own[own.seed >= 0].seed.nunique(), "seed")
    sizes = ", ".join(f"{size}: {table.shape[1]}" for size, table in inside.items())
    caption = (
        f"Suite {context.suite}. Left: normalised accuracy on the merged tasks against their number (subsets of each "
        f"size: {sizes}). Right: accuracy minus that of zero-shot on the tasks left out of the merge. Scored on the "
        f"{context.evaluation_split} split; means over subsets (left) or tasks (right) and {seeds} of the calibrated "
        f"methods, with 95 % bootstrap intervals over both, not over images."
    )
    return View(
        title="Number of tasks",
        question=(
            "How much does each further task in a merge cost, and does a merge help tasks outside it? The same subsets "
            "of experts are merged by every method, calibrated on images of the subset's tasks only."
        ),
        sentences=(*_inside(inside, context), *_outside(outside, names, context)),
        figures={"tasks": Drawing(figure(_means(inside), _means(outside), looks, context.width), caption)},
        tables={
            "tasks": Frame(
                _table(inside, outside, names, context),
                f"Normalised accuracy in % on the merged tasks by their number, and points over zero-shot on the tasks "
                f"left out of merges of {max(outside)} with 95 % intervals; {context.evaluation_split} split, {seeds} "
                f"of the calibrated methods; subsets of each size: {sizes}."
                if outside
                else f"Normalised accuracy in % on the merged tasks by their number; {seeds}; subsets: {sizes}.",
            )
        },
    )


Means = Mapping[int, Mapping[str, Difference]]


def _means(tables: Mapping[int, pd.DataFrame]) -> Means:
    """{size: {method: mean with its interval}}."""
    return {
        size: {name: compare(table, name, ZERO) for name in table.index.unique("method").drop(ZERO)}
        for size, table in tables.items()
    }


def _inside(tables: Mapping[int, pd.DataFrame], context: Context) -> list[str]:
    means, decimals = _means(tables), context.decimals
    small, large = min(means), max(means)
    falls = [
        f"{context.titles[name]} {means[small][name].mean:.{decimals}f} → {means[large][name].mean:.{decimals}f}"
        for name in means[large]
    ]
    said = [
        f"Normalised accuracy (%) on the merged tasks, from {small} tasks "
        f"(n = {count(tables[small].shape[1], 'subset')}) to {large} (n = {count(tables[large].shape[1], 'subset')}"
        f"; {count(means[large][MAIN].seeds, 'seed')} of the calibrated methods): {listed(falls)}."
    ]
    for size, table in tables.items():
        best = max(DATA_FREE, key=lambda name, found=means[size]: found[name].mean)
        parts = [
            f"{context.titles[other]} {differs(compare(table, MAIN, other), decimals + 1, 'subset')}"
            for other in (TWIN, best)
        ]
        said.append(f"With {size} tasks {context.titles[MAIN]} minus {'; minus '.join(parts)}.")
    return said


def _outside(tables: Mapping[int, pd.DataFrame], names: Sequence[str], context: Context) -> list[str]:
    if not tables:
        return []
    size = max(tables)
    table, titles, decimals = tables[size], context.titles, context.decimals + 1
    gains = {name: compare(table, name, ZERO) for name in names}
    parts = [f"{titles[name]} {differs(found, decimals)}" for name, found in gains.items()]
    twin = compare(table, MAIN, TWIN)
    return [
        f"On tasks left out, merges of {size} tasks against zero-shot: {'; '.join(parts)}.",
        f"On tasks left out {titles[MAIN]} minus {titles[TWIN]}: {differs(twin, decimals)}.",
    ]


def _table(
    inside: Mapping[int, pd.DataFrame], outside: Mapping[int, pd.DataFrame], names: Sequence[str], context: Context
) -> pd.DataFrame:
    means, left, decimals = _means(inside), _means(outside), context.decimals
    rows = []
    for name in names:
        row = {"Method": context.titles[name]}
        row |= {f"{size} tasks": f"{found[name].mean:.{decimals}f}" for size, found in means.items()}
        if left:
            row["Left out"] = interval(left[max(left)][name], decimals)
        rows.append(row)
    return pd.DataFrame(rows)


@mpl.rc_context(STYLE)
def figure(inside: Means, outside: Means, looks: Mapping[str, Style], width: float) -> Figure:
    """Two panels over the number of merged tasks, methods shifted sideways so that equal ones do not hide."""
    drawn = Figure((width, 0.5 * width), layout="constrained")
    left, right = drawn.subplots(1, 2)
    _panel(left, inside, looks)
    _panel(right, outside, looks)
    right.axhline(0, color="#777777", linewidth=0.8, linestyle=(0, (1, 2)))
    left.set(ylabel="normalised accuracy,\nmerged tasks (%)")
    right.set(ylabel="accuracy minus zero-shot,\ntasks left out (points)")
    drawn.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return drawn


def _panel(axes: Axes, means: Means, looks: Mapping[str, Style]) -> None:
    for index, (name, look) in enumerate(looks.items()):
        found = {size: methods[name] for size, methods in means.items()}
        places = [size + 0.09 * (index - (len(looks) - 1) / 2) for size in found]
        values = [one.mean for one in found.values()]
        edges = [[one.mean - one.low for one in found.values()], [one.high - one.mean for one in found.values()]]
        axes.errorbar(
            places, values, edges, color=look.colour, marker=look.marker, linestyle=look.line, label=look.title,
            elinewidth=0.7,
        )  # fmt: skip
    axes.set(xlabel="tasks in the merge", xticks=[*means])
    axes.grid(axis="y", alpha=0.3, linewidth=0.5)
