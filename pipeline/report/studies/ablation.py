"""The ablation in the report (the paper's Table 5, completed): what each part of SAMerging adds."""

from typing import NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from pipeline.report.figures import COLOURS, MARKERS, STYLE
from pipeline.report.studies import Context
from pipeline.report.studies._shared import add_legend, count_seeds
from pipeline.report.view import Drawing, Frame, View
from pipeline.report.words import INTERVALS, WINS, accuracies, basis, count, further, interval, spread, stated
from pipeline.statistics.contrasts import Contrast, StudySetting, contrast_settings, mark_settings
from pipeline.statistics.intervals import Marks

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
"""(factor, level, level it is compared with)."""
RELEASED = ("distillation", "none", "layer")
FULL = ("distillation", "sam", "layer")


class Effect(NamedTuple):
    """What a level of a factor adds to another level."""

    level: str
    other: str
    where: str
    """The combination of the other factors; "all" for the mean over all combinations."""
    contrast: Contrast


def view(rows: pd.DataFrame, context: Context) -> View:
    """`rows`: the study's scores; their settings are `objective/sharpness/granularity`."""
    parts = rows.setting.str.split("/", expand=True).set_axis(list(FACTORS), axis=1)
    runs, digits, params = (rows.join(parts), FACTORS, context.tasks), context.digits, context.params
    table, marks = accuracies(*runs), mark_settings(*runs, context.clusters)
    means, effects = table.mean(axis=1), _contrast_levels(marks)
    released = contrast_settings(marks, [FULL], [RELEASED])
    scope = (
        f"{count(rows.seed.nunique(), 'seed')}; {rows.k.max():,} unlabelled examples per task of the "
        f"{context.calibration_split} split at most, scored on the {context.evaluation_split} split; the same rho "
        f"{params['rho']}, temperature of distillation {params['temperature']}, weight decay {params['weight_decay']}, "
        f"coefficients at the start ({params['study.ablation']['initial_coefficient']}), learning rate and steps in "
        f"each."
    )
    return View(
        title="Ablation",
        question=(
            "Which part of SAMerging does what? Every combination of objective, sharpness and granularity of the "
            "coefficients, all else equal."
        ),
        sentences=(
            *(
                f"{_capitalise(NAMES[level])} instead of {NAMES[other]}, mean over all combinations of the other "
                f"factors: {stated(effect.these, digits)}; better on {effect.won} and worse on {effect.lost} of "
                f"{count(effect.these.tasks, 'task')} ({count_seeds(effect.these)})."
                for level, other, where, effect in effects
                if where == "all"
            ),
            f"{_capitalise(' + '.join(NAMES[level] for level in RELEASED))} is what the released code "
            f"computes (here from another start): its SAM never merges again between the two passes, so that its "
            f"coefficients equal, bit for bit, those without sharpness. It has "
            f"{spread(means.loc[RELEASED], context.decimals)} %; working SAM changes that by "
            f"{stated(released.these, digits)} ({count_seeds(released.these)}).",
            basis(released),
        ),
        figures={
            "ablation": Drawing(
                _draw_combinations(means, context.width),
                f"Average accuracy over {count(len(context.tasks), 'task')} of every combination: a small dot per "
                f"seed, a large one at their mean; {scope}",
            )
        },
        tables={
            "combinations": Frame(
                _tabulate_combinations(table, context.decimals),
                f"Average accuracy in %, mean ± sample standard deviation over {scope}",
            ),
            "effects": Frame(
                pd.DataFrame(
                    {
                        "Effect": f"{NAMES[level]} minus {NAMES[other]}",
                        "Where": where,
                        "Points": interval(effect.these, digits),
                        **further(effect, digits),
                    }
                    for level, other, where, effect in effects
                ),
                f"Points of average accuracy that a level adds to another, with 95 % interval: over all combinations "
                f"of the other factors, and in each of them. {INTERVALS} {WINS} Paired over {scope}",
            ),
        },
        contrasts={
            "released": released,
            **{f"{level} minus {other}, {where}": effect for level, other, where, effect in effects},
        },
    )


def _contrast_levels(marks: Marks[StudySetting]) -> list[Effect]:
    """Contrast the levels of EFFECTS over all combinations of the other factors, then in each of them."""

    def find(levels: dict[str, str]) -> list[StudySetting]:
        return [name for name in marks.tasks if levels.items() <= dict(zip(FACTORS, name, strict=True)).items()]

    effects = []
    for factor, level, other in EFFECTS:
        settings = find({factor: level})
        effects.append(Effect(level, other, "all", contrast_settings(marks, settings, find({factor: other}))))
        for setting in sorted(settings):
            fixed = {name: str(value) for name, value in zip(FACTORS, setting, strict=True) if name != factor}
            compared = contrast_settings(marks, [setting], find(fixed | {factor: other}))
            effects.append(Effect(level, other, ", ".join(map(NAMES.__getitem__, fixed.values())), compared))
    return effects


def _tabulate_combinations(table: pd.DataFrame, decimals: int) -> pd.DataFrame:
    """Tabulate every combination; that of the released code and the whole method have a note."""
    notes = {RELEASED: "as the released code computes", FULL: "SAMerging"}
    names = sorted({*table.index.droplevel("seed")}, key=lambda name: [*map([*NAMES].index, name)])
    return pd.DataFrame(
        {
            **{factor.capitalize(): NAMES[level] for factor, level in zip(FACTORS, name, strict=True)},
            "Average": spread(table.loc[name].mean(axis=1), decimals),
            "Worst task": spread(table.loc[name].min(axis=1), decimals),
            "": notes.get(name, ""),
        }
        for name in names
    )


def _capitalise(text: str) -> str:
    return text[0].upper() + text[1:]


@mpl.rc_context(STYLE)
def _draw_combinations(means: pd.Series, width: float) -> Figure:
    """Draw a panel per granularity, sharpness along it, a line per objective."""
    figure = Figure((width, 0.45 * width), layout="constrained")
    order = [name for name in ("none", "sam", "asam") if name in means.index.unique("sharpness")]
    places, panels = np.arange(len(order)), figure.subplots(1, 2, sharey=True)
    for axes, granularity in zip(panels, ("task", "layer"), strict=True):
        averages = means.xs(granularity, level="granularity").groupby("objective").mean()
        for objective, colour, marker in zip(("entropy", "distillation"), COLOURS, MARKERS, strict=False):
            runs = means.xs((objective, granularity), level=("objective", "granularity"))
            for place, name in enumerate(order):
                axes.plot(
                    [place] * len(runs[name]), runs[name], linestyle="", alpha=0.5, markersize=2.5, color=colour,
                    marker=marker,
                )  # fmt: skip
            middle = runs.groupby("sharpness").mean()[order]
            axes.plot(places, middle, label=NAMES[objective], color=colour, marker=marker)
            above = averages[objective] == averages.max()  # the labels of the lower line go below it
            for place, value in zip(places, middle, strict=True):
                axes.annotate(
                    f"{value:.1f}", (place, value), (0, 5 if above else -5), textcoords="offset points", ha="center",
                    va="bottom" if above else "top",
                )  # fmt: skip
        axes.set(title=f"{NAMES[granularity]} coefficients", xlim=(-0.4, len(order) - 0.6))
        axes.set_xticks(range(len(order)), [NAMES[name] for name in order])
        axes.grid(axis="y", alpha=0.3, linewidth=0.5)
    panels[0].set_ylabel("average accuracy (%)")
    return add_legend(figure, panels[0], 2)
