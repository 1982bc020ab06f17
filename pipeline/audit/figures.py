"""The data of the figures: reports/plots/*.csv and reports/figures/<suite>-<figure>.csv, six significant digits.

Accuracies follow from the counts, heat maps from reports/tables/<suite>-measures.csv; that table, curves and
coefficients are those of the artefacts, where they are at hand.
"""

import math
import re
from collections.abc import Callable, Mapping

import pandas as pd

from pipeline.audit.evidence import Evidence
from pipeline.audit.finding import Finding, Tally
from pipeline.audit.known import MAIN, Known

DIGITS = 5.1e-6
"""Relative difference that six significant digits leave."""

Points = Mapping[tuple[str, ...], float]
"""{the texts of a row's other columns: its number}."""


def check(evidence: Evidence, known: Known) -> Finding:
    """Every number of every file of figure data."""
    tally = Tally(f"{known.suite}: figure data", "numbers of reports/plots and reports/figures")
    tally.absent.append("pictures beside their data")
    for name, points in PLOTS.items():
        path = f"reports/plots/{name}.csv"
        table = evidence.table(path)
        if table is not None:
            own = table[table.suite == known.suite].drop(columns="suite")
            _compare(tally, path, own, own.columns[-1], points(evidence, known), name != "losses")
    path = f"reports/tables/{known.suite}-measures.csv"
    table = evidence.table(path)
    if table is not None:
        _compare(tally, path, table, "value", _measured(evidence, known), True)
    for path in evidence.names("reports/figures", ".csv"):
        name = path.rpartition("/")[2].removesuffix(".csv").removeprefix(f"{known.suite}-")
        if not path.startswith(f"reports/figures/{known.suite}-"):
            continue
        if name not in FIGURES:
            tally.absent.append(f"what {path} was drawn from")
            continue
        for column, points in FIGURES[name].items():
            table = evidence.table(path)
            keys = [key for key in table if key not in FIGURES[name]]
            _compare(tally, path, table[[*keys, column]], column, points(evidence, known), True)
    return tally.finding()


def _compare(tally: Tally, path: str, table: pd.DataFrame, column: str, points: Points | None, whole: bool) -> None:
    """Each row of `table` is a point and, if `whole`, every point is a row."""
    if points is None:
        tally.absent.append(f"what {path} was drawn from")
        return
    keys = [name for name in table if name != column]
    shown = {tuple(row[key] for key in keys): row[column] for row in table.to_dict("records")}
    for key in sorted(shown.keys() | points.keys() if whole else shown.keys()):
        value, text = points.get(key, math.nan), shown.get(key, "missing")
        complaint = f"{path}: {' '.join(key)}, {column} is {text}, its source gives {value:.6g}"
        tally.expect(key in shown and _close(text, value), complaint)


def _close(text: str, value: float) -> bool:
    """Whether a text of six significant digits is `value`; an empty one is undefined."""
    if not text:
        return math.isnan(value)
    return math.isclose(float(text), value, rel_tol=DIGITS, abs_tol=1e-9)


def _accuracy(_: Evidence, known: Known) -> Points:
    """(method, task, seed) of the methods of the table."""
    return {
        (method, task, "" if seed == -1 else str(seed)): float(known.accuracies[method][place, column])
        for method in known.titles.values()
        for place, seed in enumerate(known.seeds[method])
        for column, task in enumerate(known.tasks)
    }


def _mean_accuracy(_: Evidence, known: Known) -> Points:
    """(method, task)."""
    return {(method, task): known.values[method][task].mean for method in known.titles.values() for task in known.tasks}


def _curves(evidence: Evidence, known: Known) -> pd.DataFrame | None:
    """method, seed, step, loss of every merge that took steps."""
    frames = []
    for method in known.titles.values():
        table = evidence.table(f"data/merges/{known.suite}/{method}/losses.csv")
        if table is not None:
            frames.append(table.assign(method=method, loss=table.loss.astype(float)))
    return pd.concat(frames) if frames else None


def _losses(evidence: Evidence, known: Known) -> Points | None:
    """(method, seed, step)."""
    curves = _curves(evidence, known)
    if curves is None:
        return None
    return {(row.method, row.seed, row.step): row.loss for row in curves.itertuples()}


def _over_seeds(statistic: str) -> Callable[[Evidence, Known], Points | None]:
    """(method, step) -> mean, least or greatest loss of the calibrated methods that the figure shows."""

    def points(evidence: Evidence, known: Known) -> Points | None:
        curves = _curves(evidence, known)
        if curves is None:
            return None
        shown = curves[~curves.method.str.startswith("surgery-")]
        return shown.groupby(["method", "step"]).loss.agg(statistic).to_dict()

    return points


def _coefficients(evidence: Evidence, known: Known) -> Points | None:
    """(task, tensor): mean over seeds, without the biases of k, which are not learned."""
    folder = f"data/merges/{known.suite}/{MAIN}"
    about, tensors = evidence.json(f"{folder}/merge.json"), evidence.tensors(f"{folder}/coefficients.safetensors")
    if about is None or tensors is None:
        return None
    means = tensors["coefficients"].mean(axis=0)[0]
    return {
        (task, group): float(means[row, column])
        for row, task in enumerate(about["tasks"])
        for column, group in enumerate(about["groups"])
        if not group.endswith(".attn.k.bias")
    }


def _measured(evidence: Evidence, known: Known) -> Points | None:
    """The other columns: value, of every measure taken before merging."""
    table = evidence.table(f"data/diagnostics/{known.suite}/measures.csv")
    if table is None:
        return None
    keys = [column for column in table if column != "value"]
    return {tuple(row[key] for key in keys): float(row["value"] or "nan") for row in table.to_dict("records")}


def _measure(name: str, layered: bool) -> Callable[[Evidence, Known], Points | None]:
    """(task, block) or (task, other) of a measure taken before merging."""

    def points(evidence: Evidence, known: Known) -> Points | None:
        table = evidence.table(f"reports/tables/{known.suite}-measures.csv")
        if table is None:
            return None
        rows = table[(table.measure == name) & ((table.layer != "") == layered)]
        found = {}
        for row in rows.itertuples():
            block = re.search(r"\d+", row.layer)
            found[row.task, block[0] if block else row.other] = float(row.value)
        return found

    return points


PLOTS = {"accuracy": _accuracy, "losses": _losses}
"""Files of reports/plots: their points; losses has a part of them."""
FIGURES = {
    "accuracy": {"accuracy": _mean_accuracy},
    "losses": {"mean": _over_seeds("mean"), "low": _over_seeds("min"), "high": _over_seeds("max")},
    "coefficients": {"coefficient": _coefficients},
    "mloss": {"mloss": _measure("mloss", layered=True), "normalised": _measure("mloss_normalised", layered=True)},
    "cosines": {"value": _measure("cosine", layered=False)},
    "transfer": {"value": _measure("transfer", layered=False)},
}
"""Files of reports/figures: their columns of numbers, and the points that these must be."""
