"""The numbers inside the report's sentences: recomputed from scores, or looked up in the table they speak of."""

import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from pipeline.audit import printed
from pipeline.audit.evidence import Evidence
from pipeline.audit.finding import Finding, Tally
from pipeline.audit.known import MAIN, Known
from pipeline.audit.printed import agrees
from pipeline.audit.recompute import CEILING, FLOOR

TWIN = "distillation"
RESAMPLES = 20_000
SLACK = 0.05
"""Of its width, that an end of an interval may differ by: both bootstraps have their own chance."""

Expected = list[tuple[str, float]]
"""(as printed, as recomputed)."""


def check(evidence: Evidence, known: Known) -> Finding:
    """Every number of every sentence; sentences of an unknown form are named."""
    path = f"reports/tables/{known.suite}-sentences.md"
    tally, text = Tally(f"{known.suite}: sentences", f"numbers in {path}"), evidence.text(path)
    if text is None:
        tally.absent.append(path)
        return tally.finding()
    for line in text.splitlines():
        said = printed.plain(line.removeprefix("- "))
        for pattern, recompute in FORMS:
            if match := re.search(pattern, said):
                for shown, value in recompute(known, match):
                    tally.expect(
                        agrees(shown.lstrip("+"), value), f"{path}: {shown} in “{match[0][:60]}…”, not {value:.4g}"
                    )
                if pattern == DIFFERENCE:
                    _interval(tally, known, match, path)
                break
        else:
            _correlations(tally, evidence, known, said, path)
    return tally.finding()


NUMBER = r"([−+-]?\d[\d,]*(?:\.\d+)?)"
GAP = (
    rf"closes {NUMBER}(?: ± {NUMBER})? % of the gap between zero-shot \({NUMBER} %\) and the individual experts "
    rf"\({NUMBER} %\) \(n = (\d+) seed"
)
LEAD = (
    rf"over (\d+) tasks it (leads|trails) the best data-free method, (.+?), by {NUMBER} points: {NUMBER} % "
    rf"\(n = (\d+) seeds?\) against {NUMBER} %"
)
DIFFERENCE = rf"minus distillation: {NUMBER} points, 95 % interval \[{NUMBER}, {NUMBER}\]: it (includes|excludes) zero"


def _gap(known: Known, match: re.Match[str]) -> Expected:
    own, spread, low, high, count = match.groups()
    gap = known.values[MAIN]["Gap closed"]
    levels = [known.values[name]["Average"].mean for name in (FLOOR, CEILING)]
    found = [(own, gap.mean), (low, levels[0]), (high, levels[1]), (count, gap.count)]
    return [*found, (spread or "", gap.deviation)]


def _lead(known: Known, match: re.Match[str]) -> Expected:
    tasks, verb, title, lead, own, count, other = match.groups()
    averages = {name: known.values[name]["Average"].mean for name in (*known.data_free, MAIN)}
    best = max(known.data_free, key=averages.__getitem__)
    gain = averages[MAIN] - averages[best]
    named = known.titles.get(title, title)
    return [
        (tasks, len(known.tasks)),
        (lead, abs(gain) if (gain >= 0) == (verb == "leads") else -abs(gain)),
        (own, averages[MAIN]),
        (count, len(known.seeds[MAIN])),
        (other, averages[best] if abs(averages.get(named, math.nan) - averages[best]) < 1e-9 else math.nan),
    ]


def _difference(known: Known, match: re.Match[str]) -> Expected:
    return [(match[1], float((known.accuracies[MAIN] - known.accuracies[TWIN]).mean()))]


def _interval(tally: Tally, known: Known, match: re.Match[str], path: str) -> None:
    """The ends of a percentile interval, by another bootstrap: seeds and tasks are weighted, not gathered."""
    pairs = known.accuracies[MAIN] - known.accuracies[TWIN]
    low, high = (float(text.replace("−", "-")) for text in match.group(2, 3))
    generator = np.random.default_rng(20251221)
    seeds, tasks = (generator.multinomial(n, np.full(n, 1 / n), RESAMPLES) / n for n in pairs.shape)
    ends = np.quantile(np.einsum("bs,st,bt->b", seeds, pairs, tasks), (0.025, 0.975))
    digits = 0.5 * 10.0 ** -len(match[2].partition(".")[2])
    slack = SLACK * (ends[1] - ends[0]) + digits
    for shown, value in zip((low, high), ends, strict=True):
        tally.expect(
            abs(shown - value) <= slack, f"{path}: end {shown:+} of the interval, another bootstrap has {value:+.3f}"
        )
    excludes = low > 0 or high < 0
    tally.expect((match[4] == "excludes") == excludes, f"{path}: [{low}, {high}] {match[4]} zero?")


def _correlations(tally: Tally, evidence: Evidence, known: Known, said: str, path: str) -> None:
    """A paragraph on correlations: every ρ and interval stands in the table of predictions, whose counts it gives."""
    table = evidence.table(f"reports/tables/{known.suite}-prediction.csv")
    if "ρ = " not in said or table is None:
        tally.absent.append(f"numbers of “{said[:60]}…”")
        return
    triples = [*_triples(table.to_dict("records"))]
    for rho, low, high in re.findall(rf"ρ = {NUMBER}(?: \[{NUMBER}, {NUMBER}\])?", said):
        shown = [text.lstrip("+") for text in (rho, low, high) if text]
        same = any(all(agrees(text, value) for text, value in zip(shown, triple, strict=False)) for triple in triples)
        tally.expect(same, f"{path}: ρ = {rho} [{low}, {high}] is no row of {known.suite}-prediction.csv")


def _triples(rows: list[dict[str, Any]]) -> Iterator[tuple[float, ...]]:
    """(ρ, low, high) of every row, with each of its intervals."""
    for row in rows:
        for ends in (("low", "high"), ("task_low", "task_high")):
            yield tuple(float(row[name] or "nan") for name in ("rho", *ends))


FORMS: tuple[tuple[str, Callable[[Known, re.Match[str]], Expected]], ...] = (
    (GAP, _gap),
    (LEAD, _lead),
    (DIFFERENCE, _difference),
)
"""(pattern, what its numbers must be)."""
