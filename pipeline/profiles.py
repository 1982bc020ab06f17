"""Performance profiles: how many runs reach a share of their expert's accuracy, in the style of rliable."""

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from pipeline.figures import STYLE, Style
from pipeline.scores import CEILING, ENTROPY, MAIN, TWIN
from pipeline.statistics import Resampled, profile

USUAL = ("average", "task_arithmetic", ENTROPY, TWIN, MAIN)
"""Methods that are always drawn, if they ran."""
THRESHOLDS = np.linspace(0, 1.05, 211)


def choose(means: Mapping[str, float], sections: Sequence[Sequence[str]]) -> list[str]:
    """The usual methods and the best of each section by `means`, in the order of the sections."""
    best = {max(names, key=lambda name: means[name]) for names in sections if names}
    return [name for names in sections for name in names if name in {*USUAL, *best}]


@mpl.rc_context(STYLE)
def profiles(found: Resampled, looks: Mapping[str, Style], width: float) -> Figure:
    """A line per method of `looks`: share of its (seed, task) runs above each share of the expert's accuracy."""
    figure = Figure((width, 0.5 * width), layout="constrained")
    axes, least = figure.add_subplot(), 1.0
    for name, look in looks.items():
        shares = profile(found, name, CEILING, THRESHOLDS)
        line = {"color": look.colour, "linestyle": look.line, "label": look.title, "zorder": 3 if name == MAIN else 2}
        band = {"color": look.colour, "alpha": 0.12, "linewidth": 0, "step": "post"}
        axes.fill_between(THRESHOLDS, shares.low, shares.high, **band)
        axes.plot(THRESHOLDS, shares.value, drawstyle="steps-post", **line)
        least = min(least, float(THRESHOLDS[shares.low < 1].min(initial=1.0)))
    axes.set(xlabel="accuracy / accuracy of the task's expert", ylabel="share of runs above")
    axes.set(xlim=(least - 0.02, THRESHOLDS[-1]), ylim=(0, 1.02))
    axes.grid(alpha=0.3, linewidth=0.5)
    figure.legend(loc="outside upper center", ncols=4)
    return figure
