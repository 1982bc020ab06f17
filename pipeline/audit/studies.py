"""Every printed number of the studies against the rows that they wrote: counts, tables, page, sentences, intervals.

The rows are those of reports/studies, which lock.py holds against dvc.lock. Figures of studies are drawings without
data: their bytes are held against the lock, their points are not recomputed, and the line says so.
"""

import csv
import html
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType

from pipeline.audit import printed, resampled
from pipeline.audit.claimed import Expected, Words, gains
from pipeline.audit.evidence import Evidence, EvidenceError
from pipeline.audit.finding import Finding, Tally
from pipeline.audit.images import tasks_of
from pipeline.audit.printed import Grid
from pipeline.audit.rows import read, wrong
from pipeline.audit.studied import (
    WON,
    Forms,
    Table,
    ablation,
    conventions,
    efficiency,
    flatness,
    landscape,
    protocol,
    replicates,
    robustness,
    sensitivity,
    tasks,
)

STUDIES = (
    ablation, efficiency, protocol, flatness, sensitivity, landscape, tasks, robustness, replicates, conventions,
)  # fmt: skip
"""In the order of the page."""
ANSWERED = (ablation, efficiency, protocol, flatness, sensitivity, replicates, conventions)
"""Those that keep which images every run gets right."""
UNREAD = "numbers of its captions, data of its figures"
WHAT = "numbers of rows, tables, page and sentences, intervals to the digit"


@dataclass(frozen=True)
class Report:
    """What is printed of all studies of a suite."""

    folder: str
    page: str
    grids: Sequence[Grid]
    """The tables of the page."""
    sentences: str


@dataclass(frozen=True)
class Claim:
    """A printed text, where it stands, and what it should say."""

    where: str
    text: str
    expected: Expected


def check(evidence: Evidence, suite: str) -> list[Finding]:
    """A finding per study that the report has; one alone where it has none."""
    folder = f"reports/studies/{suite}"
    if not evidence.names(folder, ".csv"):
        return [Tally(f"{suite}: studies", "numbers of studies", absent=[folder]).finding()]
    tallies = {view: Tally(f"{suite}: {name(view)}", WHAT) for view in STUDIES}
    found = claims(tallies, evidence, suite)
    drawn = resampled.draw([gain for _, claim in found for gain in gains(claim.expected)])
    for view, claim in found:
        problem = claim.expected.problem(claim.text, drawn)
        tallies[view].expect(not problem, f"{claim.where} “{claim.text}”: {problem}")
    return [tally.finding() for tally in tallies.values()]


def claims(tallies: Mapping[ModuleType, Tally], evidence: Evidence, suite: str) -> list[tuple[ModuleType, Claim]]:
    """All that is printed and can be recomputed; what is wrong with rows and files, or unread, goes to the tallies."""
    folder = f"reports/studies/{suite}"
    page = evidence.text(f"{folder}/index.html") or ""
    report = Report(folder, page, printed.html(page), evidence.text(f"{folder}/sentences.md") or "")
    found = []
    for view, tally in tallies.items():
        try:
            found += [(view, claim) for claim in _claims(tally, evidence, suite, report, view)]
        except (EvidenceError, KeyError) as error:
            tally.expect(False, f"rows of {folder}/{name(view)} are not those of the study: {error}")
    return found


def name(view: ModuleType) -> str:
    """The name of a study."""
    return view.__name__.rpartition(".")[2]


def _claims(tally: Tally, evidence: Evidence, suite: str, report: Report, view: ModuleType) -> Iterator[Claim]:
    """Every cell and sentence of a study, if its rows are in order; what cannot be recomputed goes to the tally."""
    own = name(view)
    study = read(evidence, suite, own, tuple(tasks_of(evidence, suite)))
    if study is None:
        tally.absent.append(f"rows of {report.folder}/{own}")
        return
    if view in ANSWERED and "answers" not in study.rows:
        tally.absent.append(f"answers to single images (`right` of {own}.csv), and what is drawn from them")
    tally.compared += sum(map(len, study.tables.values()))
    tally.wrong += wrong(evidence, suite, study)
    untitled = {*study.methods} - study.titles.keys()
    tally.absent += [f"title of {method}: tables and sentences" for method in sorted(untitled)]
    if tally.wrong or untitled:
        return
    for end, table in view.tables(study).items():
        yield from _table(tally, evidence, f"{report.folder}/{own}-table-{end}", table, report.grids)
    yield from _sentences(tally, report, view.TITLE, view.sentences(study))
    tally.absent.append(UNREAD)


def _table(tally: Tally, evidence: Evidence, stem: str, table: Table, page: Sequence[Grid]) -> Iterator[Claim]:
    """The cells of a table in CSV, and of the same rows in Markdown and LaTeX; the page has the Markdown's."""
    text = evidence.text(f"{stem}.csv")
    if text is None:
        tally.expect(False, f"{stem}.csv is missing")
        return
    head, *body = csv.reader(io.StringIO(text))
    rows = [dict(zip(head, cells, strict=False)) for cells in body]
    keys = [tuple(row.get(key, "") for key in table.keys) for row in rows]
    ordinary = sorted(keys) == sorted(table.rows) and {len(head)} >= {*map(len, body)}
    tally.expect(ordinary, f"{stem}.csv has rows {_named(keys)}, its study has {_named(table.rows)}")
    expected = {column for cells in table.rows.values() for column in cells}
    lacking = sorted(expected - {*head, WON})
    tally.expect(not lacking, f"{stem}.csv lacks {', '.join(lacking)}")
    tally.absent += [f"column {name} of {stem}.csv" for name in head if name not in {*table.keys, *expected}]
    if not ordinary:
        return
    for key, row in zip(keys, rows, strict=True):
        yield from _cells(f"{stem}.csv", key, row, table)
    for ending, found in (("md", printed.markdown), ("tex", printed.latex)):
        grids = found(evidence.text(f"{stem}.{ending}") or "")
        columns = [column for grid in grids for column in grid.columns[1:]]
        tally.expect(columns == head[1:], f"{stem}.{ending} has other columns than its CSV")
        for grid in grids:
            tally.expect(len(grid.rows) == len(keys), f"{stem}.{ending} has other rows than its CSV")
            for key, (_, title, cells) in zip(keys, grid.rows, strict=False):
                texts = dict(zip(grid.columns, (title, *(cell.text for cell in cells)), strict=False))
                yield from _cells(f"{stem}.{ending}", key, texts, table)
        if ending == "md":
            same = any(_texts(grid) == _texts(grids[0]) for grid in page) if grids else False
            tally.expect(same, f"the page has no table equal to {stem}.md")


def _cells(path: str, key: tuple[str, ...], row: Mapping[str, str], table: Table) -> Iterator[Claim]:
    """What one row says, the columns that tell it apart included."""
    named = dict(zip(table.keys, map(Words, key), strict=True))
    for column, expected in {**named, **table.rows[key]}.items():
        if column in row:
            yield Claim(f"{path}: {', '.join(key)}, {column or 'note'} is", row[column], expected)


def _texts(grid: Grid) -> tuple[object, ...]:
    return grid.columns, [(name, [cell.text for cell in cells]) for _, name, cells in grid.rows]


def _named(keys: Sequence[tuple[str, ...]] | Mapping[tuple[str, ...], object]) -> str:
    return "; ".join(", ".join(key) for key in keys)


def _sentences(tally: Tally, report: Report, title: str, forms: Forms) -> Iterator[Claim]:
    """What the sentences under a heading say; one of an unknown form is named. The page says the same."""
    section = re.search(rf"^### {re.escape(title)}\n\n((?:- .*\n)+)", report.sentences, re.MULTILINE)
    tally.expect(section is not None, f"sentences.md has no section {title}")
    shown = html.unescape(re.sub(r"<[^>]*>", "", report.page))
    for line in section[1].splitlines() if section else ():
        said = printed.plain(line.removeprefix("- "))
        tally.expect(said in shown, f"the page does not say “{said[:60]}…”")
        match, form = next(
            ((match, form) for pattern, form in forms if (match := re.fullmatch(pattern, said))), (None, None)
        )
        if match is None:
            tally.absent += [f"numbers of “{said[:60]}…”"] * bool(re.search(r"\d", said))
            continue
        for part, expected in form(*match.groups()):
            yield Claim(f"sentences.md, {title}, “{said[:40]}…”:", part, expected)
