"""Performance profiles: how many runs reach a share of their expert's accuracy, in the style of rliable."""

from collections.abc import Iterable, Mapping, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from pipeline.report.evidence import Evidence
from pipeline.report.figures import STYLE, Style, single_axes, styles
from pipeline.report.view import Drawing, Look, View
from pipeline.statistics.accuracy import AVERAGE, CEILING, ENTROPY, MAIN, TWIN
from pipeline.statistics.intervals import Marks, performance_profile

ORDER = 60

USUAL = ("average", "task_arithmetic", ENTROPY, TWIN, MAIN)
"""Methods that are always drawn, if they ran."""
THRESHOLDS = np.linspace(0, 1.05, 211)


def view(evidence: Evidence, look: Look) -> View:
    """Show the usual merges and the best ones; nothing without the experts."""
    if CEILING not in evidence.marks.tasks:
        return View()
    groups = evidence.sections
    averages = evidence.runs.groupby("method")[AVERAGE].mean().to_dict()
    names = select_methods(averages, [groups["Data-free"], groups["Calibrated"]])
    caption = (
        f"Performance profiles: share of runs (a seed and one of {len(evidence.tasks)} tasks) with more than a share "
        "of the accuracy of the task's expert; higher is better. Of the merges that are one model: the usual ones, and "
        f"the best with and without data. {evidence.protocol.sentence()}"
    )
    shares = profile_rows(evidence.marks, names)
    figure = draw_profiles(shares, styles({name: evidence.titles[name] for name in names}), look.width)
    return View(figures={"profiles": Drawing(figure, caption, "Performance profiles", shares)})


def select_methods(averages: Mapping[str, float], sections: Sequence[Sequence[str]]) -> list[str]:
    """Select the usual methods and the best of each section by `averages`, in the order of the sections."""
    best = {max(names, key=lambda name: averages[name]) for names in sections if names}
    return [name for names in sections for name in names if name in {*USUAL, *best}]


def profile_rows(marks: Marks[str], methods: Iterable[str]) -> pd.DataFrame:
    """Return method, threshold, share: share of (seed, task) runs above each share of the expert's."""
    shares = {name: performance_profile(marks, name, CEILING, THRESHOLDS) for name in methods}
    return pd.concat(
        [pd.DataFrame({"method": name, "threshold": THRESHOLDS, "share": share}) for name, share in shares.items()],
        ignore_index=True,
    )


@mpl.rc_context(STYLE)
def draw_profiles(shares: pd.DataFrame, looks: Mapping[str, Style], width: float) -> Figure:
    """Draw a line per method of `looks`; shares: of `profile_rows`."""
    figure, axes = single_axes(width, 0.5 * width)
    for name, look in looks.items():
        rows = shares[shares.method == name]
        line = {"color": look.colour, "linestyle": look.line, "label": look.title, "zorder": 3 if name == MAIN else 2}
        axes.plot(rows.threshold, rows.share, drawstyle="steps-post", **line)
    least = min(1.0, shares[shares.share < 1].threshold.min())
    axes.set(xlabel="accuracy / accuracy of the task's expert", ylabel="share of runs above")
    axes.set(xlim=(least - 0.02, THRESHOLDS[-1]), ylim=(0, 1.02))
    axes.grid(alpha=0.3, linewidth=0.5)
    figure.legend(loc="outside upper center", ncols=4)
    return figure
