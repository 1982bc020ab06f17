"""The loss landscape in the report: planes, segments, and whether one method's solution is flatter than another's."""

from collections.abc import Iterator, Mapping, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.report.figures import STYLE, Style, styles
from pipeline.report.studies import Context
from pipeline.report.studies._shared import add_legend, line_style, plot_range
from pipeline.report.view import Drawing, Frame, View
from pipeline.report.words import count, excludes_zero
from pipeline.statistics.accuracy import MAIN, TWIN
from pipeline.statistics.contrasts import paired_difference

WHERE = {"coefficients": "coefficients λ", "weights": "merged weights θ"}
LEVELS = 12
NATS, ACCURACY = "mean KL (nats)", "accuracy (%)"
DIGITS = {NATS: 2, ACCURACY: 3}
"""Of the numbers beside a scale of colours."""
LEAST = 1e-6
"""The smallest loss that logarithmic colours tell apart."""
START = "pre-trained"
EIGENVALUE = "largest Hessian eigenvalue"

Rows = Mapping[str, pd.DataFrame]
"""{name: table} of the study's folder."""


def compute_rises(rises: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with a radius, and `rise`: the loss there above that of the solution."""
    keys = ["method", "seed", "space", "direction", "task"]
    centre = rises[rises.radius == 0].set_index(keys).loss
    risen = rises[rises.radius > 0]
    return risen.assign(rise=risen.loss.to_numpy() - centre.loc[pd.MultiIndex.from_frame(risen[keys])].to_numpy())


def view(rows: Rows, context: Context) -> View:
    """`rows`: the tables of the study's folder."""
    risen, solutions = compute_rises(rows["rises"]), rows["solutions"]
    planes, points = rows["planes"], rows["points"].fillna({"point": ""})
    held = str(solutions.split.iloc[-1])  # the split that planes and sharpness were measured on
    measures = _measure(rows, risen, held, context)
    shared, vectors = (planes[planes.kind == kind].plane.unique().tolist() for kind in ("solutions", "tasks"))
    unseen = held != context.calibration_split
    seen = "which calibration did not see" if unseen else "THE SPLIT OF CALIBRATION ITSELF"
    examples = f"{int(planes.total.max())} {held} examples per task, {seen}"
    seeds, first = count(rows["rises"].seed.nunique(), "seed"), f"seed {planes.seed.iloc[0]}"
    return View(
        title="Loss landscape",
        question=(
            "Does sharpness-aware minimisation find coefficients whose neighbourhood is flatter, and is flatter better?"
        ),
        sentences=(
            *_describe_differences(measures, context),
            _describe_order(measures, context.titles),
            _describe_errors(rows["curvature"], context.tasks),
        ),
        tables={
            "sharpness": Frame(
                _tabulate(measures, context.titles), f"Mean ± sample standard deviation over {seeds}, on {examples}."
            )
        },
        figures={
            "planes": Drawing(
                _draw_planes(planes, points, shared, context),
                f"Mean KL divergence from the experts (left, logarithmic colours) and mean accuracy (right) on the "
                f"plane of coefficients through the pre-trained model (λ = 0) and two solutions; axes: Euclidean "
                f"distances. On {examples}; {first}.",
            ),
            "vectors": Drawing(
                _draw_planes(planes, points, vectors, context),
                f"The same at θ₀ + a τᵢ + b τⱼ of two tasks, over these two tasks alone. On {examples}; {first}, no "
                f"method involved.",
            ),
            "segments": Drawing(
                _draw_segments(rows["segments"], context),
                f"Mean KL divergence and accuracy along the segment between two solutions (0 and 1) and beyond it: "
                f"mean, and the least to the greatest over {seeds}. On {examples}.",
            ),
            "rises": Drawing(
                _draw_rises(risen, styles(context.titles), context.width),
                f"Rise of the summed KL divergence within a radius of each solution: the worst point that projected "
                f"gradient ascent finds, and the mean over random directions there; mean, and the least to the "
                f"greatest over {seeds}. On {held} examples, {seen}.",
            ),
        },
    )


def _add_accuracy(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(accuracy=100 * rows.correct / rows.total)


def _pivot(rows: pd.DataFrame, value: str, tasks: Sequence[str]) -> pd.DataFrame:
    """Return (method, seed) -> T times `value`, a column per task, so that the mean over the T tasks is the sum."""
    return len(tasks) * rows.pivot(index=["method", "seed"], columns="task", values=value)[list(tasks)]


def _measure(rows: Rows, risen: pd.DataFrame, held: str, context: Context) -> dict[str, pd.DataFrame]:
    """Return {measure: (method, seed) -> per task}: accuracies in %, losses and sharpness as T times their part."""
    tasks, solutions, curvature = context.tasks, rows["solutions"], rows["curvature"]
    scored, fitted = (solutions[solutions.split == split] for split in (held, context.calibration_split))
    measures = {
        "accuracy, %": _pivot(_add_accuracy(scored), "accuracy", tasks) / len(tasks),
        "loss": _pivot(scored, "loss", tasks),
        "loss above that of calibration examples": _pivot(scored, "loss", tasks) - _pivot(fitted, "loss", tasks),
        EIGENVALUE: _pivot(curvature[curvature.measure == "eigenvalue"], "value", tasks),
        "Hessian trace": _pivot(curvature[curvature.measure == "trace"], "value", tasks),
    }
    for (space, radius), part in risen[risen.direction == "worst"].groupby(["space", "radius"]):
        measures[f"worst rise within {radius:g} in {WHERE[space]}"] = _pivot(part, "rise", tasks)
    return measures


def _describe_differences(measures: Rows, context: Context) -> Iterator[str]:
    """Compare SAMerging with distillation in every measure."""
    pair = f"{context.titles[MAIN]} minus {context.titles[TWIN].lower()}"
    for name, table in measures.items():
        gain = paired_difference(table, context.tasks, MAIN, TWIN)
        verb = "excludes" if excludes_zero(gain) else "includes"
        yield (
            f"{name[0].upper()}{name[1:]}, {pair} ({float(table.loc[TWIN].to_numpy().mean()):.4g}): {gain.mean:+.3g}, "
            f"95 % interval [{gain.low:+.3g}, {gain.high:+.3g}], which {verb} zero (n = {count(gain.seeds, 'seed')}, "
            f"{gain.tasks} tasks)."
        )


def _describe_order(measures: Rows, titles: Mapping[str, str]) -> str:
    """Order the methods from flat to sharp, and from accurate to not."""

    def order(name: str, ascending: bool) -> str:
        means = measures[name].mean(axis=1).groupby("method").mean()
        values = means.sort_values(ascending=ascending, kind="stable")
        return ", ".join(f"{titles[str(method)]} ({value:.4g})" for method, value in values.items())

    methods = measures[EIGENVALUE].index.unique("method")
    return (
        f"From the flattest to the sharpest by the {EIGENVALUE}: {order(EIGENVALUE, True)}; from the most to the least "
        f"accurate: {order('accuracy, %', False)}. These are {len(methods)} methods: too few for a correlation."
    )


def _describe_errors(curvature: pd.DataFrame, tasks: Sequence[str]) -> str:
    errors = curvature[curvature.measure == "error"].value
    traces = _pivot(curvature[curvature.measure == "trace"], "value", tasks).mean(axis=1)
    return (
        f"The standard error of one estimated trace is at most {errors.max():.3g} (traces: {traces.min():.3g} to "
        f"{traces.max():.3g}, n = {len(traces)} solutions); the worst rise is a lower bound, found by ascent."
    )


def _tabulate(measures: Rows, titles: Mapping[str, str]) -> pd.DataFrame:
    def cell(values: pd.Series) -> str:
        return f"{values.mean():.4g}" + (f" ± {values.std():.2g}" if len(values) > 1 else "")

    return pd.DataFrame(
        {"method": titles[method]} | {name: cell(table.loc[method].mean(axis=1)) for name, table in measures.items()}
        for method in measures["loss"].index.unique("method")
    )


@mpl.rc_context(STYLE)
def _draw_planes(planes: pd.DataFrame, points: pd.DataFrame, names: Sequence[str], context: Context) -> Figure:
    """Draw a row per plane: loss and accuracy as filled contours, with the points that span it."""
    figure = Figure((context.width, 0.43 * context.width * len(names)), layout="constrained")
    for name, panels in zip(names, figure.subplots(len(names), 2, squeeze=False), strict=True):
        part = _add_accuracy(planes[planes.plane == name])
        means = part.groupby(["y", "x"])[["loss", "accuracy"]].mean().unstack("x")
        x, y = means["loss"].columns.to_numpy(), means.index.to_numpy()
        loss, accuracy = means["loss"].to_numpy(), means["accuracy"].to_numpy()
        low = max(loss.min(), LEAST)
        high = max(loss.max(), 1.01 * low)
        worst = accuracy.min()
        best = max(accuracy.max(), worst + 0.01)
        kinds = (
            (loss.clip(low), NATS, "viridis_r", np.geomspace(low, high, LEVELS)),
            (accuracy, ACCURACY, "viridis", np.linspace(worst, best, LEVELS)),
        )
        for axes, (values, title, colours, levels) in zip(panels, kinds, strict=True):
            norm = mpl.colors.LogNorm(low, high) if title == NATS else None
            filled = axes.contourf(x, y, values, levels=levels, cmap=colours, norm=norm)
            bar = figure.colorbar(filled, ax=axes, pad=0.02)
            bar.set_label(title)
            bar.ax.minorticks_off()
            ticks = levels[:: (LEVELS - 1) // 4].tolist()
            bar.set_ticks(ticks, labels=[f"{tick:.{DIGITS[title]}g}" for tick in ticks])
            _mark(axes, points[points.plane == name], context.titles)
            axes.set_aspect("equal")
    return figure


def _mark(axes: Axes, points: pd.DataFrame, titles: Mapping[str, str]) -> None:
    """Mark the points of a plane; their names alternate above and below, so that they do not hide each other."""
    for index, (name, x, y) in enumerate(zip(points["point"], points["x"], points["y"], strict=True)):
        below = index % 2
        axes.plot(x, y, "o", color="white", markeredgecolor="black", markersize=4)
        axes.annotate(
            titles.get(name, name) or START,
            (x, y),
            xytext=(0, -5 if below else 5),
            textcoords="offset points",
            ha="center",
            va="top" if below else "bottom",
            bbox={"facecolor": "white", "alpha": 0.6, "linewidth": 0, "pad": 0.8},
            fontsize=7,
        )


@mpl.rc_context(STYLE)
def _draw_segments(segments: pd.DataFrame, context: Context) -> Figure:
    """Draw a column per segment: mean loss above, accuracy below, against the share of the second solution."""
    scored = _add_accuracy(segments).set_index(["first", "second"])
    names = scored.index.unique()
    figure = Figure((context.width, 3.4), layout="constrained")
    panels = figure.subplots(2, len(names), squeeze=False, sharex=True)
    for column, (first, second) in enumerate(names):
        means = scored.loc[(first, second)].groupby(["share", "seed"])[["loss", "accuracy"]].mean()
        for axes, value, colour in zip(panels[:, column], means, ("#0072B2", "#D55E00"), strict=True):
            plot_range(axes, means[value], "share", {"color": colour}, alpha=0.25)
            for end in (0, 1):
                axes.axvline(end, color="#777777", linestyle=":", linewidth=0.8)
            axes.grid(alpha=0.3, linewidth=0.5)
        panels[1, column].set_xlabel(f"0: {context.titles[first]}, 1: {context.titles[second]}")
    panels[0, 0].set_ylabel(NATS)
    panels[1, 0].set_ylabel(ACCURACY)
    return figure


@mpl.rc_context(STYLE)
def _draw_rises(risen: pd.DataFrame, looks: Mapping[str, Style], width: float) -> Figure:
    """Draw a panel per space and direction: rise of the loss against the radius, a line per method; scales differ."""
    figure = Figure((width, 4.4), layout="constrained")
    panels = figure.subplots(2, 2, sharex="col")
    sums = risen.groupby(["direction", "space", "method", "radius", "seed"]).rise.sum()
    methods = [name for name in looks if name in set(risen.method)]
    for row, direction in enumerate(("worst", "random")):
        for axes, space in zip(panels[row], WHERE, strict=True):
            for name in methods:
                plot_range(axes, sums.loc[direction, space, name], "radius", line_style(looks[name]))
            axes.set(xscale="log", yscale="log" if direction == "worst" else "linear")
            ticks = np.sort(risen[risen.space == space].radius.unique())
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.xaxis.minorticks_off()
            axes.grid(alpha=0.3, linewidth=0.5)
        panels[row, 0].set_ylabel(f"rise, {direction} direction")
    for axes, text in zip(panels[1], WHERE.values(), strict=True):
        axes.set_xlabel(f"radius in {text}")
    return add_legend(figure, panels[0, 0], 4)
