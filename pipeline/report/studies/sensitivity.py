"""Sensitivity in the report: curves per knob, and how much of a method's accuracy hangs on each."""

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.report.figures import STYLE, Style, styles
from pipeline.report.studies import Context
from pipeline.report.view import Drawing, Frame, View
from pipeline.report.words import basis, count, edges, stated
from pipeline.statistics.accuracy import AVERAGE, MAIN
from pipeline.statistics.contrasts import Contrast, contrast, resample

TITLES = {
    "rho": "radius ρ of SAM",
    "temperature": "temperature",
    "initial_coefficient": "initial coefficient",
    "lr": "learning rate",
    "steps": "steps",
    "scale": "factor of the merged delta",
}
LOGARITHMIC = ("temperature", "lr", "steps", "scale")
CLOSE = 1.0
"""Points below the best value of a grid that count as good."""


def accuracies(rows: pd.DataFrame, tasks: Sequence[str]) -> pd.DataFrame:
    """A row per method, knob, value and seed (-1 without randomness): accuracy in % per task, and their average."""
    named = rows.assign(seed=rows.seed.fillna(-1).astype("int64"), accuracy=100 * rows.correct / rows.total)
    index = ["method", "knob", "value", "published", "seed"]
    wide = named.pivot(index=index, columns="task", values="accuracy")[list(tasks)]
    return wide.assign(**{AVERAGE: wide.mean(axis=1, skipna=False)}).reset_index()


def brittleness(runs: pd.DataFrame) -> pd.DataFrame:
    """Per method and knob, of means over seeds: worst, best, published, range, share within CLOSE of the best, n's."""
    found = []
    for (method, knob), part in runs.groupby(["method", "knob"], sort=False):
        means = part.groupby(["value", "published"])[AVERAGE].mean()
        published = float(means.xs(1, level="published").iloc[0])
        low, high = float(means.min()), float(means.max())
        share = float((means >= high - CLOSE).mean())
        found.append((method, knob, low, high, published, high - low, share, len(means), part.seed.nunique()))
    columns = ["method", "knob", "worst", "best", "published", "range", "share", "values", "seeds"]
    return pd.DataFrame(found, columns=columns)


def view(rows: pd.DataFrame, context: Context) -> View:
    """`rows`: the study's table."""
    runs = accuracies(rows, context.tasks)
    measured, looks = brittleness(runs), styles(context.titles)
    learned = runs[runs.knob != "scale"]
    seeds = learned.seed.nunique()
    scored = f"average accuracy over {len(context.tasks)} tasks of the {context.evaluation_split} split"
    protocol = f"{scored}; calibrated methods: on {context.calibration_split} images, {count(seeds, 'seed')}"
    figures = {
        "knobs": Drawing(
            curves(learned, looks, context.width),
            f"One knob at a time, the others as in params.yaml (dotted: its values): {protocol}; mean, and the least "
            f"to the greatest over seeds.",
        ),
        "scale": Drawing(
            curves(runs[runs.knob == "scale"], looks, context.width),
            f"The merged delta of data-free methods times a factor (dotted: the scale of params.yaml): {scored}; "
            f"methods that draw: mean, and the least to the greatest over their own seeds; the others ran once.",
        ),
        "brittleness": Drawing(
            ranges(measured, looks, context.width),
            f"From the worst to the best value of each grid, and the value of params.yaml (dot): {protocol}. At the "
            f"right the range in points, and the share of the grid within {CLOSE:g} point of its best. Ranges depend "
            f"on the grid: rows compare methods within a knob, not knobs.",
        ),
    }
    shown = measured.assign(
        method=measured.method.map(context.titles), knob=measured.knob.map(TITLES), share=100 * measured.share
    ).round(context.decimals)
    gains = _radii(rows, context)
    table = Frame(shown.rename(columns={"share": f"within {CLOSE:g} point, %"}), f"Sensitivity per knob: {protocol}.")
    return View(
        "Sensitivity",
        "How much of a method's accuracy hangs on its knobs, turned one at a time?",
        (*_sharpness(gains, context), *_ranges(measured, context)),
        {"brittleness": table},
        figures,
        {f"{MAIN}, rho {radius:g}": gain for radius, gain in gains.items()},
    )


def _radii(rows: pd.DataFrame, context: Context) -> dict[float, Contrast]:
    """{radius of SAM: it against none}: that of params.yaml and the largest."""
    part = rows[(rows.method == MAIN) & (rows.knob == "rho")]
    published, largest = float(part.value[part.published == 1].iloc[0]), float(part.value.max())
    radii = [radius for radius in dict.fromkeys((published, largest)) if radius > 0 and (part.value == 0).any()]
    if not radii:
        return {}
    found = resample(part, ("method", "knob", "value"), context.tasks)
    return {radius: contrast(found, [(MAIN, "rho", radius)], [(MAIN, "rho", 0.0)]) for radius in radii}


def _sharpness(gains: Mapping[float, Contrast], context: Context) -> list[str]:
    """What the radius of SAM does."""
    sentences = [
        f"{context.titles[MAIN]} with ρ = {radius:g} minus ρ = 0: {stated(gain.these, context.decimals + 1)}; on tasks "
        f"like these {edges(gain.like, context.decimals + 1)} (n = {count(gain.these.seeds, 'seed')})."
        for radius, gain in gains.items()
    ]
    return [*sentences, *(basis(gain) for gain in [*gains.values()][:1])]


def _ranges(measured: pd.DataFrame, context: Context) -> list[str]:
    sentences = []
    for knob, part in measured.groupby("knob", sort=False):
        ordered = part.sort_values("range", kind="stable")
        each = [
            f"{context.titles[row.method]} {row.range:.{context.decimals}f} (n = {row.seeds})"
            for row in ordered.itertuples()
        ]
        sentences.append(
            f"Over {part['values'].min()} values of the {TITLES[knob]} the average accuracy ranges over, in points and "
            f"with n runs per value: {', '.join(each)}."
        )
    return sentences


@mpl.rc_context(STYLE)
def curves(runs: pd.DataFrame, looks: Mapping[str, Style], width: float) -> Figure:
    """A panel per knob: average accuracy against its value, a line per method; dotted at each published value."""
    knobs, methods = (
        [knob for knob in TITLES if knob in set(runs.knob)],
        [name for name in looks if name in set(runs.method)],
    )
    columns = min(3, len(knobs))
    lines = -(-len(knobs) // columns)
    figure = Figure((width, (2.0 if len(knobs) > 1 else 3.2) * lines + 0.5), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False, sharey=True)
    for axes, knob in zip(panels.flat, knobs, strict=False):
        for name in methods:
            part = runs[(runs.knob == knob) & (runs.method == name)]
            if len(part):
                _line(axes, part, looks[name])
        axes.set_xlabel(TITLES[knob])
        _scale(axes, knob, runs[runs.knob == knob].value)
        axes.grid(alpha=0.3, linewidth=0.5)
    for axes in panels.flat[len(knobs) :]:
        axes.set_axis_off()
    for axes in panels[:, 0]:
        axes.set_ylabel("average accuracy (%)")
    handles = {
        label: line for axes in panels.flat for line, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=min(5, len(handles)))
    return figure


def _line(axes: Axes, part: pd.DataFrame, look: Style) -> None:
    found = part.groupby("value")[AVERAGE].agg(["mean", "min", "max"])
    axes.fill_between(found.index, found["min"], found["max"], color=look.colour, alpha=0.2, linewidth=0)
    axes.plot(found.index, found["mean"], color=look.colour, marker=look.marker, linestyle=look.line, label=look.title)
    axes.axvline(part.value[part.published == 1].iloc[0], color=look.colour, linestyle=":", linewidth=0.8)


def _scale(axes: Axes, knob: str, values: pd.Series) -> None:
    """Logarithmic where values are factors, and beyond the smallest positive one where zero is a value."""
    if knob == "rho":
        least = float(values[values > 0].min()) if (values > 0).any() else 1.0
        axes.set_xscale("symlog", linthresh=least, linscale=0.5)
        axes.set_xlim(-0.2 * least, 1.3 * max(float(values.max()), least))
    elif knob in LOGARITHMIC:
        axes.set_xscale("log")
    ticks = np.sort(values.unique())
    ticks = ticks[:: -(-len(ticks) // 5)] if knob != "scale" else ticks
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()


@mpl.rc_context(STYLE)
def ranges(measured: pd.DataFrame, looks: Mapping[str, Style], width: float) -> Figure:
    """A row per knob and method: a bar from the worst to the best accuracy, a dot at the published value."""
    parts = [measured[measured.knob == knob] for knob in TITLES]
    order = [part.sort_values("range", kind="stable") for part in parts if len(part)]
    figure = Figure((width, 0.17 * len(measured) + 0.13 * len(order) + 0.7), layout="constrained")
    axes, row, places, labels = figure.add_subplot(), 0.0, [], []
    for part in order:
        for one in part.itertuples():
            colour = looks[one.method].colour
            axes.plot([one.worst, one.best], [row, row], color=colour, linewidth=3, alpha=0.5, solid_capstyle="butt")
            axes.plot(one.published, row, "o", color=colour)
            text = f"{one.range:.1f}  {100 * one.share:.0f} %"
            axes.annotate(text, (1.01, row), xycoords=("axes fraction", "data"), va="center")
            places.append(row)
            labels.append(f"{TITLES[one.knob]}: {looks[one.method].title}")
            row += 1
        row += 0.7
    axes.set(yticks=places, yticklabels=labels, xlabel="average accuracy (%)")
    axes.set_ylim(row - 0.7 - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", alpha=0.3, linewidth=0.5)
    return figure
