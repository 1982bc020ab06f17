"""Measures taken before merging, and whether they predict what merging costs."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from pipeline.report.evidence import Evidence, format_csv
from pipeline.report.figures import FRAMED, draw_heat_map, single_axes
from pipeline.report.tables import Table, format_number, text_table
from pipeline.report.view import Drawing, Look, Sheet, View
from pipeline.statistics.ranks import independence_p

ORDER = 90
SIZE = "size"
"""The measure that is the number of tasks in a set."""
DARK, LIGHT = "#222222", "#ffffff"
"""Colours of text on a cell: not black, which pages replace by the colour of their own text."""
TASKS, SUBSETS = "tasks", "subsets of one size"
SCOPES = {
    TASKS: ("Over the {n} tasks, each with its own loss in the merge of all,", "p is below 0.05 for {count}"),
    SUBSETS: (
        "Over {n} random subsets of the tasks, each compared with others of its size,",
        "zero lies outside the 95 % intervals of {count}",
    ),
}
"""How a scope is introduced, and what is counted in it: tasks are independent points, so that p follows from their
orders; the intervals of subsets are over the tasks that they share. How often these exclude zero by chance depends on
what is shared (`pipeline.diagnostics.prediction`), so that no number is expected."""
FOCUS = ("mloss", "mloss_normalised")
"""Measures that the sentences always mention."""

Glossary = Mapping[str, Mapping[str, str]]
"""`Evidence.names`."""


def view(evidence: Evidence, look: Look) -> View:
    """Show heat maps of the measures, and their rank correlations with the losses of simple merges."""
    measures, tasks, width = evidence.measures, evidence.tasks, look.width
    correlations = prediction_table(evidence.predictions, evidence.names)
    csv = format_csv(evidence.predictions)
    mloss = (
        f"M-Loss (arXiv 2602.08564) at the first matrix of each block's MLP, on unlabelled "
        f"{evidence.protocol.calibration_split} examples: how far averaging the experts' weights is from "
        "averaging their answers there; and as a share of the answers."
    )
    cosine = "Cosines between the task vectors, over the whole model."
    transfer = (
        "Accuracy of every expert on every task before merging, on labelled validation examples: a diagnosis "
        "that no method sees."
    )
    drawings = {
        "mloss": (draw_mloss, mloss, "M-Loss", mloss_rows(measures)),
        "cosines": (draw_cosines, cosine, "Cosines between task vectors", task_pairs(measures, "cosine")),
        "transfer": (draw_transfer, transfer, "Every expert on every task", task_pairs(measures, "transfer")),
    }
    return View(
        question="Does anything measured before merging predict what it costs?",
        sentences=sentences(evidence.predictions, evidence.names),
        tables={"prediction": Sheet(correlations, "Rank correlations of measures and losses", csv)},
        figures={
            name: Drawing(draw(measures, tasks, width), caption, title, rows)
            for name, (draw, caption, title, rows) in drawings.items()
        },
    )


def sentences(predictions: pd.DataFrame, names: Glossary) -> tuple[str, ...]:
    """Say what predicts what, and what may be chance; predictions: the rows of a suite's prediction.csv."""
    texts = [text for scope in SCOPES if (text := _scope(predictions[predictions.scope == scope], scope, names))]
    sizes = predictions[(predictions.measure == SIZE) & predictions.rho.notna()]
    if len(sizes):
        pairs = zip(sizes.method, sizes.rho, strict=True)
        correlations = " and ".join(f"{_rho(rho)} with that of {names['merges'][method]}" for method, rho in pairs)
        texts.append(f"Where sizes are mixed, the number of tasks alone predicts the mean loss: {correlations}.")
    doubted = [key for key in predictions.measure.unique() if key in names["unverified"]]
    doubts = [f"{names['measures'][key]} ({names['unverified'][key]})" for key in doubted]
    if texts and doubts:
        texts.append(f"Our reading: {', '.join(doubts)}.")
    return tuple(texts)


def _scope(rows: pd.DataFrame, scope: str, names: Glossary) -> str:
    opening, counted = SCOPES[scope]
    defined = _judge(rows).dropna(subset=["rho", "p"] if scope == TASKS else ["rho", "task_low", "task_high"])
    if defined.empty:
        return ""
    clear = defined.p < 0.05 if scope == TASKS else (defined.task_low > 0) | (defined.task_high < 0)
    expected = f", where chance alone would give about {0.05 * len(defined):.0f}" if scope == TASKS else ""
    texts = [
        f"{opening.format(n=int(defined.n.iloc[0]))} {len(defined)} rank correlations between a measure taken before "
        f"merging and the loss of accuracy were computed: {counted.format(count=clear.sum())}{expected}."
    ]
    lines = defined.to_dict("records")
    strongest = lines[int(defined.rho.abs().to_numpy().argmax())]
    if (measure := strongest["measure"]) not in FOCUS:
        doubt = " (our reading)" * (measure in names["unverified"])
        texts.append(f"The strongest is that of {names['measures'][measure]}{doubt}: {_correlation(strongest, names)}.")
    for measure in FOCUS:
        if correlations := [_correlation(line, names) for line in lines if line["measure"] == measure]:
            title = names["measures"][measure]
            texts.append(f"{title[0].upper()}{title[1:]} has {' and '.join(correlations)}.")
    return " ".join(texts)


def _correlation(line: Mapping[Hashable, Any], names: Glossary) -> str:
    """Return the correlation, the method, and p or the interval with its verdict."""
    rho, merge = _rho(line["rho"]), names["merges"][line["method"]]
    if np.isfinite(line["p"]):
        return f"{rho} with the loss of {merge} (p = {line['p']:.2g})"
    low, high = line["task_low"], line["task_high"]
    verdict = "excludes zero" if low > 0 or high < 0 else "includes zero"
    return f"{rho} [{low:+.2f}, {high:+.2f}] with the loss of {merge} ({verdict})"


def _judge(predictions: pd.DataFrame) -> pd.DataFrame:
    """Add p where points are tasks, and leave out their intervals: those of so few points are far too short."""
    tasks = predictions.scope == TASKS
    p = [
        independence_p(rho, n) if single else np.nan
        for rho, n, single in zip(predictions.rho, predictions.n, tasks, strict=True)
    ]
    ends = ["low", "high", "task_low", "task_high"]
    return predictions.assign(p=p, **{end: predictions[end].mask(tasks) for end in ends})


def _rho(value: float) -> str:
    return f"ρ = {value:+.2f}"


def prediction_table(predictions: pd.DataFrame, names: Glossary) -> Table:
    """Build the rank correlations of a diagnosis, a section per scope."""
    sections: dict[str, list[tuple[str, ...]]] = {}
    for line in _judge(predictions).to_dict("records"):
        rho, *ends = (format_number(line[name], 2, "+") for name in ("rho", "low", "high", "task_low", "task_high"))
        p = f"{line['p']:.2g}" if np.isfinite(line["p"]) else format_number(np.nan, 2)
        cells = (names["measures"][line["measure"]], names["merges"][line["method"]], rho, p, *ends)
        sections.setdefault(line["scope"], []).append(cells)
    caption = (
        "Spearman's ρ between a measure taken before merging and the loss of accuracy of a merge. p: where points are "
        "tasks, of independence, every order of the tasks equally likely, as if no two values were equal. Low and "
        "high: 95 % interval over subsets; of tasks: over the tasks, which subsets share."
    )
    columns = ("Loss of", "ρ", "p", "Low", "High", "Low, of tasks", "High, of tasks")
    return text_table(caption, "Measure", columns, sections, words=("Loss of",))


def mloss_rows(measures: pd.DataFrame) -> pd.DataFrame:
    """Return task, block, mloss, normalised: what `draw_mloss` draws."""
    rows = measures[measures.measure.isin(FOCUS)]
    block = rows.layer.str.extract(r"\.(\d+)\.")[0].astype(int)
    wide = rows.assign(block=block).pivot(index=["task", "block"], columns="measure", values="value").reset_index()
    return wide.rename(columns={"mloss_normalised": "normalised"}).rename_axis(columns=None)


def task_pairs(measures: pd.DataFrame, measure: str) -> pd.DataFrame:
    """Return task, other, value of a measure of pairs of tasks over the whole model."""
    return measures[(measures.measure == measure) & (measures.layer == "")][["task", "other", "value"]]


@mpl.rc_context(FRAMED)
def draw_mloss(measures: pd.DataFrame, tasks: Sequence[str], width: float) -> Figure:
    """Draw M-Loss and normalised M-Loss, a row per task and a column per transformer block."""
    rows = mloss_rows(measures)
    figure = Figure((width, 0.26 * len(tasks) + 0.9), layout="constrained")
    kinds = (("mloss", "M-Loss", "viridis"), ("normalised", "normalised M-Loss", "cividis"))
    for axes, (kind, label, colours) in zip(figure.subplots(1, 2, sharey=True), kinds, strict=True):
        values = rows.pivot(index="task", columns="block", values=kind).loc[[*tasks]].to_numpy()
        draw_heat_map(axes, values, colours, label, 0, None)
        axes.set(xlabel="transformer block", xticks=range(values.shape[1]), yticks=range(len(tasks)), yticklabels=tasks)
    return figure


def draw_transfer(measures: pd.DataFrame, tasks: Sequence[str], width: float) -> Figure:
    """Draw the accuracy on the task of each row of the expert of each column, in per cent."""
    values = _square(task_pairs(measures, "transfer"), tasks)
    return _draw_square(values, tasks, width, "Blues", (0, 100), "accuracy (%)", 0, ("expert of", "examples of"))


def draw_cosines(measures: pd.DataFrame, tasks: Sequence[str], width: float) -> Figure:
    """Draw the cosines of the task vectors, zero in the middle of the colours; the diagonal is empty."""
    values = _square(task_pairs(measures, "cosine"), tasks)
    limit = float(np.nanmax(np.abs(values))) or 1.0
    return _draw_square(values, tasks, width, "PuOr_r", (-limit, limit), "cosine", 2)


def _square(rows: pd.DataFrame, tasks: Sequence[str]) -> np.ndarray:
    return rows.pivot(index="task", columns="other", values="value").loc[[*tasks], [*tasks]].to_numpy()


@mpl.rc_context(FRAMED)
def _draw_square(
    values: np.ndarray,
    tasks: Sequence[str],
    width: float,
    colours: str,
    limits: tuple[float, float],
    label: str,
    digits: int,
    names: tuple[str, str] = ("", ""),
) -> Figure:
    """Draw a value per pair of tasks, written into its cell in a colour that is legible there."""
    figure, axes = single_axes(width, 0.26 * len(tasks) + 1.3)
    axes.set_yticks(range(len(tasks)), tasks)
    axes.set_xticks(range(len(tasks)), tasks, rotation=30, ha="right", rotation_mode="anchor")
    axes.set(xlabel=names[0], ylabel=names[1])
    draw_heat_map(axes, values, colours, label, *limits)
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            colour = LIGHT if abs(value) > 0.6 * limits[1] else DARK
            text = f"{round(value, digits) + 0.0:.{digits}f}"
            axes.text(column, row, text, ha="center", va="center", size=6, color=colour)
    return figure
