"""What was measured before merging, and whether it predicts what merging costs."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.report.evidence import Evidence
from pipeline.report.figures import STYLE
from pipeline.report.tables import Table, csv, number, texts
from pipeline.report.view import Drawing, Look, Sheet, View

ORDER = 90
SIZE = "size"
"""The measure that is the number of tasks in a set."""
DARK, LIGHT = "#222222", "#ffffff"
"""Of text on a cell: not black, which pages replace by the colour of their own text."""
FRAMED = STYLE | {"axes.spines.top": True, "axes.spines.right": True}
SCOPES = {
    "tasks": ("Over the {n} tasks, each with its own loss in the merge of all,", ("low", "high"), 0.05),
    "subsets of one size": (
        "Over {n} random subsets of the tasks, each compared with others of its size,",
        ("task_low", "task_high"),
        0.12,
    ),
}
"""How a scope is introduced, which interval covers other tasks, and how often that one excludes zero by chance (see
`pipeline.diagnostics.prediction`)."""
FOCUS = ("mloss", "mloss_normalised")
"""The measures that are always spoken of."""

Names = Mapping[str, Mapping[str, str]]
"""`Evidence.names`."""


def view(evidence: Evidence, look: Look) -> View:
    """Heat maps of the measures, and their rank correlations with the losses of simple merges."""
    measures, tasks, width = evidence.measures, evidence.tasks, look.width
    return View(
        question="Does anything measured before merging predict what it costs?",
        sentences=(paragraph(evidence.predictions, evidence.names),),
        tables={
            "prediction": Sheet(
                predictions(evidence.predictions, evidence.names),
                "Rank correlations of measures and losses",
                csv(evidence.predictions),
            )
        },
        figures={
            "mloss": Drawing(
                mloss(measures, tasks, width),
                f"M-Loss (arXiv 2602.08564) at the first matrix of each block's MLP, on unlabelled "
                f"{evidence.protocol.calibration_split} images: how far averaging the experts' weights is from "
                "averaging their answers there; and as a share of the answers.",
                "M-Loss",
                shown_mloss(measures),
            ),
            "cosines": Drawing(
                cosines(measures, tasks, width),
                "Cosines between the task vectors, over the whole model.",
                "Cosines between task vectors",
                shown_cosines(measures),
            ),
            "transfer": Drawing(
                transfer(measures, tasks, width),
                "Accuracy of every expert on every task before merging, on labelled validation images: a diagnosis "
                "that no method sees.",
                "Every expert on every task",
                shown_transfer(measures),
            ),
        },
    )


def paragraph(predictions: pd.DataFrame, names: Names) -> str:
    """What predicts what, and which intervals exclude zero; `predictions`: the rows of a suite's prediction.csv."""
    said = [text for scope in SCOPES for text in _scope(predictions[predictions.scope == scope], scope, names)]
    sizes = predictions[(predictions.measure == SIZE) & predictions.rho.notna()]
    if len(sizes):
        found = ", of ".join(f"{names['merges'][row.method]} {_rho(row.rho)}" for row in sizes.itertuples())
        said.append(f"Where sizes are mixed, the number of tasks alone has with the mean loss of {found}.")
    doubted = [key for key in predictions.measure.unique() if key in names["unverified"]]
    doubts = [f"{names['measures'][key]} ({names['unverified'][key]})" for key in doubted]
    if said and doubts:
        said.append(f"Our reading: {', '.join(doubts)}.")
    return " ".join(said)


def _scope(rows: pd.DataFrame, scope: str, names: Names) -> Iterator[str]:
    opening, edges, chance = SCOPES[scope]
    found = rows.assign(lower=rows[edges[0]], upper=rows[edges[1]]).dropna(subset=["rho", "lower", "upper"])
    if found.empty:
        return
    clear = found[(found.lower > 0) | (found.upper < 0)]
    yield (
        f"{opening.format(n=int(found.n.iloc[0]))} {len(found)} rank correlations between a measure taken before "
        f"merging and the loss of accuracy were computed: {len(clear)} of their 95 % intervals exclude zero, where "
        f"chance alone would give about {chance * len(found):.0f}."
    )
    strongest = found.loc[found.rho.abs().idxmax()]
    if strongest.measure not in FOCUS:
        doubt = " (our reading)" * (strongest.measure in names["unverified"])
        named = names["measures"][strongest.measure] + doubt
        yield f"The strongest is that of {named} with {_correlation(strongest, names)}."
    for measure in FOCUS:
        spoken = [_correlation(row, names) for row in found[found.measure == measure].itertuples()]
        if spoken:
            title = names["measures"][measure]
            yield f"{title[0].upper()}{title[1:]} has with {'; with '.join(spoken)}."


def _correlation(row: Any, names: Names) -> str:
    """The method, the correlation, its interval and the verdict."""
    verdict = "excludes zero" if row.lower > 0 or row.upper < 0 else "includes zero"
    merge = names["merges"][row.method]
    return f"the loss of {merge} {_rho(row.rho)} [{row.lower:+.2f}, {row.upper:+.2f}], which {verdict}"


def _rho(value: float) -> str:
    return f"ρ = {value:+.2f}"


def predictions(found: pd.DataFrame, names: Names) -> Table:
    """The rank correlations of a diagnosis, a section per scope."""
    edges = ("low", "high", "task_low", "task_high")
    sections = {
        scope: [
            (
                names["measures"][row["measure"]],
                names["merges"][row["method"]],
                *(number(row[column], 2, "+") for column in ("rho", *edges)),
            )
            for row in rows.to_dict("records")
        ]
        for scope, rows in found.groupby("scope", sort=False)
    }
    caption = (
        "Spearman's ρ between a measure taken before merging and the loss of accuracy of a merge. Low and high: 95 % "
        "interval over the points; of tasks: over the tasks, which subsets share."
    )
    columns = ("Loss of", "ρ", "Low", "High", "Low, of tasks", "High, of tasks")
    return texts(caption, "Measure", columns, sections, words=("Loss of",))


def shown_mloss(measures: pd.DataFrame) -> pd.DataFrame:
    """task, block, mloss, normalised: what `mloss` draws."""
    rows = measures[measures.measure.isin(("mloss", "mloss_normalised"))]
    block = rows.layer.str.extract(r"\.(\d+)\.")[0].astype(int)
    found = rows.assign(block=block).pivot(index=["task", "block"], columns="measure", values="value").reset_index()
    return found.rename(columns={"mloss_normalised": "normalised"}).rename_axis(columns=None)


def shown_transfer(measures: pd.DataFrame) -> pd.DataFrame:
    """task, other, value: what `transfer` draws."""
    return measures[measures.measure == "transfer"][["task", "other", "value"]]


def shown_cosines(measures: pd.DataFrame) -> pd.DataFrame:
    """task, other, value: what `cosines` draws."""
    return measures[(measures.measure == "cosine") & (measures.layer == "")][["task", "other", "value"]]


@mpl.rc_context(FRAMED)
def mloss(measures: pd.DataFrame, tasks: Sequence[str], width: float) -> Figure:
    """M-Loss and normalised M-Loss, a row per task and a column per transformer block."""
    rows = shown_mloss(measures)
    figure = Figure((width, 0.26 * len(tasks) + 0.9), layout="constrained")
    kinds = (("mloss", "M-Loss", "viridis"), ("normalised", "normalised M-Loss", "cividis"))
    for axes, (kind, label, colours) in zip(figure.subplots(1, 2, sharey=True), kinds, strict=True):
        values = rows.pivot(index="task", columns="block", values=kind).loc[[*tasks]]
        image = axes.imshow(values, cmap=colours, vmin=0, aspect="auto", interpolation="none")
        axes.set(xlabel="transformer block", xticks=range(values.shape[1]), yticks=range(len(tasks)), yticklabels=tasks)
        axes.tick_params(length=0)
        figure.colorbar(image, ax=axes, label=label, pad=0.02)
    return figure


@mpl.rc_context(FRAMED)
def transfer(measures: pd.DataFrame, tasks: Sequence[str], width: float) -> Figure:
    """Accuracy on the task of each row of the expert of each column, in per cent."""
    rows = shown_transfer(measures)
    values = rows.pivot(index="task", columns="other", values="value").loc[[*tasks], [*tasks]].to_numpy()
    figure, axes = _square(tasks, width)
    image = axes.imshow(values, cmap="Blues", vmin=0, vmax=100, aspect="auto", interpolation="none")
    axes.set(xlabel="expert of", ylabel="images of")
    _write(axes, values, 100, 0)
    figure.colorbar(image, ax=axes, label="accuracy (%)", pad=0.02)
    return figure


@mpl.rc_context(FRAMED)
def cosines(measures: pd.DataFrame, tasks: Sequence[str], width: float) -> Figure:
    """Cosines of the task vectors over the whole model, zero in the middle of the colours; the diagonal is empty."""
    rows = shown_cosines(measures)
    values = rows.pivot(index="task", columns="other", values="value").loc[[*tasks], [*tasks]].to_numpy()
    limit = float(np.nanmax(np.abs(values))) or 1.0
    figure, axes = _square(tasks, width)
    image = axes.imshow(values, cmap="PuOr_r", vmin=-limit, vmax=limit, aspect="auto", interpolation="none")
    _write(axes, values, limit, 2)
    figure.colorbar(image, ax=axes, label="cosine", pad=0.02)
    return figure


def _square(tasks: Sequence[str], width: float) -> tuple[Figure, Axes]:
    """An empty figure with the tasks along both axes."""
    figure = Figure((width, 0.26 * len(tasks) + 1.3), layout="constrained")
    axes = figure.add_subplot()
    axes.set_yticks(range(len(tasks)), tasks)
    axes.set_xticks(range(len(tasks)), tasks, rotation=30, ha="right", rotation_mode="anchor")
    axes.tick_params(length=0)
    return figure, axes


def _write(axes: Axes, values: np.ndarray, limit: float, digits: int) -> None:
    """Every finite value in its cell, in a colour that is read on it."""
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            colour = LIGHT if abs(value) > 0.6 * limit else DARK
            text = f"{round(value, digits) + 0.0:.{digits}f}"
            axes.text(column, row, text, ha="center", va="center", size=6, color=colour)
