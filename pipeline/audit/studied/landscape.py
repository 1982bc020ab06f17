"""The loss landscape: how sharp every method's solution is, by each measure, and the order of the methods."""

import re

import pandas as pd

from pipeline.audit.claimed import Counted, Gain, Never, Number, Spread, Words
from pipeline.audit.studied import MAIN, TWIN, Forms, Runs, Says, Study, Table, runs

TITLE = "Loss landscape"
WHERE = {"coefficients": "coefficients λ", "weights": "merged weights θ"}
EIGENVALUE, ACCURACY = "largest Hessian eigenvalue", "accuracy, %"
PAIR = r"(.+), (.+? minus .+?) \(([^)]+)\): (.+) \(n = (.+)\)\."
ORDER = (
    r"From the flattest to the sharpest by the largest Hessian eigenvalue: (.+); from the most to the least accurate: "
    r"(.+)\. These are (\d+) methods: too few for a correlation\."
)
ERROR = (
    r"The standard error of one estimated trace is at most (\S+) \(traces: (\S+) to (\S+), n = (.+?)\); the worst rise "
    r"is a lower bound, found by ascent\."
)
Measures = dict[str, dict[str, Runs]]
"""{measure: {method: its value}}: means over tasks are the sum over tasks where a measure is one."""


def tables(study: Study) -> dict[str, Table]:
    """A row per method, a column per measure."""
    found = _measures(study)
    rows = {
        (study.titles[name],): {
            measure: Spread(of[name].values.mean(1), significant=(4, 2)) for measure, of in found.items()
        }
        for name in found["loss"]
    }
    return {"sharpness": Table(("method",), rows)}


def sentences(study: Study) -> Forms:
    """SAMerging against distillation by every measure; the methods in order; how sure the traces are."""
    found = _measures(study)
    named = {f"{measure[0].upper()}{measure[1:]}": of for measure, of in found.items()}

    def pair(measure: str, title: str, level: str, said: str, n: str) -> Says:
        if measure not in named:
            return [(measure, Never("no measure of the study"))]
        own, other = (named[measure][name] for name in (MAIN, TWIN))
        gain = own.minus(other, significant=3)
        both = Words(f"{study.titles[MAIN]} minus {study.titles[TWIN].lower()}")
        return [(title, both), (level, Number(float(other.values.mean()), 4)), (said, gain), (n, _n(gain))]

    def order(flat: str, good: str, count: str) -> Says:
        return [
            *_ordered(flat, found[EIGENVALUE], study, sign=1),
            *_ordered(good, found[ACCURACY], study, sign=-1),
            (count, Number(len(found[EIGENVALUE]))),
        ]

    def error(most: str, low: str, high: str, n: str) -> Says:
        curvature = study.tables["curvature"]
        errors = curvature[curvature.measure == "error"].value
        traces = [trace for of in found["Hessian trace"].values() for trace in of.values.mean(1)]
        numbers = [Number(float(one), 3) for one in (errors.max(), min(traces), max(traces))]
        return [*zip((most, low, high), numbers, strict=True), (n, Counted({"solution": len(traces)}))]

    return [(PAIR, pair), (ORDER, order), (ERROR, error)]


def _n(gain: Gain) -> Counted:
    return Counted({"seed": len(gain.values), "task": gain.values.shape[1]})


def _ordered(text: str, of: dict[str, Runs], study: Study, sign: int) -> Says:
    """`title (mean), title (mean)`: every method once, ascending by sign times its mean."""
    means = {study.titles[name]: float(one.values.mean()) for name, one in of.items()}
    shown = re.findall(r"(.+?) \(([^()]+)\)(?:, |$)", text)
    titles = sorted(means, key=lambda title: sign * means[title])
    if [title for title, _ in shown] != titles:
        return [(text, Never(f"the order is {', '.join(titles)}"))]
    return [(number, Number(means[title], 4)) for title, number in shown]


def _measures(study: Study) -> Measures:
    """Every measure, in the order of the table."""
    solutions, curvature = study.tables["solutions"], study.tables["curvature"]
    splits = [*dict.fromkeys(solutions.split)]
    fitted, held = (solutions[solutions.split == splits[place]] for place in (0, -1))
    found = {ACCURACY: _runs(study, held, "accuracy"), "loss": _runs(study, held, "loss", sums=True)}
    apart = _runs(study, fitted, "loss", sums=True)
    found["loss above that of calibration images"] = {
        name: Runs(own.values - apart[name].values, own.seeds) for name, own in found["loss"].items()
    }
    for measure, kind in ((EIGENVALUE, "eigenvalue"), ("Hessian trace", "trace")):
        found[measure] = _runs(study, curvature[curvature.measure == kind], "value", sums=True)
    risen = _risen(study.tables["rises"])
    for (space, radius), part in risen[risen.direction == "worst"].groupby(["space", "radius"]):
        found[f"worst rise within {radius:g} in {WHERE[space]}"] = _runs(study, part, "rise", sums=True)
    return found


def _runs(study: Study, rows: pd.DataFrame, value: str, sums: bool = False) -> dict[str, Runs]:
    """{method: a value per seed and task}; T times it where the sum over tasks is meant."""
    scale = len(study.tasks) if sums else 1
    found = {name: runs(part, value, study.tasks) for name, part in rows.groupby("method")}
    return {str(name): Runs(scale * one.values, one.seeds) for name, one in found.items()}


def _risen(rises: pd.DataFrame) -> pd.DataFrame:
    """The rows with a radius, with the loss there above that of the solution."""
    keys = ["method", "seed", "space", "direction", "task"]
    centre = rises[rises.radius == 0][[*keys, "loss"]].rename(columns={"loss": "own"})
    found = rises[rises.radius > 0].merge(centre, on=keys)
    return found.assign(rise=found.loss - found.own)
