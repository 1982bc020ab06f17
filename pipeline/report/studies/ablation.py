"""The ablation in the report (the paper's Table 5, completed): what each part of SAMerging adds."""

from collections.abc import Iterator, Mapping

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from pipeline.report.figures import COLOURS, MARKERS, STYLE
from pipeline.report.studies import Context
from pipeline.report.view import Drawing, Frame, View
from pipeline.report.words import INTERVALS, WINS, accuracies, basis, count, further, interval, spread, stated
from pipeline.statistics.bootstrap import Resampled
from pipeline.statistics.contrasts import Contrast, Setting, contrast, resample

FACTORS = ("objective", "sharpness", "granularity")
NAMES = {
    "entropy": "entropy",
    "distillation": "distillation",
    "none": "no sharpness",
    "sam": "SAM",
    "asam": "ASAM",
    "task": "task-wise",
    "layer": "layer-wise",
}
EFFECTS = (
    ("objective", "distillation", "entropy"),
    ("sharpness", "sam", "none"),
    ("sharpness", "asam", "none"),
    ("granularity", "layer", "task"),
)
"""(factor, level, against which other)."""
RELEASED = ("distillation", "none", "layer")
FULL = ("distillation", "sam", "layer")


def view(rows: pd.DataFrame, context: Context) -> View:
    """`rows`: the study's scores; their settings are `objective/sharpness/granularity`."""
    parts = rows.setting.str.split("/", expand=True).set_axis(list(FACTORS), axis=1)
    runs, decimals = (rows.join(parts), FACTORS, context.tasks), context.decimals + 1
    table, found = accuracies(*runs), resample(*runs)
    main = {effect: _effect(found, *effect) for effect in EFFECTS}
    seeds = count(rows.seed.nunique(), "seed")
    shared = (
        f"{seeds}; {rows.k.max():,} unlabelled images per task of the {context.calibration_split} split at most, "
        f"scored on the {context.evaluation_split} split; {_shared(context)}"
    )
    released = contrast(found, [FULL], [RELEASED])
    effects = {
        f"{level} minus {other}, {where}": effect
        for key, mean in main.items()
        for _, level, other in [key]
        for where, effect in (("all", mean), *_simple(found, *key))
    }
    return View(
        title="Ablation",
        question=(
            "Which part of SAMerging does what? Every combination of objective, sharpness and granularity of the "
            "coefficients, all else equal."
        ),
        sentences=(
            *(
                f"{_capital(NAMES[level])} instead of {NAMES[other]}, mean over all combinations of the other factors: "
                f"{stated(one.these, decimals)}; better on {one.won} and worse on {one.lost} of "
                f"{count(one.these.tasks, 'task')} (n = {count(one.these.seeds, 'seed')})."
                for (_, level, other), one in main.items()
            ),
            f"{_name(RELEASED)} is what the released configuration effectively computes: its SAM never merges again "
            f"between the two passes, so that its coefficients equal, bit for bit, those without sharpness. It has "
            f"{spread(table.loc[RELEASED].mean(axis=1), context.decimals)} %; working SAM changes that by "
            f"{stated(released.these, decimals)} (n = {count(released.these.seeds, 'seed')}).",
            basis(released),
        ),
        figures={
            "ablation": Drawing(
                _figure(table, context.width),
                f"Average accuracy over {count(len(context.tasks), 'task')} of every combination: a small dot per "
                f"seed, a large one at their mean; {shared}",
            )
        },
        tables={
            "combinations": Frame(
                _combinations(table, context),
                f"Average accuracy in %, mean ± sample standard deviation over {shared}",
            ),
            "effects": Frame(
                _effects(found, main, decimals),
                f"Points of average accuracy that a level adds to another, with 95 % interval: over all combinations "
                f"of the other factors, and in each of them. {INTERVALS} {WINS} Paired over {shared}",
            ),
        },
        contrasts={"released": released, **effects},
    )


def _effect(found: Resampled, factor: str, level: str, other: str, **fixed: str) -> Contrast:
    """A level minus another of a factor, each the mean over the combinations of all that is not `fixed`."""
    return contrast(found, *(_where(found, **{**fixed, factor: value}) for value in (level, other)))


def _where(found: Resampled, **levels: str) -> list[Setting]:
    """The settings with these levels."""
    return [one for one in found.observed if levels.items() <= dict(zip(FACTORS, one, strict=True)).items()]


def _simple(found: Resampled, factor: str, level: str, other: str) -> Iterator[tuple[str, Contrast]]:
    """(combination of the other factors, effect of a level there)."""
    for setting in sorted(_where(found, **{factor: level})):
        rest = {name: one for name, one in zip(FACTORS, setting, strict=True) if name != factor}
        yield ", ".join(NAMES[one] for one in rest.values()), _effect(found, factor, level, other, **rest)


def _shared(context: Context) -> str:
    """What all combinations have in common, from the parameters that the study ran with."""
    params = context.params
    texts = (
        f"rho {params['rho']}",
        f"temperature of distillation {params['temperature']}",
        f"weight decay {params['weight_decay']}",
        f"coefficients at the start ({params['study.ablation']['initial_coefficient']})",
    )
    return f"the same {', '.join(texts)}, learning rate and steps in each."


def _combinations(table: pd.DataFrame, context: Context) -> pd.DataFrame:
    """A row per combination; the one of the released code and the whole method are named."""
    means = table.mean(axis=1)
    notes = {RELEASED: "as the released code computes", FULL: "SAMerging"}
    names = sorted({*table.index.droplevel("seed")}, key=lambda name: [*map([*NAMES].index, name)])
    return pd.DataFrame(
        [
            {
                **{factor.capitalize(): NAMES[one] for factor, one in zip(FACTORS, name, strict=True)},
                "Average": spread(means.loc[name], context.decimals),
                "Worst task": spread(table.loc[name].min(axis=1), context.decimals),
                "": notes.get(name, ""),
            }
            for name in names
        ]
    )


def _effects(found: Resampled, main: Mapping[tuple[str, str, str], Contrast], decimals: int) -> pd.DataFrame:
    """A row per effect and combination of the other factors, that over all of them first."""
    return pd.DataFrame(
        [
            {
                "Effect": f"{NAMES[effect[1]]} minus {NAMES[effect[2]]}",
                "Where": where,
                "Points": interval(one.these, decimals),
                **further(one, decimals),
            }
            for effect, mean in main.items()
            for where, one in (("all", mean), *_simple(found, *effect))
        ]
    )


def _name(combination: tuple[str, ...]) -> str:
    return _capital(" + ".join(NAMES[one] for one in combination))


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


@mpl.rc_context(STYLE)
def _figure(table: pd.DataFrame, width: float) -> Figure:
    """A panel per granularity, sharpness along it, a line per objective."""
    figure, means = Figure((width, 0.45 * width), layout="constrained"), table.mean(axis=1)
    order = [name for name in ("none", "sam", "asam") if name in table.index.unique("sharpness")]
    panels = figure.subplots(1, 2, sharey=True)
    for axes, granularity in zip(panels, ("task", "layer"), strict=True):
        for index, objective in enumerate(("entropy", "distillation")):
            found = means.xs((objective, granularity), level=("objective", "granularity"))
            look = {"color": COLOURS[index], "marker": MARKERS[index]}
            places = np.arange(len(order))
            for place, name in enumerate(order):
                axes.plot([place] * len(found[name]), found[name], linestyle="", alpha=0.5, markersize=2.5, **look)
            middle = found.groupby("sharpness").mean()[order]
            axes.plot(places, middle, label=NAMES[objective], **look)
            for place, value in zip(places, middle, strict=True):
                axes.annotate(f"{value:.1f}", (place, value), (0, 5), textcoords="offset points", ha="center")
        axes.set(title=f"{NAMES[granularity]} coefficients", xlim=(-0.4, len(order) - 0.6))
        axes.set_xticks(range(len(order)), [NAMES[name] for name in order])
        axes.grid(axis="y", alpha=0.3, linewidth=0.5)
    panels[0].set_ylabel("average accuracy (%)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure
