"""Captions of a suite's tables: protocol and counts, from parameters and scores; the same words in every format."""

import html
import re
from collections.abc import Iterator

import pandas as pd

from pipeline.audit.evidence import Evidence
from pipeline.audit.finding import Finding, Tally
from pipeline.audit.known import MAIN, Known
from pipeline.audit.printed import plain

PROTOCOL = (
    r"Scored on the (\w+) split\. Calibrated methods saw up to ([\d,]+) unlabelled images per task"
    r"(?: \(k capped at the pool: ([^)]*)\))? of the (\w+) split.*?; (\d+) seeds? \(([\d, ]+)\)\."
)
COMPARED = (
    r"\((\d+) runs?\) minus each method, .*? over (\d+) tasks and ([\d,]+) test images; .*?"
    r"correction for (\d+) comparisons?;"
)
Facts = tuple[str, ...]


def check(evidence: Evidence, known: Known, scores: pd.DataFrame) -> Finding:
    """What the captions of the table, the overview and the comparisons say; that LaTeX and the page say the same."""
    tally = Tally(f"{known.suite}: captions", "facts in captions, and captions in other formats")
    page = _page(evidence.text("reports/index.html") or "")
    for name, pattern, facts in _expected(evidence, known, scores):
        path = f"reports/tables/{known.suite}{name}.md"
        text = evidence.text(path)
        if text is None:
            tally.absent.append(path)
            continue
        caption = plain(text.strip().splitlines()[-1])
        found = re.search(pattern, caption)
        tally.expect(found is not None, f"{path}: the caption does not say what was measured")
        for said, own in zip(found.groups(""), facts, strict=True) if found else ():
            tally.expect(said == own, f"{path}: the caption says “{said}”, parameters and scores give “{own}”")
        if page:
            shown = any(all(sentence in one for sentence in caption.split(". ")) for one in page)  # it may say more
            tally.expect(shown, f"the page has not the caption of {path}")
        latex = re.search(r"\\caption\{(.*)\}$", evidence.text(path[:-3] + ".tex") or "", re.MULTILINE)
        if latex:
            tally.expect(_numbers(latex[1]) == _numbers(caption), f"{path[:-3]}.tex: its caption has other numbers")
    return tally.finding()


def _expected(evidence: Evidence, known: Known, scores: pd.DataFrame) -> Iterator[tuple[str, str, Facts]]:
    """(end of the table's name, pattern, what its groups must be)."""
    given, seeds = evidence.yaml("params.yaml"), known.seeds[MAIN]
    asked, used = given["samples_per_task"], scores[scores.method == MAIN].groupby("task", sort=False).samples.max()
    few = ", ".join(f"{task} {used[task]:,}" for task in known.tasks if used[task] < asked)
    protocol = (given["evaluation_split"], f"{asked:,}", few, given["calibration_split"], str(len(seeds)))
    yield "", PROTOCOL, (*protocol, ", ".join(map(str, seeds)))
    yield "-overview", PROTOCOL, (*protocol, ", ".join(map(str, seeds)))
    others = str(len({*known.titles.values()} - {MAIN}))
    yield "-comparisons", COMPARED, (str(len(seeds)), str(len(known.tasks)), f"{sum(known.totals.values()):,}", others)


def _page(text: str) -> list[str]:
    """The captions of a page."""
    found = re.findall(r"<figcaption[^>]*>(.*?)</figcaption>", text, re.DOTALL)
    return [re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", "", one))) for one in found]


def _numbers(text: str) -> list[str]:
    return re.findall(r"\d+(?:[.,]\d+)*", text)
