"""The numbers inside the report's sentences: recomputed from scores, or looked up in the table they speak of."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pipeline.audit import printed
from pipeline.audit.evidence import Evidence
from pipeline.audit.finding import Finding, Tally
from pipeline.audit.known import MAIN, Known
from pipeline.audit.printed import agrees
from pipeline.audit.recompute import CEILING, FLOOR

NUMBER = r"([−+-]?\d[\d,]*(?:\.\d+)?)"
GAP = (
    rf"closes {NUMBER}(?: ± {NUMBER})? % of the gap between zero-shot \({NUMBER} %\) and the individual experts "
    rf"\({NUMBER} %\) \(n = (\d+) seed"
)
PAIR = (
    rf" minus (.+?)(, the best data-free method|, the same without sharpness)?: {NUMBER} points, 95 % interval "
    rf"\[{NUMBER}, {NUMBER}\] on these tasks, \[{NUMBER}, {NUMBER}\] on tasks like these "
    r"\(n = (\d+) seeds? (?:each|against (\d+) runs?), ([\d,]+) test images?\): (.*)\."
)
COUNTS = (
    r"Of the (\d+) other rows of the table, .+? is better than (\d+) and worse than (\d+).*; "
    r"no difference is shown to (\d+)"
)
SEEDS = r"None covers other experts; with (\d+) seed"

Rows = Mapping[str, Mapping[str, str]]
"""The table of comparisons, by method; empty where it is not at hand."""
Expected = list[tuple[str, float]]
"""(as printed, as recomputed); NaN where nothing printed can be right."""


def check(evidence: Evidence, known: Known) -> Finding:
    """Every number of every sentence; sentences of an unknown form are named."""
    path = f"reports/tables/{known.suite}-sentences.md"
    tally, text = Tally(f"{known.suite}: sentences", f"numbers in {path}"), evidence.text(path)
    if text is None:
        tally.absent.append(path)
        return tally.finding()
    table = evidence.table(f"reports/tables/{known.suite}-comparisons.csv")
    rows = {} if table is None else {row["method"]: row for row in table.to_dict("records")}
    for line in text.splitlines():
        said = printed.plain(line.removeprefix("- "))
        match, recompute = next(((found, of) for form, of in FORMS if (found := re.search(form, said))), (None, None))
        if match is None:
            _correlations(tally, evidence, known, said, path)
            continue
        for shown, value in recompute(known, rows, match):
            tally.expect(agrees(shown, value), f"{path}: {shown} in “{said[:60]}…”, not {value:.4g}")
    return tally.finding()


def _gap(known: Known, _: Rows, match: re.Match[str]) -> Expected:
    own, spread, low, high, count = match.groups()
    gap = known.values[MAIN]["Gap closed"]
    levels = [known.values[name]["Average"].mean for name in (FLOOR, CEILING)]
    found = [(own, gap.mean), (low, levels[0]), (high, levels[1]), (count, gap.count)]
    return [*found, (spread or "", gap.deviation)]


def _pair(known: Known, rows: Rows, match: re.Match[str]) -> Expected:
    """The difference and its counts from scores; its intervals and verdict from the table of comparisons."""
    title, role, gain, low, high, like_low, like_high, seeds, runs, images, said = match.groups()
    nothing = float("nan")
    method, averages = known.titles.get(title), {name: own.mean() for name, own in known.accuracies.items()}
    if method is None or (role == ", the best data-free method" and method != _best(known)):
        return [(title, nothing)]
    found = [(gain, float(averages[MAIN] - averages[method])), (seeds, len(known.seeds[MAIN]))]
    found += [(runs or seeds, len(known.seeds[method])), (images, sum(known.totals.values()))]
    if row := rows.get(method):
        names = ("difference low", "difference high", "like low", "like high")
        ends = (low, high, like_low, like_high)
        found += [(shown, float(row[name])) for shown, name in zip(ends, names, strict=True)]
        verdict = row["verdict"] if "no difference" not in said else "no difference shown"
        found += [] if verdict == row["verdict"] and (verdict in said or "no difference" in said) else [(said, nothing)]
    return found


def _best(known: Known) -> str:
    return max(known.data_free, key=lambda name: known.values[name]["Average"].mean)


def _counts(_: Known, rows: Rows, match: re.Match[str]) -> Expected:
    """How many of the comparisons came out how."""
    verdicts = [row["verdict"] for row in rows.values() if row["verdict"]]
    starts = [sum(one.startswith(start) for one in verdicts) for start in ("better", "worse", "no difference")]
    return [*zip(match.groups(), (len(verdicts), *starts), strict=True)] if rows else []


def _seeds(known: Known, _: Rows, match: re.Match[str]) -> Expected:
    return [(match[1], len(known.seeds[MAIN]))]


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


FORMS: tuple[tuple[str, Callable[[Known, Rows, re.Match[str]], Expected]], ...] = (
    (GAP, _gap),
    (PAIR, _pair),
    (COUNTS, _counts),
    (SEEDS, _seeds),
)
"""(pattern, what its numbers must be)."""
