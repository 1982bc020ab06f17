"""Flatness: what stands in for SAM's second pass, against plain descent and against SAM."""

import re

import numpy as np

from pipeline.audit.claimed import Excluding, Gain, Never, Number, Spread, Words
from pipeline.audit.studied import Forms, Says, Study, Table, basis, chance, gained, runs

TITLE = "Flatness"
PLAIN, SAM = "plain", "sam"
NAMES = {
    PLAIN: "plain",
    SAM: "SAM",
    "carried": "carried perturbation",
    "per task": "a perturbation per task",
    "smoothed": "random direction",
    "averaged": "averaged iterates",
}
BOTH = r"SAM minus plain descent: (.+); the rise of the loss, ([\d.]+) nats without it, changes by (.+) \(n = (.+)\)\."
CHEAPER = (
    r"Change of the rise against plain descent, in nats, with fewer passes than SAM's × ([\d.]+): (.+)\.(?: Intervals "
    r"of the rise, which is measured per task and not per image, are over tasks and seeds\.)?"
)
EACH = r"(.+) \(passes × ([\d.]+)\) (.+)"
CLEAR = (
    r"In accuracy, (\d+) of (\d+) variants differ from SAM by an interval that excludes zero(?: \((.+) points\))?, "
    r"where (chance alone would give about [\d.]+)\."
)


def tables(study: Study) -> dict[str, Table]:
    """A row per rule: cost, accuracy, loss and its rise, and the last two against plain descent."""
    better, flatter = _against(study, "accuracy", PLAIN), _against(study, "rise", PLAIN)
    passes, merges = (_cost(study, column) for column in ("passed", "merges"))
    rows = {}
    for name in passes:
        compared = gained("Minus plain", better[name]) | {"Rise minus plain": flatter[name]}
        rows[(_title(name),)] = {
            "Passes, ×": Number(passes[name] / passes[PLAIN]),
            "Merges, ×": Number(merges[name] / merges[PLAIN]),
            "Average": Spread(_values(study, name, "accuracy").mean(1)),
            "Held-out loss": Spread(_values(study, name, "loss").mean(1)),
            "Rise": Spread(_values(study, name, "rise").mean(1)),
            **(dict.fromkeys(compared, Words("")) if name == PLAIN else compared),
        }
    return {"flatness": Table(("Rule",), rows)}


def sentences(study: Study) -> Forms:
    """SAM against plain descent, what is cheaper than SAM, and what scores otherwise."""
    better, flatter = _against(study, "accuracy", PLAIN), _against(study, "rise", PLAIN)
    others = {_title(name): gain for name, gain in _against(study, "accuracy", SAM).items() if name not in (PLAIN, SAM)}
    passes = {name: cost / _cost(study, "passed")[PLAIN] for name, cost in _cost(study, "passed").items()}
    cheap = {_title(name): name for name, cost in passes.items() if name != PLAIN and cost < passes[SAM]}

    def both(said: str, level: str, risen: str, n: str) -> Says:
        rise = Number(float(_values(study, PLAIN, "rise").mean()))
        return [(said, better[SAM]), (level, rise), (risen, flatter[SAM]), (n, study.counts(better[SAM]))]

    def cheaper(most: str, each: str) -> Says:
        parts = [re.fullmatch(EACH, part) for part in each.split("; ")]
        if None in parts or [part[1] for part in parts] != [*cheap]:
            return [(each, Never(f"cheaper than SAM are {', '.join(cheap)}"))]
        found: Says = [(most, Number(passes[SAM]))]
        for title, cost, said in (part.groups() for part in parts):
            found += [(cost, Number(passes[cheap[title]])), (said, flatter[cheap[title]])]
        return found

    def clear(number: str, total: str, named: str | None, rest: str) -> Says:
        found = [(number, Excluding([*others.values()])), (total, Number(len(others))), *chance(rest, len(others))]
        each = named.split("; ") if named else []
        for part in each:
            title = max((one for one in others if part.startswith(f"{one} ")), key=len, default="")
            gain = others.get(title, Never("no variant of the study"))
            found.append((part.removeprefix(f"{title} "), gain))
        return [*found, (number, Number(len(each)))]

    return [(BOTH, both), (CHEAPER, cheaper), (CLEAR, clear), *basis(study, better[SAM])]


def _title(name: str) -> str:
    return NAMES.get(name, f"SAM {name} steps")


def _values(study: Study, name: str, column: str) -> np.ndarray:
    """[S, T] of a rule."""
    return runs(study.rows[study.rows.setting == name], column, study.tasks).values


def _cost(study: Study, column: str) -> dict[str, float]:
    """{rule: the mean of a cost over runs}, in the order of the rows."""
    return study.rows.groupby("setting", sort=False)[column].mean().to_dict()


def _against(study: Study, column: str, other: str) -> dict[str, Gain]:
    """{rule: its accuracy or rise minus that of another}."""
    if column == "accuracy":
        return {name: study.runs(setting=name).minus(study.runs(setting=other)) for name in _cost(study, "passed")}
    return {name: Gain(_values(study, name, column) - _values(study, other, column)) for name in _cost(study, "passed")}
