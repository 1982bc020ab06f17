"""The numbers inside the report's sentences: recomputed from scores, or looked up in the table they speak of."""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

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
SEEDS = r"None covers other experts: .* With (\d+) seed"

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
    """A paragraph on correlations: how many there are and exclude zero, which is strongest, and each with its interval.

    Held against the table of predictions.
    """
    table = evidence.table(f"reports/tables/{known.suite}-prediction.csv")
    if "ρ = " not in said or table is None:
        tally.absent.append(f"numbers of “{said[:60]}…”")
        return
    for part in re.split(rf"(?={'|'.join(scope.opening for scope in SCOPES)})", said):
        scope = next((one for one in SCOPES if re.match(one.opening, part)), None)
        if scope is None:
            tally.expect("ρ" not in part, f"{path}: “{part[:60]}…” is of no known form")
            continue
        for complaint in scope.problems(table.to_dict("records"), part):
            tally.expect(not complaint, f"{path}: {complaint}")


@dataclass(frozen=True)
class Scope:
    """One part of the paragraph on correlations."""

    opening: str
    name: str
    """The `scope` of its rows."""
    edges: tuple[str, str]
    """The columns of the interval that is shown."""
    chance: float
    """How often that excludes zero by chance."""

    def problems(self, rows: Sequence[Mapping[str, str]], said: str) -> Iterator[str]:
        """Per comparison empty, or what is wrong."""
        every = [
            [float(row[name] or "nan") for name in ("rho", *self.edges)] for row in rows if row["scope"] == self.name
        ]
        whole = [one for one in every if not any(map(math.isnan, one))]
        clear = [one for one in whole if one[1] > 0 or one[2] < 0]
        if counts := re.search(COUNTED, said):
            own = (len(whole), len(clear), round(self.chance * len(whole)))
            shown = tuple(int(text) for text in counts.groups())
            yield "" if shown == own else f"{shown} correlations, excluding zero, by chance, the table gives {own}"
        if best := re.search(STRONGEST, said):
            own = max(abs(one[0]) for one in whole)
            yield (
                ""
                if agrees(best[1].lstrip("+-−"), own)
                else f"the strongest ρ is said to be {best[1]}, it is {own:.4f}"
            )
        for rho, low, high, side in re.findall(CORRELATION, said):
            shown = [text.lstrip("+") for text in (rho, low, high) if text]
            like = [one for one in every if all(agrees(text, own) for text, own in zip(shown, one, strict=False))]
            right = any(not side or (side == "ex") == (one in clear) for one in like)
            yield "" if right else f"ρ = {rho} [{low}, {high}] is no row of the table of predictions"


SCOPES = (
    Scope(r"Over the \d+ tasks", "tasks", ("low", "high"), 0.05),
    Scope(r"Over \d+ random subsets", "subsets of one size", ("task_low", "task_high"), 0.12),
    Scope("Where sizes are mixed", "subsets", ("task_low", "task_high"), 0.12),
)
COUNTED = r"(\d+) rank correlations .*?: (\d+) of their 95 % intervals exclude zero, .*? about (\d+)\."
STRONGEST = rf"The strongest is .*?ρ = {NUMBER}"
CORRELATION = rf"ρ = {NUMBER}(?: \[{NUMBER}, {NUMBER}\](?:, which (in|ex)cludes zero)?)?"


FORMS: tuple[tuple[str, Callable[[Known, Rows, re.Match[str]], Expected]], ...] = (
    (GAP, _gap),
    (PAIR, _pair),
    (COUNTS, _counts),
    (SEEDS, _seeds),
)
"""(pattern, what its numbers must be)."""
