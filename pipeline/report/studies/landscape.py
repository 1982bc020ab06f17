"""The loss landscape in the report: planes, segments, and whether one method's solution is flatter than another's."""

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.report.figures import STYLE, Style, styles
from pipeline.report.studies import Context
from pipeline.report.view import Drawing, Frame, View
from pipeline.statistics.accuracy import MAIN, TWIN
from pipeline.statistics.contrasts import difference

WHERE = {"coefficients": "coefficients λ", "weights": "merged weights θ"}
LEVELS = 12
NATS, ACCURACY = "mean KL (nats)", "accuracy (%)"
DIGITS = {NATS: 2, ACCURACY: 3}
"""Of the numbers beside a scale of colours."""
LEAST = 1e-6
"""The smallest loss that logarithmic colours tell apart."""
START = "pre-trained"


def per_task(rows: pd.DataFrame, value: str, tasks: Sequence[str]) -> pd.DataFrame:
    """(method, seed) -> a column per task that holds T times `value`, so that the mean over tasks is the sum."""
    return len(tasks) * rows.pivot(index=["method", "seed"], columns="task", values=value)[list(tasks)]


def rise(rises: pd.DataFrame) -> pd.DataFrame:
    """The rows with a radius, and `rise`: the loss there above that of the solution."""
    keys = ["method", "seed", "space", "direction", "task"]
    centre = rises[rises.radius == 0].set_index(keys).loss
    found = rises[rises.radius > 0]
    return found.assign(rise=found.loss.to_numpy() - centre.loc[pd.MultiIndex.from_frame(found[keys])].to_numpy())


def measures(rows: Mapping[str, pd.DataFrame], context: Context) -> dict[str, pd.DataFrame]:
    """{what was measured: (method, seed) -> per task}: accuracies in %, losses and sharpness as T times their part."""
    tasks, solutions = context.tasks, rows["solutions"]
    held, fitted = (solutions[solutions.split == split] for split in (_held(rows), context.calibration_split))
    accuracy = held.assign(accuracy=100 * held.correct / held.total)
    found = {
        "accuracy, %": per_task(accuracy, "accuracy", tasks) / len(tasks),
        "loss": per_task(held, "loss", tasks),
        "loss above that of calibration images": per_task(held, "loss", tasks) - per_task(fitted, "loss", tasks),
    }
    curvature, risen = rows["curvature"], rise(rows["rises"])
    found["largest Hessian eigenvalue"] = per_task(curvature[curvature.measure == "eigenvalue"], "value", tasks)
    found["Hessian trace"] = per_task(curvature[curvature.measure == "trace"], "value", tasks)
    for (space, radius), part in risen[risen.direction == "worst"].groupby(["space", "radius"]):
        found[f"worst rise within {radius:g} in {WHERE[space]}"] = per_task(part, "rise", tasks)
    return found


def view(rows: Mapping[str, pd.DataFrame], context: Context) -> View:
    """`rows`: {name: table} of the study's folder."""
    looks, found = styles(context.titles), measures(rows, context)
    planes, points = rows["planes"], rows["points"].fillna({"point": ""})
    shared, vectors = (planes[planes.kind == kind].plane.unique() for kind in ("solutions", "tasks"))
    images = f"{int(planes.total.max())} {_held(rows)} images per task, {_seen(rows, context)}"
    seeds = rows["rises"].seed.nunique()
    few = f"{seeds} seed{'s' * (seeds != 1)}"
    first = f"seed {planes.seed.iloc[0]}"
    drawn = {
        "planes": Drawing(
            heat(planes, points, shared, context, context.width),
            f"Mean KL divergence from the experts (left, logarithmic colours) and mean accuracy (right) on the plane "
            f"of coefficients through the pre-trained model (λ = 0) and two solutions; axes: Euclidean distances. "
            f"On {images}; {first}.",
        ),
        "vectors": Drawing(
            heat(planes, points, vectors, context, context.width),
            f"The same at θ₀ + a τᵢ + b τⱼ of two tasks, over these two tasks alone. On {images}; {first}, no method "
            f"involved.",
        ),
        "segments": Drawing(
            lines(rows["segments"], context, context.width),
            f"Mean KL divergence and accuracy along the segment between two solutions (0 and 1) and beyond it: mean, "
            f"and the least to the greatest over {few}. On {images}.",
        ),
        "rises": Drawing(
            radii(rise(rows["rises"]), looks, context.width),
            f"Rise of the summed KL divergence within a radius of each solution: the worst point that projected "
            f"gradient ascent finds, and the mean over random directions there; mean, and the least to the greatest "
            f"over {few}. On {_held(rows)} images, {_seen(rows, context)}.",
        ),
    }  # fmt: skip
    return View(
        "Loss landscape",
        "Does sharpness-aware minimisation find coefficients whose neighbourhood is flatter, and is flatter better?",
        (*_differences(found, context), *_order(found, context), _error(rows, context)),
        {"sharpness": Frame(_table(found, context), f"Mean ± sample standard deviation over {few}, on {images}.")},
        drawn,
    )


def _held(rows: Mapping[str, pd.DataFrame]) -> str:
    """The split that planes and sharpness were measured on: the last one of the solutions."""
    return str(rows["solutions"].split.iloc[-1])


def _seen(rows: Mapping[str, pd.DataFrame], context: Context) -> str:
    if _held(rows) == context.calibration_split:
        return "THE SPLIT OF CALIBRATION ITSELF"
    return "which calibration did not see"


def _differences(found: Mapping[str, pd.DataFrame], context: Context) -> list[str]:
    """SAMerging minus distillation in every measure."""
    said = []
    for name, table in found.items():
        gain = difference(table, context.tasks, MAIN, TWIN)
        zero = "excludes" if gain.low > 0 or gain.high < 0 else "includes"
        base = float(table.loc[TWIN].to_numpy().mean())
        said.append(
            f"{name[0].upper()}{name[1:]}, {context.titles[MAIN]} minus {context.titles[TWIN].lower()} ({base:.4g}): "
            f"{gain.mean:+.3g}, 95 % interval [{gain.low:+.3g}, {gain.high:+.3g}], which {zero} zero (n = {gain.seeds} "
            f"seed{'s' * (gain.seeds != 1)}, {gain.tasks} tasks)."
        )
    return said


def _order(found: Mapping[str, pd.DataFrame], context: Context) -> list[str]:
    """Methods from flat to sharp beside methods from accurate to not."""
    means = {name: table.mean(axis=1).groupby("method").mean() for name, table in found.items()}

    def ordered(name: str, ascending: bool) -> str:
        values = means[name].sort_values(ascending=ascending, kind="stable")
        return ", ".join(f"{context.titles[method]} ({value:.4g})" for method, value in values.items())

    flat, good = "largest Hessian eigenvalue", "accuracy, %"
    count = len(means[flat])
    return [
        f"From the flattest to the sharpest by the {flat}: {ordered(flat, True)}; from the most to the least accurate: "
        f"{ordered(good, False)}. These are {count} methods: too few for a correlation."
    ]


def _error(rows: Mapping[str, pd.DataFrame], context: Context) -> str:
    curvature = rows["curvature"]
    errors = curvature[curvature.measure == "error"].value
    traces = per_task(curvature[curvature.measure == "trace"], "value", context.tasks).mean(axis=1)
    return (
        f"The standard error of one estimated trace is at most {errors.max():.3g} (traces: {traces.min():.3g} to "
        f"{traces.max():.3g}, n = {len(traces)} solutions); the worst rise is a lower bound, found by ascent."
    )


def _table(found: Mapping[str, pd.DataFrame], context: Context) -> pd.DataFrame:
    rows = []
    for method in found["loss"].index.get_level_values("method").unique():
        row = {"method": context.titles[method]}
        for name, table in found.items():
            values = table.loc[method].mean(axis=1)
            row[name] = f"{values.mean():.4g}" + (f" ± {values.std():.2g}" if len(values) > 1 else "")
        rows.append(row)
    return pd.DataFrame(rows)


def _square(part: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """x, y, and mean loss and accuracy in % over tasks [y, x]."""
    named = part.assign(accuracy=100 * part.correct / part.total)
    found = named.groupby(["y", "x"])[["loss", "accuracy"]].mean().unstack("x")
    return (
        found["loss"].columns.to_numpy(),
        found.index.to_numpy(),
        found["loss"].to_numpy(),
        found["accuracy"].to_numpy(),
    )


@mpl.rc_context(STYLE)
def heat(planes: pd.DataFrame, points: pd.DataFrame, names: Sequence[str], context: Context, width: float) -> Figure:
    """A row per plane: loss and accuracy as filled contours, with the points that span it."""
    figure = Figure((width, 0.43 * width * len(names)), layout="constrained")
    for name, panels in zip(names, figure.subplots(len(names), 2, squeeze=False), strict=True):
        x, y, loss, accuracy = _square(planes[planes.plane == name])
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
            ticks = levels[:: (LEVELS - 1) // 4]
            bar.set_ticks(ticks, labels=[f"{tick:.{DIGITS[title]}g}" for tick in ticks])
            _mark(axes, points[points.plane == name], context.titles)
            axes.set_aspect("equal")
    return figure


def _mark(axes: Axes, points: pd.DataFrame, titles: Mapping[str, str]) -> None:
    """The points of a plane; a name that would hide another goes to the other side."""
    for place, one in enumerate(points.itertuples()):
        axes.plot(one.x, one.y, "o", color="white", markeredgecolor="black", markersize=4)
        axes.annotate(
            titles.get(one.point, one.point) or START,
            (one.x, one.y),
            xytext=(0, 5 if place % 2 == 0 else -5),
            textcoords="offset points",
            ha="center",
            va="bottom" if place % 2 == 0 else "top",
            bbox={"facecolor": "white", "alpha": 0.6, "linewidth": 0, "pad": 0.8},
            fontsize=7,
        )


@mpl.rc_context(STYLE)
def lines(segments: pd.DataFrame, context: Context, width: float) -> Figure:
    """A column per segment: mean loss above, accuracy below, against the share of the second solution."""
    named = segments.assign(accuracy=100 * segments.correct / segments.total).set_index(["first", "second"])
    names = named.index.unique()
    figure = Figure((width, 3.4), layout="constrained")
    panels = figure.subplots(2, len(names), squeeze=False, sharex=True)
    for column, name in enumerate(names):
        means = named.loc[name].groupby(["share", "seed"])[["loss", "accuracy"]].mean()
        for axes, value, colour in zip(panels[:, column], means, ("#0072B2", "#D55E00"), strict=True):
            found = means[value].groupby("share").agg(["mean", "min", "max"])
            axes.fill_between(found.index, found["min"], found["max"], color=colour, alpha=0.25, linewidth=0)
            axes.plot(found.index, found["mean"], color=colour)
            for end in (0, 1):
                axes.axvline(end, color="#777777", linestyle=":", linewidth=0.8)
            axes.grid(alpha=0.3, linewidth=0.5)
        first, second = (context.titles[method] for method in name)
        panels[1, column].set_xlabel(f"0: {first}, 1: {second}")
    panels[0, 0].set_ylabel(NATS)
    panels[1, 0].set_ylabel(ACCURACY)
    return figure


@mpl.rc_context(STYLE)
def radii(risen: pd.DataFrame, looks: Mapping[str, Style], width: float) -> Figure:
    """A panel per space and direction: rise of the loss against the radius, a line per method; scales differ."""
    figure = Figure((width, 4.4), layout="constrained")
    panels = figure.subplots(2, 2, sharex="col")
    sums = risen.groupby(["direction", "space", "method", "radius", "seed"]).rise.sum()
    methods = [name for name in looks if name in set(risen.method)]
    for row, direction in enumerate(("worst", "random")):
        for column, space in enumerate(WHERE):
            axes = panels[row, column]
            for name in methods:
                found = sums.loc[direction, space, name].groupby("radius").agg(["mean", "min", "max"])
                look = looks[name]
                axes.fill_between(found.index, found["min"], found["max"], color=look.colour, alpha=0.2, linewidth=0)
                axes.plot(
                    found.index,
                    found["mean"],
                    color=look.colour,
                    marker=look.marker,
                    linestyle=look.line,
                    label=look.title,
                )
            axes.set(xscale="log", yscale="log" if direction == "worst" else "linear")
            ticks = found.index.to_numpy()
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.xaxis.minorticks_off()
            axes.grid(alpha=0.3, linewidth=0.5)
        panels[row, 0].set_ylabel(f"rise, {direction} direction")
    for axes, text in zip(panels[1], WHERE.values(), strict=True):
        axes.set_xlabel(f"radius in {text}")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return figure
