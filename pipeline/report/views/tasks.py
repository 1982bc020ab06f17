"""The paper-style table of a suite: the accuracy of every method on every task."""

from collections.abc import Mapping, Sequence

import pandas as pd

from pipeline.report.evidence import Evidence, format_csv
from pipeline.report.tables import build_table, summarise
from pipeline.report.view import Look, Sheet, View
from pipeline.report.views import published
from pipeline.statistics.accuracy import AVERAGE

ORDER = 30


def view(evidence: Evidence, look: Look) -> View:
    """Show the table, under the name of the suite; its caption says how many anchors were reproduced."""
    runs, groups, titles = evidence.runs, evidence.sections, evidence.titles
    caption = evidence.protocol.caption(published.reproduced(evidence))
    table = build_table(runs, groups, titles, look.decimals, caption)
    return View(tables={"": Sheet(table, "Accuracy on every task", accuracy_csv(runs, groups, titles))})


def accuracy_csv(runs: pd.DataFrame, groups: Mapping[str, Sequence[str]], titles: Mapping[str, str]) -> str:
    """Return all columns with six decimals, each followed by its standard deviation; empty where undefined."""
    summary, methods = summarise(runs), [(name, title) for title, names in groups.items() for name in names]
    names = [name for name, _ in methods]
    columns = {
        "method": names,
        "title": [titles[name] for name in names],
        "group": [title for _, title in methods],
        "runs": summary.counts[AVERAGE].loc[names].to_numpy(),
    }
    for column in map(str, runs):
        columns[column] = summary.means[column].loc[names].to_numpy()
        columns[f"{column} std"] = summary.deviations[column].loc[names].to_numpy()
    return format_csv(pd.DataFrame(columns), "%.6f")
