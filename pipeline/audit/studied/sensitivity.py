"""Sensitivity: how far a method's accuracy ranges over the values of a knob."""

import re
from dataclasses import dataclass

import numpy as np

from pipeline.audit.claimed import Never, Number, Words
from pipeline.audit.evidence import EvidenceError
from pipeline.audit.studied import MAIN, Forms, Says, Study, Table, basis

TITLE = "Sensitivity"
KNOBS = {
    "rho": "radius ρ of SAM",
    "temperature": "temperature",
    "initial_coefficient": "initial coefficient",
    "lr": "learning rate",
    "steps": "steps",
    "scale": "factor of the merged delta",
}
CLOSE = 1.0
"""Points below the best value that count as good."""
RADIUS = r"(.+) with ρ = (\d+(?:\.\d+)?(?:e[+-]\d+)?) minus ρ = 0: (.+) \(n = (.+)\)\."
RANGES = r"Over (\d+) values of the (.+) the average accuracy ranges over, in points and with n runs per value: (.+)\."
EACH = r"(.+) ([\d.]+) \(n = (\d+)\)"


@dataclass(frozen=True)
class Range:
    """The mean accuracies over a knob's values."""

    means: tuple[float, ...]
    published: float
    seeds: int

    @property
    def size(self) -> float:
        """From the worst to the best."""
        return max(self.means) - min(self.means)


def tables(study: Study) -> dict[str, Table]:
    """A row per method and knob."""
    rows = {
        (study.titles[method], KNOBS[knob]): {
            "worst": Number(min(found.means)),
            "best": Number(max(found.means)),
            "published": Number(found.published),
            "range": Number(found.size),
            "within 1 point, %": Number(100 * float(np.mean(np.array(found.means) >= max(found.means) - CLOSE))),
            "values": Number(len(found.means)),
            "seeds": Number(found.seeds),
        }
        for (method, knob), found in _ranges(study).items()
    }
    return {"brittleness": Table(("method", "knob"), rows)}


def sentences(study: Study) -> Forms:
    """The radius of SAM against none, and every knob's ranges."""
    ranges = _ranges(study)

    def radius(title: str, value: str, said: str, n: str) -> Says:
        if not {float(value), 0.0} <= {*radii}:
            return [(value, Never("the study has no such radius"))]
        own, none = (study.runs(method=MAIN, knob="rho", value=at) for at in (float(value), 0.0))
        gain = own.minus(none)
        return [(title, Words(study.titles[MAIN])), (said, gain), (n, study.counts(gain))]

    def knob(count: str, title: str, each: str) -> Says:
        own = {study.titles[method]: one for (method, name), one in ranges.items() if KNOBS[name] == title}
        parts = [re.fullmatch(EACH, part) for part in each.split(", ")]
        if None in parts or sorted(part[1] for part in parts) != sorted(own):
            return [(each, Never(f"the study has {', '.join(own)}"))]
        found: Says = [(count, Number(min(len(one.means) for one in own.values())))]
        for name, size, seeds in (part.groups() for part in parts):
            found += [(size, Number(own[name].size)), (seeds, Number(own[name].seeds))]
        return found

    radii = study.rows[(study.rows.method == MAIN) & (study.rows.knob == "rho")].value
    return [
        (RADIUS, radius),
        (RANGES, knob),
        *basis(study, study.runs(method=MAIN, knob="rho", value=radii.min()).plain()),
    ]


def _ranges(study: Study) -> dict[tuple[str, str], Range]:
    """{(method, knob): its range}."""
    found = {}
    for (method, knob), part in study.rows.groupby(["method", "knob"], sort=False):
        values = dict.fromkeys(part.value)
        means = {one: float(study.runs(method=method, knob=knob, value=one).values.mean()) for one in values}
        published = {*part.value[part.published == 1]}
        if len(published) != 1:
            raise EvidenceError(f"{method}, {knob}: {len(published)} values are published, expected one")
        found[str(method), str(knob)] = Range((*means.values(),), means[published.pop()], part.seed.nunique())
    return found
