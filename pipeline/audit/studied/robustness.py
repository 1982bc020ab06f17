"""Robustness: accuracy on corrupted images, what is lost to corruption, and what sharpness saves."""

import re

from pipeline.audit.claimed import Counted, Excluding, Gain, Never, Number, Spread, Words
from pipeline.audit.studied import CEILING, FLOOR, MAIN, TWIN, Forms, Runs, Says, Study, Table, average, listed, runs

TITLE = "Robustness"
CLEAN = "clean"
TITLES = {
    "motion_blur": "Motion blur",
    "impulse_noise": "Impulse noise",
    "gaussian_noise": "Gaussian noise",
    "pixelate": "Pixelate",
    "spatter": "Spatter",
    "contrast": "Contrast",
    "jpeg": "JPEG",
}
LOST = r"Points lost to corruption, mean over (\d+) corruptions?, with 95 % intervals: (.+) \(n = (.+)\)\."
EACH = r"(.+?) (\S+ \[[^\]]+\])(?:, |$)"
BEST = (
    r"The best merge on corrupted images is that of (.+), ([\d.]+) % \(experts ([\d.]+) %, zero-shot ([\d.]+) %; "
    r"n = (.+)\); the hardest corruption for (.+) is '(.+)'\."
)
PAIR = r"(.+) on corrupted images: (.+) \(n = (.+?)\); on the same images clean: (.+) \(n = (.+?)\)\."
SAVED = (
    r"What sharpness saves of the drop: (.+) \(n = (.+?)\)\. Of the intervals of (.+) for single corruptions (\d+) of "
    r"(\d+) exclude zero(?:: (.+))?\."
)


def tables(study: Study) -> dict[str, Table]:
    """A row per method."""
    rows = {}
    for name in study.methods:
        cases = _cases(study, name)
        clean, corrupted = cases[CLEAN], _corrupted(cases)
        shown = {"Clean": clean, **{TITLES[kind]: one for kind, one in cases.items() if kind != CLEAN}}
        columns = {title: Spread(one.values.mean(1)) for title, one in shown.items()}
        columns |= {
            "Corrupted": Spread(corrupted.values.mean(1)),
            "Drop": Spread(clean.minus(corrupted).values.mean(1)),
        }
        rows[(study.titles[name],)] = columns
    return {"robustness": Table(("Method",), rows)}


def sentences(study: Study) -> Forms:
    """What is lost, what is best and hardest, and what sharpness saves."""
    cases = {name: _cases(study, name) for name in study.methods}
    after = {name: _corrupted(one) for name, one in cases.items()}
    drops = {study.titles[name]: cases[name][CLEAN].minus(after[name]) for name in (MAIN, TWIN, CEILING, FLOOR)}
    kinds = [kind for kind in cases[MAIN] if kind != CLEAN]
    gains = {kind: cases[MAIN][kind].minus(cases[TWIN][kind]) for kind in kinds}
    clean, worse = cases[MAIN][CLEAN].minus(cases[TWIN][CLEAN]), after[MAIN].minus(after[TWIN])
    n = Counted({"seed": len(clean.values), "task": len(study.tasks)})
    both = Words(f"{study.titles[MAIN]} minus {study.titles[TWIN]}")

    def lost(number: str, each: str, said: str) -> Says:
        shown = re.findall(EACH, each)
        if [title for title, _ in shown] != [*drops]:
            return [(each, Never(f"expected {', '.join(drops)}"))]
        return [(number, Number(len(kinds))), (said, n), *((text, drops[title]) for title, text in shown)]

    def best(title: str, *rest: str) -> Says:
        means = {name: float(one.values.mean()) for name, one in after.items()}
        first = max(means.keys() - {FLOOR, CEILING}, key=means.__getitem__)
        hardest = min(kinds, key=lambda kind: cases[MAIN][kind].values.mean())
        levels = [Number(means[name]) for name in (first, CEILING, FLOOR)]
        expected = [Words(study.titles[first]), *levels, n, Words(study.titles[MAIN]), Words(TITLES[hardest])]
        return [*zip((title, *rest), expected, strict=True)]

    def pair(title: str, corrupted: str, n_first: str, same: str, n_second: str) -> Says:
        return [(title, both), (corrupted, worse), (n_first, n), (same, clean), (n_second, n)]

    def saved(said: str, count: str, title: str, number: str, total: str, named: str | None) -> Says:
        found = [(said, Gain(worse.values - clean.values)), (count, n), (title, both), (total, Number(len(kinds)))]
        found += [(number, Excluding([*gains.values()])), (number, Number(len(listed(named))))]
        by_title = {TITLES[kind]: Number(float(gain.values.mean())) for kind, gain in gains.items()}
        for part in listed(named):
            title, _, gain = part.rstrip(")").partition(" (")
            found.append((gain, by_title.get(title, Never("no corruption of the study"))))
        return found

    return [(LOST, lost), (BEST, best), (PAIR, pair), (SAVED, saved)]


def _cases(study: Study, method: str) -> dict[str, Runs]:
    """{corruption: the mean over its severities}, clean first; tasks by name, in which order intervals draw them."""
    rows, names = study.rows[study.rows.method == method], sorted(study.tasks)
    return {
        str(kind): average([runs(each, "accuracy", names) for _, each in part.groupby("severity")])
        for kind, part in rows.groupby("corruption", sort=False)
    }


def _corrupted(cases: dict[str, Runs]) -> Runs:
    return average([one for kind, one in cases.items() if kind != CLEAN])
