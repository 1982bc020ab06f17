"""The paper-style table of a suite: the accuracy of every method on every task."""

from collections.abc import Mapping, Sequence

import pandas as pd

from pipeline.report.evidence import Evidence
from pipeline.report.tables import build, statistics
from pipeline.report.view import Look, Sheet, View
from pipeline.report.views import published
from pipeline.statistics.accuracy import AVERAGE

ORDER = 30


def view(evidence: Evidence, look: Look) -> View:
    """The table, under the name of the suite; its caption says how many anchors were reproduced."""
    runs, groups, titles = evidence.runs, evidence.sections, evidence.titles
    caption = evidence.protocol.caption(published.reproduced(evidence))
    table = build(runs, groups, titles, look.decimals, caption)
    return View(tables={"": Sheet(table, "Accuracy on every task", csv(runs, groups, titles))})


def csv(runs: pd.DataFrame, groups: Mapping[str, Sequence[str]], titles: Mapping[str, str]) -> str:
    """All columns with six decimals, each followed by its standard deviation; empty where undefined."""
    found = statistics(runs)
    flat = pd.DataFrame({"method": [method for methods in groups.values() for method in methods]})
    flat["title"] = flat.method.map(titles)
    flat["group"] = [title for title, methods in groups.items() for _ in methods]
    flat["runs"] = found[AVERAGE]["count"].loc[flat.method].to_numpy()
    for name in runs:
        flat[name] = found[name]["mean"].loc[flat.method].to_numpy()
        flat[f"{name} std"] = found[name]["std"].loc[flat.method].to_numpy()
    return flat.to_csv(index=False, float_format="%.6f", lineterminator="\n")
