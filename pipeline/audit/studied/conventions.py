"""Conventions: what each does to every method, and to the order of any two of them."""

from collections.abc import Mapping
from itertools import combinations

import numpy as np

from pipeline.audit.claimed import Excluding, Gain, Jointly, Never, Number, Spread, Words
from pipeline.audit.evidence import EvidenceError
from pipeline.audit.resampled import ANSWERED
from pipeline.audit.studied import Forms, Runs, Says, Study, Table, chance, listed

TITLE = "Conventions"
EFFECT = r"(.+) has ([\d.]+) % with its default (\S+); against it, (.+) \(n = (.+)\)\."
CLEAR = (
    r"(\d+) of (\d+) intervals of differences from a default exclude zero, where (chance alone would give about "
    r"[\d.]+) \(n = (.+)\)\."
)
HELD = r"Ranks among these methods by the number of conventions \(n = (\d+) conventions\): (.+)\."
TURNING = (
    r"(\d+) of (\d+) pairs of methods change order between conventions; the interval of the change excludes zero for "
    r"(\d+) of them, and both orders are beyond their own intervals for (\d+) \(n = (\d+) methods, (.+)\)\."
)
TURNED = r"(.+) minus (.+): (.+\]) with (\S+) and (.+\]) with (\S+); the change is (.+) \(n = (.+)\)\."
BASIS = r"Intervals are of 95 %, of ([\d,]+) bootstrap draws .+: over the (.+) and over seeds \((.+); other methods .+"
ROUNDING = 9
"""Decimals of a point beyond which accuracies are the same."""


def tables(study: Study) -> dict[str, Table]:
    """A row per method in three, and one per pair."""
    runs_of, leads, titles = _methods(study), _leads(study), study.titles
    defaults, ranks = _defaults(study), _ranks(study)
    shown = {name: {each: Spread(runs.values.mean(1)) for each, runs in of.items()} for name, of in runs_of.items()}
    changed = {
        name: {each: Words("default") if each == defaults[name] else gain for each, gain in of.items()}
        for name, of in _changes(study).items()
    }
    ranked = {name: {each: Number(rank) for each, rank in of.items()} for name, of in ranks.items()}
    pairs = {}
    for (method, other), gains in leads.items():
        order = Words("changes" if _turns(gains) else "stays")
        title = f"{titles[method]} minus {titles[other]}"
        pairs[(title,)] = {**gains, "Change": _change(gains), "Order": order}
    per_method = {"accuracies": shown, "differences": changed, "ranks": ranked}
    return {
        name: Table(("Method",), {(titles[method],): cells for method, cells in rows.items()})
        for name, rows in per_method.items()
    } | {"pairs": Table(("Pair",), pairs)}


def sentences(study: Study) -> Forms:
    """The effects, the ranks, and the pairs whose order changes."""
    runs_of, defaults, changes = _methods(study), _defaults(study), _changes(study)
    names = {study.titles[name]: name for name in runs_of}
    leads, ranks = _leads(study), _ranks(study)
    turning = {pair: gains for pair, gains in leads.items() if _turns(gains)}
    others = [gain for name, of in changes.items() for each, gain in of.items() if each != defaults[name]]
    images = Words(f"{int(study.rows.groupby('task').total.first().sum())} test images")

    def effect(title: str, accuracy: str, default: str, each: str, basis: str) -> Says:
        if title not in names:
            return [(title, Never("no method of the study"))]
        name = names[title]
        expected = {convention: gain for convention, gain in changes[name].items() if convention != defaults[name]}
        shown = dict(part.split(": ", 1) for part in each.split("; "))
        if [*shown] != [*expected]:
            return [(each, Never(f"its rows have {', '.join(expected)}"))]
        seeds = runs_of[name][defaults[name]].seeds
        drawn = "" if seeds == (-1,) else f"{len(seeds)} seed{'s' * (len(seeds) != 1)}, "
        return [
            (accuracy, Number(float(runs_of[name][defaults[name]].values.mean()))),
            (default, Words(defaults[name])),
            *((shown[convention], gain) for convention, gain in expected.items()),
            (basis, Words(f"{drawn}{images.text}")),
        ]

    def clear(number: str, total: str, rest: str, basis: str) -> Says:
        counts: Says = [(number, Excluding(others)), (total, Number(len(others))), (basis, images)]
        return [*counts, *chance(rest, len(others))]

    def held(count: str, each: str) -> Says:
        expected = []
        for name, of in ranks.items():
            values = [*of.values()]
            times = [f"rank {rank} in {values.count(rank)}" for rank in sorted({*values})]
            expected.append((study.titles[name], times))
        shown = each.split("; ")
        if len(shown) != len(expected):
            return [(each, Never(f"the study has {len(expected)} methods"))]
        says: Says = [(count, Number(len(next(iter(runs_of.values())))))]
        for text, (title, times) in zip(shown, expected, strict=True):
            says.append((text.partition(" rank ")[0], Words(title)))
            parts = listed(text.removeprefix(f"{title} "))
            if len(parts) != len(times):
                return [(text, Never(f"its rows give {', '.join(times)}"))]
            says += [(part, Words(time)) for part, time in zip(parts, times, strict=True)]
        return says

    def turn(number: str, total: str, changed: str, both: str, methods: str, basis: str) -> Says:
        return [
            (number, Number(len(turning))),
            (total, Number(len(leads))),
            (changed, Excluding([_change(gains) for gains in turning.values()])),
            (both, Jointly([[gains[end] for end in _ends(gains)] for gains in turning.values()])),
            (methods, Number(len(runs_of))),
            (basis, images),
        ]

    def pair(method: str, other: str, *texts: str) -> Says:
        gains = turning.get((names.get(method, ""), names.get(other, "")))
        if gains is None:
            return [(f"{method} minus {other}", Never("the order of this pair does not change"))]
        most, least = _ends(gains)
        expected = (gains[most], Words(most), gains[least], Words(least), _change(gains), images)
        return [*zip(texts, expected, strict=True)]

    def basis(draws: str, over: str, seeds: str) -> Says:
        seeded = study.rows[study.rows.seed >= 0]
        numbers = {study.titles[name]: rows.seed.nunique() for name, rows in seeded.groupby("method", sort=False)}
        expected = ", ".join(f"{title} {number}" for title, number in numbers.items()) or "no method has any"
        tasks = f"{images.text} of these {len(study.tasks)} tasks"
        return [(draws, Number(ANSWERED)), (over, Words(tasks)), (seeds, Words(expected))]

    return [(EFFECT, effect), (CLEAR, clear), (HELD, held), (TURNING, turn), (TURNED, pair), (BASIS, basis)]


def _methods(study: Study) -> dict[str, dict[str, Runs]]:
    """{method: {convention: its runs}}, in the order of the rows."""
    conventions = dict.fromkeys(study.rows.setting)
    return {name: {each: study.runs(method=name, setting=each) for each in conventions} for name in study.methods}


def _defaults(study: Study) -> dict[str, str]:
    """{method: its default convention}."""
    marked = study.rows[study.rows.default == 1].groupby("method").setting.unique()
    if sorted(marked.index) != sorted(study.methods) or any(len(each) != 1 for each in marked):
        raise EvidenceError("not every method has one default convention")
    return {str(name): each[0] for name, each in marked.items()}


def _changes(study: Study) -> dict[str, dict[str, Gain]]:
    """{method: {convention: it minus the default}}."""
    defaults = _defaults(study)
    return {
        name: {each: runs.minus(of[defaults[name]]) for each, runs in of.items()}
        for name, of in _methods(study).items()
    }


def _ranks(study: Study) -> dict[str, dict[str, int]]:
    """{method: {convention: 1 and how many methods are better}}."""
    means = {
        name: {each: round(float(runs.values.mean()), ROUNDING) for each, runs in of.items()}
        for name, of in _methods(study).items()
    }
    return {
        name: {each: 1 + sum(other[each] > mean for other in means.values()) for each, mean in of.items()}
        for name, of in means.items()
    }


def _leads(study: Study) -> dict[tuple[str, str], dict[str, Gain]]:
    """{(method, other): {convention: one minus the other}}."""
    methods = _methods(study)
    return {
        (method, other): {each: _lead(runs, methods[other][each]) for each, runs in methods[method].items()}
        for method, other in combinations(methods, 2)
    }


def _lead(runs: Runs, others: Runs) -> Gain:
    """One method minus another; seeds that are not the same are crossed, and drawn apart."""
    if runs.seeds == others.seeds or (-1,) in (runs.seeds, others.seeds):
        return runs.minus(others)
    answers = None
    if runs.answers is not None and others.answers is not None:
        answers = tuple(_crossed(*both) for both in zip(runs.answers, others.answers, strict=True))
    return Gain(_crossed(runs.values, others.values), answers, axes=(len(runs.seeds), len(others.seeds)))


def _crossed(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    """[S, n] minus [R, n], every row of one with every row of the other [S R, n]."""
    return (values[:, None] - others).reshape(-1, values.shape[1])


def _ends(gains: Mapping[str, Gain]) -> tuple[str, str]:
    """The conventions with the largest and with the smallest difference."""
    means = {each: round(float(gain.values.mean()), ROUNDING) for each, gain in gains.items()}
    return max(means, key=means.__getitem__), min(reversed(means), key=means.__getitem__)


def _turns(gains: Mapping[str, Gain]) -> bool:
    """Whether one method is better under one convention and worse under another."""
    most, least = (round(float(gains[end].values.mean()), ROUNDING) for end in _ends(gains))
    return most > 0 > least


def _change(gains: Mapping[str, Gain]) -> Gain:
    """The smallest difference minus the largest."""
    most, least = (gains[end] for end in _ends(gains))
    answers = None
    if most.answers is not None and least.answers is not None:
        answers = tuple(low - high for low, high in zip(least.answers, most.answers, strict=True))
    return Gain(least.values - most.values, answers, axes=least.axes)
