"""Number of tasks: normalised accuracy in merges of ever more tasks, and what merges do to tasks left out."""

import re

import pandas as pd

from pipeline.audit.claimed import Counted, Expected, Gain, Never, Number, Words
from pipeline.audit.studied import CEILING, FLOOR, MAIN, TWIN, Forms, Runs, Says, Study, Table, listed, runs

TITLE = "Number of tasks"
DATA_FREE = ("average", "task_arithmetic", "ties", "tsv_m")
FALL = (
    r"Normalised accuracy \(%\) on the merged tasks, from (\d+) tasks \(n = (.+?)\) to (\d+) \(n = ([^;]+); (.+?) of "
    r"the calibrated methods\): (.+)\."
)
SIZE = r"With (\d+) tasks (.+?) minus (.+?) (\S+ points.*?) \(n = (.+?)\); minus (.+?) (\S+ points.*?) \(n = (.+?)\)\."
OUTSIDE = r"On tasks left out, merges of (\d+) tasks against zero-shot: (.+)\."
TWINS = r"On tasks left out (.+?) minus (.+?): (.+) \(n = (.+)\)\."
EACH = r"(.+?) (\S+ points.*) \(n = (.+)\)"


def tables(study: Study) -> dict[str, Table]:
    """A row per method: every size, and the tasks that the largest merges leave out."""
    inside, outside, rows = _inside(study), _outside(study), {}
    for name in _methods(study):
        found: dict[str, Expected] = {
            f"{size} tasks": Number(float(of[name].values.mean())) for size, of in inside.items()
        }
        if outside:
            found["Left out"] = outside[max(outside)][name].plain()
        rows[(study.titles[name],)] = found
    return {"tasks": Table(("Method",), rows)}


def sentences(study: Study) -> Forms:
    """From the smallest merges to the largest; against twin and best method without data; tasks left out."""
    inside, outside = _inside(study), _outside(study)
    names = {study.titles[name]: name for name in _methods(study)}
    left = outside[max(outside)] if outside else {}

    def fall(*texts: str) -> Says:
        small, first, large, last, seeds, each = texts
        sizes, shown = (min(inside), max(inside)), [part.rpartition(" → ") for part in listed(each)]
        found: Says = [(small, Number(sizes[0])), (large, Number(sizes[1]))]
        found += [(n, Counted({"subset": _width(inside[size])})) for n, size in zip((first, last), sizes, strict=True)]
        found.append((seeds, Counted({"seed": len(inside[sizes[1]][MAIN].seeds)})))
        for start, _, end in shown:
            title, _, begin = start.rpartition(" ")
            if title not in names:
                return [(title, Never("no method of the study"))]
            values = [Number(float(inside[size][names[title]].values.mean())) for size in sizes]
            found += zip((begin, end), values, strict=True)
        return [*found, (str(len(shown)), Number(len(names)))]

    def size(shown: str, main: str, *pairs: str) -> Says:
        if int(shown) not in inside:
            return [(shown, Never("no number of tasks of the study"))]
        own = inside[int(shown)]
        best = max(DATA_FREE, key=lambda name: own[name].values.mean())
        found: Says = [(main, Words(study.titles[MAIN]))]
        for other, (title, said, n) in zip((TWIN, best), (pairs[:3], pairs[3:]), strict=True):
            gain = own[MAIN].minus(own[other])
            found += [(title, Words(study.titles[other])), (said, gain), (n, _n(gain, "subset"))]
        return found

    def gained(shown: str, each: str) -> Says:
        parts = [re.fullmatch(EACH, part) for part in re.split(r"(?<=\)); ", each)]
        if None in parts or {part[1] for part in parts} != names.keys():
            return [(each, Never(f"the study has {', '.join(names)}"))]
        found: Says = [(shown, Number(max(outside)))]
        for title, said, n in (part.groups() for part in parts):
            gain = left[names[title]].plain()
            found += [(said, gain), (n, _n(gain, "task"))]
        return found

    def twins(main: str, other: str, said: str, n: str) -> Says:
        gain = left[MAIN].minus(left[TWIN])
        titles = [(title, Words(study.titles[name])) for title, name in ((main, MAIN), (other, TWIN))]
        return [*titles, (said, gain), (n, _n(gain, "task"))]

    return [(FALL, fall), (SIZE, size), (OUTSIDE, gained), (TWINS, twins)]


def _methods(study: Study) -> list[str]:
    return [name for name in study.methods if name not in (FLOOR, CEILING)]


def _width(found: dict[str, Runs]) -> int:
    """How many columns every method has."""
    return found[MAIN].values.shape[1]


def _n(gain: Gain, thing: str) -> Counted:
    return Counted({"seed": len(gain.values), thing: gain.values.shape[1]})


def _inside(study: Study) -> dict[int, dict[str, Runs]]:
    """{size: {method: normalised accuracy per subset of merged tasks}}."""
    ceiling = _reference(study, CEILING)
    rows = study.rows[study.rows.merged == 1]
    rows = rows.assign(value=100 * rows.accuracy / rows.task.map(ceiling))
    return {
        size: {
            name: runs(part[part.method == name], "value", sorted({*part.subset}), "subset") for name in _methods(study)
        }
        for size, part in rows.groupby("size")
    }


def _outside(study: Study) -> dict[int, dict[str, Runs]]:
    """{size: {method: points over zero-shot per task left out}}."""
    floor = _reference(study, FLOOR)
    rows = study.rows[(study.rows.merged == 0) & ~study.rows.method.isin((FLOOR, CEILING))]
    rows = rows.assign(value=rows.accuracy - rows.task.map(floor))
    return _sized(study, rows, "task")


def _sized(study: Study, rows: pd.DataFrame, by: str) -> dict[int, dict[str, Runs]]:
    """{size: {method: `value` per column of `by`}}."""
    return {
        int(size): {name: runs(part[part.method == name], "value", sorted({*part[by]}), by) for name in _methods(study)}
        for size, part in rows.groupby("size")
    }


def _reference(study: Study, method: str) -> dict[str, float]:
    """{task: accuracy} of zero-shot or of the experts."""
    return study.rows[study.rows.method == method].set_index("task").accuracy.to_dict()
