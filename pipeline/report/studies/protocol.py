"""The protocol in the report: what calibrating on the examples that are scored is worth."""

from collections.abc import Mapping

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from pipeline.report.figures import STYLE, Style
from pipeline.report.studies import Context, _shared
from pipeline.report.view import Drawing, Frame, View
from pipeline.report.words import INTERVALS, WINS, accuracies, basis, count, further, interval, spread, stated
from pipeline.statistics.contrasts import Contrast, contrast_settings, mark_settings

HELD_OUT, TRANSDUCTIVE = "held-out", "transductive"
SHIFT = 1.1
"""Neighbours are shifted sideways by this factor."""


def view(rows: pd.DataFrame, context: Context) -> View:
    """`rows`: the study's scores; their settings are the two protocols."""
    runs, decimals, digits = (rows, ("method", "k", "setting"), context.tasks), context.decimals, context.digits
    average, marks = accuracies(*runs).mean(axis=1), mark_settings(*runs, context.clusters)
    methods, budgets = [*dict.fromkeys(rows.method)], sorted(int(k) for k in rows.k.unique())
    worth = {
        name: {k: contrast_settings(marks, [(name, k, TRANSDUCTIVE)], [(name, k, HELD_OUT)]) for k in budgets}
        for name in methods
    }
    split = context.evaluation_split
    scope = (
        f"{count(rows.seed.nunique(), 'seed')}; calibrated on unlabelled examples of the "
        f"{context.params['study.protocol']['held_out']} split (held-out) or of the {split} split (TRANSDUCTIVE); both "
        f"scored on all examples of the {split} split, those calibrated on included."
        f"{_shared.describe_small_tasks(rows)}"
    )
    parts = {
        name: "; ".join(f"k = {k:,}: {stated(one.these, digits)}" for k, one in each.items())
        for name, each in worth.items()
    }
    gains = [(name, k, gain) for name, each in worth.items() for k, gain in each.items()]
    first = gains[0][2]
    return View(
        title="Protocol",
        question=(
            f"What is the field's habit worth, to calibrate on the unlabelled {split} examples that are scored? The "
            "same methods, steps and seeds on those and on held-out examples."
        ),
        sentences=(
            *(
                f"{context.titles[name]}, transductive minus held-out: {text} "
                f"({_shared.count_seeds(worth[name][budgets[0]].these)})."
                for name, text in parts.items()
            ),
            f"{_shared.describe_chance([gain.these for *_, gain in gains])}. Runs are paired by scored example and "
            f"seed, which sets the order of batches; the examples they are calibrated on are of different splits.",
            basis(first),
        ),
        figures={
            "protocol": Drawing(
                _draw(average, worth, context.styles(methods), context.width),
                f"Left: average accuracy over {count(len(context.tasks), 'task')} against unlabelled examples per "
                f"task, filled and solid: transductive, open and dotted: held-out; right: their difference, with 95 % "
                f"intervals over test examples and seeds; over {scope}",
            )
        },
        tables={
            "protocol": Frame(
                pd.DataFrame(
                    {
                        "Method": context.titles[name],
                        "Examples per task": k,
                        "Held-out": spread(average[name, k, HELD_OUT], decimals),
                        "Transductive": spread(average[name, k, TRANSDUCTIVE], decimals),
                        "Difference": interval(gain.these, digits),
                        **further(gain, digits),
                    }
                    for name, k, gain in gains
                ),
                f"Average accuracy in %, mean ± sample standard deviation, and the paired difference in points with "
                f"95 % interval. {INTERVALS} {WINS} Over {scope}",
            )
        },
        contrasts={f"{name}, {k} examples": gain for name, k, gain in gains},
    )


@mpl.rc_context(STYLE)
def _draw(
    average: pd.Series, worth: Mapping[str, Mapping[int, Contrast]], looks: Mapping[str, Style], width: float
) -> Figure:
    figure, left, right = _shared.two_panels(
        width, 0.45, "average accuracy (%)", "transductive minus held-out (points)"
    )
    for index, (name, gains) in enumerate(worth.items()):
        look, places = looks[name], _shared.spread_budgets([*gains], SHIFT, index, len(worth))
        style: _shared.LineStyle = {"color": look.colour, "marker": look.marker}
        for protocol, line, fill in ((TRANSDUCTIVE, "-", look.colour), (HELD_OUT, ":", "white")):
            means = [average[name, k, protocol].mean() for k in gains]
            label = look.title if protocol == TRANSDUCTIVE else None
            left.plot(places, means, linestyle=line, markerfacecolor=fill, label=label, **style)
        _shared.plot_differences(right, places, [gain.these for gain in gains.values()], {**style, "linestyle": "-"})
    right.axhline(0, color="#777777", linewidth=0.6)
    for axes in (left, right):
        _shared.label_budgets(axes, [*next(iter(worth.values()))])
    return _shared.add_legend(figure, left, 3)
