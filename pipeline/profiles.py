"""Performance profiles: how many runs reach a share of their expert's accuracy, in the style of rliable."""

from collections.abc import Iterable, Mapping, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
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


def measure(found: Resampled, methods: Iterable[str]) -> pd.DataFrame:
    """method, threshold, share, low, high: share of a method's (seed, task) runs above each share of the expert's."""
    frames = []
    for name in methods:
        shares = profile(found, name, CEILING, THRESHOLDS)
        columns = {"threshold": THRESHOLDS, "share": shares.value, "low": shares.low, "high": shares.high}
        frames.append(pd.DataFrame({"method": name, **columns}))
    return pd.concat(frames, ignore_index=True)


@mpl.rc_context(STYLE)
def profiles(shares: pd.DataFrame, looks: Mapping[str, Style], width: float) -> Figure:
    """A line per method of `looks`; shares: of `measure`."""
    figure = Figure((width, 0.5 * width), layout="constrained")
    axes = figure.add_subplot()
    for name, look in looks.items():
        rows = shares[shares.method == name]
        line = {"color": look.colour, "linestyle": look.line, "label": look.title, "zorder": 3 if name == MAIN else 2}
        band = {"color": look.colour, "alpha": 0.12, "linewidth": 0, "step": "post"}
        axes.fill_between(rows.threshold, rows.low, rows.high, **band)
        axes.plot(rows.threshold, rows.share, drawstyle="steps-post", **line)
    least = min(1.0, shares[shares.low < 1].threshold.min())
    axes.set(xlabel="accuracy / accuracy of the task's expert", ylabel="share of runs above")
    axes.set(xlim=(least - 0.02, THRESHOLDS[-1]), ylim=(0, 1.02))
    axes.grid(alpha=0.3, linewidth=0.5)
    figure.legend(loc="outside upper center", ncols=4)
    return figure
