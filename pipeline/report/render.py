"""Evidence -> every file of the report, as bytes: a pure function of the evidence and the `report` parameters."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.report import figures, page, provenance, studies, tables, views
from pipeline.report.evidence import Evidence, Reference, load
from pipeline.report.page import Block, Entries, Entry, Fold, Grid, Link, Page, Prose, Section
from pipeline.report.tables import Table
from pipeline.report.view import Frame, Look, Sheet, View
from pipeline.statistics import bootstrap
from pipeline.statistics.accuracy import AVERAGE, CEILING, ENTROPY, GAP, MAIN, TWIN
from pipeline.statistics.contrasts import Contrast, Order

KINDS = {"csv": "CSV", "md": "Markdown", "tex": "LaTeX", "pdf": "PDF", "svg": "SVG", "png": "PNG"}
PIXELS = 100
"""Dots per inch of what an SVG holds as pixels."""
POINTS = 100
"""Points of a loss curve in plots/."""
LEAD = (
    "Model merging by multi-teacher distillation (arXiv 2512.21288) against its baselines, computed from the runs that "
    "each section names. Click a heading to sort a table by it."
)
STUDIES_LEAD = (
    "Why a method wins, how sure that is, and what the claims are worth when sharpness-aware minimisation works. "
    "Every study says over how many seeds and on which split. Tables sort; every study links to the rows that it wrote."
)


def report(folders: Sequence[Path], look: Look) -> dict[str, bytes]:
    """{path in reports/: content} of the report on suites; folders: of their evidence, called as the suites."""
    suites = [load(folder) for folder in folders]
    files, sections, references = {}, [], {}
    for evidence in suites:
        shown = [view.view(evidence, look) for view in views.every()]
        made = [written(view, evidence.suite, look) for view in shown]
        files |= {path: content for each in made for path, content in each.items()}
        said = tables.bullets([text for view in shown for text in view.sentences])
        files[f"tables/{evidence.suite}-sentences.md"] = said.encode()
        sections.append(_section(evidence, shown, look))
        references |= evidence.references
    for name, frame in plots(suites).items():
        files[f"plots/{name}.csv"] = tables.csv(frame).encode()
    metrics = {evidence.suite: headline(evidence) for evidence in suites}
    files["metrics.json"] = f"{json.dumps(metrics, indent=1, ensure_ascii=False)}\n".encode()
    explained = Link("Every column and figure explained", "README.md")
    studied = tuple(Link(f"Studies of {one.id} (make studies)", f"studies/{one.id}/index.html") for one in sections)
    lead = (Prose((LEAD,), links=(explained, *studied)),)
    whole = Page("SAMerging benchmark", lead, (*sections, _methods(references)))
    return files | {"index.html": page.render(whole).encode()}


def studies_report(folder: Path, look: Look) -> dict[str, bytes]:
    """{path in reports/studies/<suite>/: content} of the report on a suite's studies; folder: of their evidence."""
    files, sections, said = {}, [], []
    for study, view in studies.views(folder, look).items():
        rows = sorted((folder / study).glob("*.csv")) or [folder / f"{study}.csv"]
        names = [path.relative_to(folder).as_posix() for path in rows]
        links = tuple(Link(name, f"../../evidence/studies/{folder.name}/{name}") for name in names)
        files |= written(view, study, look)
        if view.contrasts:
            files[f"tables/{study}-contrasts.csv"] = tables.csv(contrasts(view), 10).encode()
        lead = Prose((view.question,), view.sentences, links=links)
        sections.append(Section(study, view.title, (lead, *blocks(view, study, look))))
        said.append(f"### {view.title}\n\n{tables.bullets(view.sentences)}")
    files["sentences.md"] = "\n".join(said).encode()
    whole = Page(
        f"Studies of {folder.name}",
        (Prose((STUDIES_LEAD,)),),
        tuple(sections),
        (Link("The benchmark", "../../index.html"),),
    )
    return files | {"index.html": page.render(whole).encode()}


def written(view: View, prefix: str, look: Look) -> dict[str, bytes]:
    """The files of a view's tables and figures; their names begin with `prefix`."""
    files = {}
    for name, table in view.tables.items():
        sheet, stem = _sheet(table, look), _stem(prefix, name)
        files[f"tables/{stem}.md"] = tables.markdown(sheet.table).encode()
        files[f"tables/{stem}.tex"] = tables.latex(sheet.table, stem).encode()
        if sheet.csv is not None:
            files[f"tables/{stem}.csv"] = sheet.csv.encode()
    for name, drawing in view.figures.items():
        stem = _stem(prefix, name)
        for kind in figures.FORMATS:
            files[f"figures/{stem}.{kind}"] = figures.render(drawing.figure, kind, stem, look.dpi)
        if drawing.data is not None:
            files[f"figures/{stem}.csv"] = tables.csv(drawing.data).encode()
    return files


def blocks(view: View, prefix: str, look: Look, rows: Mapping[str, str] | None = None) -> Iterator[Block]:
    """The tables and figures of a view on a page; `rows`: where the titles of a table's rows lead."""
    for name, table in view.tables.items():
        sheet, stem = _sheet(table, look), _stem(prefix, name)
        links = _links("tables", stem, ("csv", "md", "tex") if sheet.csv is not None else ("md", "tex"))
        yield Grid(f"{prefix}-table-{name}", sheet.title or _title(name), sheet.page or sheet.table, links, rows or {})
    for name, drawing in view.figures.items():
        stem = _stem(prefix, name)
        links = _links("figures", stem, (*["csv"] * (drawing.data is not None), *figures.FORMATS))
        svg = figures.inline(drawing.figure, stem, PIXELS)
        yield page.Figure(f"{prefix}-figure-{name}", drawing.title or _title(name), svg, drawing.caption, links)


def contrasts(view: View) -> pd.DataFrame:
    """Every comparison that a view states: the weights of the settings that it adds up (JSON), and its intervals."""
    rows = []
    for name, stated in view.contrasts.items():
        weights = json.dumps([[*setting, weight] for setting, weight in stated.weights.items()])
        over = [("all", stated.these, stated.like)]
        if isinstance(stated, Order):
            over.append(("first", stated.committed, None))
        for replicates, these, like in over:
            row = {"name": name, "weights": weights, "replicates": replicates}
            row |= {"mean": these.mean, "low": these.low, "high": these.high}
            row |= {"like low": like.low, "like high": like.high} if like else {}
            row |= {"won": stated.won, "lost": stated.lost} if isinstance(stated, Contrast) else {}
            rows.append(row)
    return pd.DataFrame(rows)


def headline(evidence: Evidence) -> dict[str, float]:
    """What `dvc exp show` compares, in per cent and points; what was not run is left out."""
    runs, observed = evidence.runs, evidence.resampled.observed
    means, free = runs.groupby("method")[[AVERAGE, GAP]].mean(), evidence.sections["Data-free"]
    gains = {
        f"minus_{other}": 100 * float(bootstrap.difference(evidence.resampled, MAIN, other).average.value)
        for other in (TWIN, ENTROPY)
        if other in observed
    }
    numbers = {
        MAIN: means.loc[MAIN, AVERAGE],
        "gap_closed": means.loc[MAIN, GAP],
        **gains,
        "best_data_free": means.loc[free, AVERAGE].max() if free else np.nan,
        "experts": means[AVERAGE].get(CEILING, np.nan),
    }
    return {name: round(float(number), 2) for name, number in numbers.items() if np.isfinite(number)}


def plots(suites: Sequence[Evidence]) -> dict[str, pd.DataFrame]:
    """{name: rows} of plots/, for `dvc plots`."""
    accuracies, losses = [], []
    for evidence in suites:
        tidy = evidence.runs[list(evidence.tasks)].melt(var_name="task", value_name="accuracy", ignore_index=False)
        accuracies.append(tidy.reset_index().assign(suite=evidence.suite))
        for method, values in evidence.losses.items():
            stride = -(-values.shape[1] // POINTS)
            seeds, steps = np.indices(values.shape)[:, :, ::stride].reshape(2, -1)
            named = {"suite": evidence.suite, "method": method, "seed": np.sort(evidence.protocol.seeds)[seeds]}
            losses.append(pd.DataFrame(named | {"step": steps, "loss": values[seeds, steps]}))
    columns = {
        "accuracy": (accuracies, ["suite", "method", "task", "seed", "accuracy"]),
        "losses": (losses, ["suite", "method", "seed", "step", "loss"]),
    }
    return {name: pd.concat(frames)[order].replace({"seed": -1}, "") for name, (frames, order) in columns.items()}


def _section(evidence: Evidence, shown: Sequence[View], look: Look) -> Section:
    """The section of a suite: what can be said, then what each view shows, then what it was computed from."""
    rows = {reference.title: f"#{_anchor(name)}" for name, reference in evidence.references.items()}
    said = tuple(text for view in shown if not view.question for text in view.sentences)
    parts: list[Block] = [Prose(provenance.warnings(evidence), said)]
    for index, view in enumerate(shown):
        if view.question:
            parts.append(Prose(view.sentences, title=view.question, id=f"{evidence.suite}-question-{index}"))
        parts += blocks(view, evidence.suite, look, rows)
    title = "Computed from: parameters, versions, origin, hardware"
    parts.append(Fold(f"{evidence.suite}-records", title, provenance.provenance(evidence)))
    return Section(evidence.suite, f"Suite {evidence.suite}", tuple(parts))


def _methods(references: Mapping[str, Reference]) -> Section:
    """Every method with its paper and what of it is our reading."""
    entries = tuple(
        Entry(_anchor(name), told.title, name, told.paper, f"Our reading: {told.unverified}." * bool(told.unverified))
        for name, told in references.items()
    )
    return Section("methods", "Methods", (Entries(entries),))


def _anchor(method: str) -> str:
    return f"method-{method}"


def _links(folder: str, stem: str, kinds: Sequence[str]) -> tuple[Link, ...]:
    return tuple(Link(KINDS[kind], f"{folder}/{stem}.{kind}") for kind in kinds)


def _stem(prefix: str, name: str) -> str:
    return f"{prefix}-{name}" if name else prefix


def _title(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _sheet(table: Sheet | Frame, look: Look) -> Sheet:
    """The table as texts; the first column of a frame names its rows."""
    if isinstance(table, Sheet):
        return table
    head, *columns = map(str, table.rows.columns)
    rows = [tuple(_cell(value, look.decimals) for value in row) for row in table.rows.itertuples(index=False)]
    kinds = zip(columns, table.rows.dtypes.iloc[1:], strict=True)
    words = tuple(name for name, kind in kinds if kind.kind not in "if")
    shown: Table = tables.texts(table.caption, head, tuple(columns), {"": rows}, words)
    return Sheet(shown, csv=tables.csv(table.rows))


def _cell(value: Any, decimals: int) -> str:
    if isinstance(value, str):
        return value
    if float(value).is_integer() and not isinstance(value, float):
        return f"{value:,}"
    return tables.number(value, decimals)
