"""Replicates: methods on several trainings of the experts, and which orders of methods hold on all of them."""

import math
import re
from itertools import pairwise

import numpy as np

from pipeline.audit.claimed import Counted, Excluding, Gain, Like, Never, Number, Side, Words
from pipeline.audit.studied import CEILING, FLOOR, MAIN, TWIN, Forms, Runs, Says, Study, Table

TITLE = "Replicates"
RIVALS = (TWIN, "adamerging", "tsv_m")
REFERENCES = (FLOOR, CEILING)
"""No merges: they are not compared."""
HOLD = r"Facts about the methods are (\d+) of (\d+) orders \(the interval .+?\): (.+) \(n = (.+)\)\."
PASS = r"Facts about these experts at most are (\d+) of (\d+) orders \(the interval .+?\): (.+) \(n = (.+)\)\."
SPREAD = r"Standard deviation of the average accuracy in points, .+?\): (.+) \(n = (.+)\)\. The ± of .+\."
BASIS = r"(Intervals are of 95 %.*)"
EACH = r"(.+) minus (.+?) (\S+ points \[.+\]), (\d+) of (\d+)"
DEVIATIONS = r"(.+) (\S+) against (\S+) \((\S+) %\)"


def tables(study: Study) -> dict[str, Table]:
    """A row per method, and one per pair of methods; nothing where no experts were trained."""
    if study.rows.empty:
        return {}
    methods, pairs = {}, {}
    for name in _ranked(study):
        values = _accuracies(study, name)
        means, (between, within, share) = values.mean(1), _deviations(values)
        methods[(study.titles[name],)] = {
            "Mean": Number(float(means.mean())),
            "Lowest": Number(float(means.min())),
            "Highest": Number(float(means.max())),
            "SD over replicates": Number(between),
            "SD over seeds": Number(within),
            "Share, %": Number(100 * share),
            "Committed": Number(float(means[0])),
        }
    for pair, gain in _gains(study).items():
        pairs[(_named(study, pair),)] = {
            "Committed experts": _minus(study, *pair, _numbers(study)[:1]),
            "All replicates": gain,
            "Tasks like these": Like(gain),
            "Same sign": Words(f"{_agreeing(gain)} of {gain.axes[0]}"),
        }
    return {"methods": Table(("Method",), methods), "pairs": Table(("Pair",), pairs)}


def sentences(study: Study) -> Forms:
    """Which orders are about the methods, which about these experts, and what replicates and seeds move."""
    if study.rows.empty:
        return []
    gains = {_named(study, pair): gain for pair, gain in _gains(study).items()}
    unanimous = [gain for gain in gains.values() if _agreeing(gain) == gain.axes[0]]
    replicates, seeds = len(_numbers(study)), _seeds(study)
    things = {"replicate": replicates, "seed": seeds, "image": int(study.rows.groupby("task").total.first().sum())}
    n = Counted(things)

    def listing(each: str, holds: bool) -> Says:
        parts = [re.fullmatch(EACH, part) for part in each.split("; ")]
        if None in parts or not {f"{part[1]} minus {part[2]}" for part in parts} <= gains.keys():
            return [(each, Never(f"the study compares {'; '.join(gains)}"))]
        checks: Says = []
        for method, other, difference, same, total in (part.groups() for part in parts):
            pair = f"{method} minus {other}"
            gain = gains[pair]
            agreeing = _agreeing(gain)
            checks += [(difference, gain), (same, Number(agreeing)), (total, Number(replicates))]
            if holds or agreeing == replicates:
                checks.append((pair, Side(gain, excludes=holds)))
            if holds and agreeing < replicates:
                checks.append((pair, Never("its replicates do not agree in sign")))
        return checks

    def hold(count: str, total: str, each: str, over: str) -> Says:
        listed = (str(len(each.split("; "))), Excluding(unanimous))
        return [(count, Excluding(unanimous)), listed, (total, Number(len(gains))), (over, n), *listing(each, True)]

    def passing(count: str, total: str, each: str, over: str) -> Says:
        listed = (count, Number(len(each.split("; "))))
        return [listed, (total, Number(len(gains))), (over, n), *listing(each, False)]

    def spread(each: str, over: str) -> Says:
        values = {study.titles[name]: _accuracies(study, name) for name in _ranked(study) if name not in REFERENCES}
        expected = {title: _deviations(runs) for title, runs in values.items() if runs.shape[1] > 1}
        parts = [re.fullmatch(DEVIATIONS, part) for part in each.split("; ")]
        if None in parts or [part[1] for part in parts] != [*expected]:
            return [(each, Never(f"expected {', '.join(expected)}"))]
        checks: Says = [(over, n)]
        for title, *shown in (part.groups() for part in parts):
            between, within, share = expected[title]
            checks += zip(shown, (Number(between), Number(within), Number(100 * share)), strict=True)
        return checks

    def basis(said: str) -> Says:
        return [(said, Counted({**things, "task": len(study.tasks), "draw": 2_000}))]

    return [(HOLD, hold), (PASS, passing), (SPREAD, spread), (BASIS, basis)]


def _numbers(study: Study) -> list[int]:
    return sorted({*study.rows.replicate.tolist()})


def _seeds(study: Study) -> int:
    return len({*study.rows.seed.tolist()} - {-1})


def _accuracies(study: Study, method: str) -> np.ndarray:
    """Average accuracy [R, S]."""
    return np.stack([study.runs(replicate=number, method=method).values.mean(1) for number in _numbers(study)])


def _ranked(study: Study) -> list[str]:
    """The methods, best mean first."""
    means = {name: round(float(_accuracies(study, name).mean()), 9) for name in sorted(study.methods)}
    return sorted(means, key=means.__getitem__, reverse=True)


def _gains(study: Study) -> dict[tuple[str, str], Gain]:
    """{(method, other): the difference in all replicates}: SAMerging and its rivals, and neighbours in the ranking."""
    pairs = dict.fromkeys((MAIN, name) for name in RIVALS)
    for pair in pairwise(name for name in _ranked(study) if name not in REFERENCES):
        if pair[::-1] not in pairs:
            pairs[pair] = None
    return {pair: _minus(study, *pair, _numbers(study)) for pair in pairs}


def _minus(study: Study, method: str, other: str, numbers: list[int]) -> Gain:
    """The difference in these replicates; of two methods without randomness, the same beside every seed."""
    parts = [_pair(study, method, other, number) for number in numbers]
    tasks = zip(*(part.answers for part in parts), strict=True) if all(part.answers for part in parts) else None
    answers = None if tasks is None else tuple(np.concatenate(each) for each in tasks)
    return Gain(np.concatenate([part.values for part in parts]), answers, axes=(len(numbers), len(parts[0].values)))


def _pair(study: Study, method: str, other: str, number: int) -> Gain:
    """The difference in one replicate, a row per seed of the calibrated methods."""
    first, second = (_spread(study.runs(replicate=number, method=name), _seeds(study)) for name in (method, other))
    return first.minus(second)


def _spread(runs: Runs, seeds: int) -> Runs:
    """The runs with as many rows as there are seeds."""
    if runs.seeds != (-1,):
        return runs
    answers = None if runs.answers is None else tuple(np.repeat(each, seeds, axis=0) for each in runs.answers)
    return Runs(np.repeat(runs.values, seeds, axis=0), runs.seeds, answers)


def _agreeing(gain: Gain) -> int:
    """Replicates whose difference has the sign of the mean."""
    means = gain.values.reshape(gain.axes[0], -1).mean(1).round(10)
    return int((np.sign(means) == np.sign(gain.values.mean().round(10))).sum())


def _named(study: Study, pair: tuple[str, str]) -> str:
    return " minus ".join(study.titles[name] for name in pair)


def _deviations(values: np.ndarray) -> tuple[float, float, float]:
    """Standard deviations [R, S] over replicates and over seeds, and the replicates' share of a run's variance."""
    replicates, seeds = values.shape
    between = values.mean(1).var(ddof=1)
    if seeds == 1:
        return math.sqrt(between), math.nan, math.nan
    within = sum(row.var(ddof=1) for row in values) / replicates
    # Of the crossed layout: total = replicates + seeds + interaction, in sums of squares.
    squares = values.var() * values.size - seeds * values.mean(1).var() * replicates
    interaction = (squares - replicates * values.mean(0).var() * seeds) / ((replicates - 1) * (seeds - 1))
    training = max(between - interaction / seeds, 0.0)
    whole = training + within
    return math.sqrt(between), math.sqrt(within), training / whole if round(whole, 12) > 0 else math.nan
