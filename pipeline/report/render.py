"""Evidence -> every file of the report, as bytes: a pure function of the evidence and the `report` parameters."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.report import figures, page, provenance, studies, tables, views
from pipeline.report.evidence import Evidence, Reference, format_csv, load
from pipeline.report.page import Block, Entries, Fold, Grid, Link, MethodEntry, Page, Prose, Section
from pipeline.report.view import Frame, Look, Sheet, View
from pipeline.statistics.accuracy import AVERAGE, CEILING, ENTROPY, GAP, MAIN, TWIN
from pipeline.statistics.contrasts import Contrast, ReplicatedContrast

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
    """Render {path in reports/: content} of the report; folders: of the suites' evidence, named after them."""
    suites = [load(folder) for folder in folders]
    files, sections, references = {}, [], {}
    for evidence in suites:
        suite_views = [module.view(evidence, look) for module in views.load_views()]
        for view in suite_views:
            files |= view_files(view, evidence.suite, look)
        sentences = tables.bullets([sentence for view in suite_views for sentence in view.sentences])
        files[f"tables/{evidence.suite}-sentences.md"] = sentences.encode()
        sections.append(_section(evidence, suite_views, look))
        references |= evidence.references
    for name, frame in plot_rows(suites).items():
        files[f"plots/{name}.csv"] = format_csv(frame).encode()
    metrics = {evidence.suite: headline_numbers(evidence) for evidence in suites}
    files["metrics.json"] = f"{json.dumps(metrics, indent=1, ensure_ascii=False)}\n".encode()
    explained = Link("Every column and figure explained", "README.md")
    study_links = (Link(f"Studies of {part.id} (make studies)", f"studies/{part.id}/index.html") for part in sections)
    lead = (Prose((LEAD,), links=(explained, *study_links)),)
    whole = Page("SAMerging benchmark", lead, (*sections, methods_section(references)))
    return files | {"index.html": page.render_page(whole).encode()}


def studies_report(folder: Path, look: Look, chosen: Collection[str]) -> dict[str, bytes]:
    """Render {path in reports/studies/<suite>/: content} of a suite's studies; folder: of their evidence."""
    files, sections, sentences = {}, [], []
    shown, absent = studies.views(folder, look, chosen)
    for study, view in shown.items():
        names = [path.relative_to(folder).as_posix() for path in sorted((folder / study).glob("*.csv"))]
        links = tuple(Link(name, f"../../evidence/studies/{folder.name}/{name}") for name in names)
        files |= view_files(view, study, look)
        if view.contrasts:
            files[f"tables/{study}-contrasts.csv"] = format_csv(contrast_rows(view), "%.10g").encode()
        lead = Prose((view.question,), view.sentences, links=links)
        sections.append(Section(study, view.title, (lead, *page_blocks(view, study, look))))
        sentences.append(f"### {view.title}\n\n{tables.bullets(view.sentences)}")
    files["sentences.md"] = "\n".join(sentences).encode()
    needs = "; ".join(f"{study}, which needs {studies.NEEDS[study]}" for study in absent)
    lead = Prose((STUDIES_LEAD, *[f"Not measured here: {needs}."] * bool(absent)))
    links = (Link("The benchmark", "../../index.html"),)
    whole = Page(f"Studies of {folder.name}", (lead,), tuple(sections), links)
    return files | {"index.html": page.render_page(whole).encode()}


def view_files(view: View, prefix: str, look: Look) -> dict[str, bytes]:
    """Write the files of a view's tables and figures; their names begin with `prefix`."""
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
            files[f"figures/{stem}.{kind}"] = figures.render_figure(drawing.figure, kind, stem, look.dpi)
        if drawing.data is not None:
            files[f"figures/{stem}.csv"] = format_csv(drawing.data).encode()
    return files


def page_blocks(view: View, prefix: str, look: Look, rows: Mapping[str, str] | None = None) -> Iterator[Block]:
    """Yield the tables and figures of a view for a page; `rows`: where the titles of a table's rows lead."""
    for name, table in view.tables.items():
        sheet = _sheet(table, look)
        links = _links("tables", _stem(prefix, name), (*["csv"] * (sheet.csv is not None), "md", "tex"))
        yield Grid(f"{prefix}-table-{name}", sheet.title or _title(name), sheet.page or sheet.table, links, rows or {})
    for name, drawing in view.figures.items():
        stem = _stem(prefix, name)
        links = _links("figures", stem, (*["csv"] * (drawing.data is not None), *figures.FORMATS))
        svg = figures.inline(drawing.figure, stem, PIXELS)
        yield page.Figure(f"{prefix}-figure-{name}", drawing.title or _title(name), svg, drawing.caption, links)


def contrast_rows(view: View) -> pd.DataFrame:
    """Tabulate every comparison that a view states: the weights of its settings (JSON), and its intervals."""
    rows = []
    for name, contrast in view.contrasts.items():
        weights = json.dumps([[*setting, weight] for setting, weight in contrast.weights.items()])
        these, like = contrast.these, contrast.like
        row = {"name": name, "weights": weights, "replicates": "all"}
        row |= {"mean": these.mean, "low": these.low, "high": these.high, "like low": like.low, "like high": like.high}
        row |= {"won": contrast.won, "lost": contrast.lost} if isinstance(contrast, Contrast) else {}
        rows.append(row)
        if isinstance(contrast, ReplicatedContrast):
            first = contrast.committed
            row = {"name": name, "weights": weights, "replicates": "first"}
            rows.append(row | {"mean": first.mean, "low": first.low, "high": first.high})
    return pd.DataFrame(rows)


def headline_numbers(evidence: Evidence) -> dict[str, float]:
    """Return what `dvc exp show` compares, in per cent and points; what was not run is left out."""
    means, free = evidence.runs.groupby("method")[[AVERAGE, GAP]].mean(), evidence.sections["Data-free"]
    averages = means[AVERAGE]
    gains = {f"minus_{other}": averages[MAIN] - averages[other] for other in (TWIN, ENTROPY) if other in averages}
    numbers = {
        MAIN: averages[MAIN],
        "gap_closed": means[GAP][MAIN],
        **gains,
        "best_data_free": averages[free].max() if free else np.nan,
        "experts": averages.get(CEILING, np.nan),
    }
    return {name: round(float(number), 2) for name, number in numbers.items() if np.isfinite(number)}


def plot_rows(suites: Sequence[Evidence]) -> dict[str, pd.DataFrame]:
    """Return {name: rows} of plots/, for `dvc plots`."""
    accuracies, losses = [], []
    for evidence in suites:
        tidy = evidence.runs[list(evidence.tasks)].melt(var_name="task", value_name="accuracy", ignore_index=False)
        accuracies.append(tidy.reset_index().assign(suite=evidence.suite))
        for method, values in evidence.losses.items():
            few = values.iloc[:, :: -(-values.shape[1] // POINTS)]
            rows = few.melt(var_name="step", value_name="loss", ignore_index=False).sort_index(kind="stable")
            losses.append(rows.reset_index().assign(suite=evidence.suite, method=method))
    orders = {
        "accuracy": (accuracies, ["suite", "method", "task", "seed", "accuracy"]),
        "losses": (losses, ["suite", "method", "seed", "step", "loss"]),
    }
    return {name: pd.concat(frames)[order].replace({"seed": -1}, "") for name, (frames, order) in orders.items()}


def _section(evidence: Evidence, suite_views: Sequence[View], look: Look) -> Section:
    """Build the section of a suite: its claims, then what each view shows, then what it was computed from."""
    rows = {reference.title: f"#{_anchor(name)}" for name, reference in evidence.references.items()}
    claims = tuple(sentence for view in suite_views if not view.question for sentence in view.sentences)
    parts: list[Block] = [Prose(provenance.warnings(evidence), claims)]
    for index, view in enumerate(suite_views):
        if view.question:
            parts.append(Prose(view.sentences, title=view.question, id=f"{evidence.suite}-question-{index}"))
        parts += page_blocks(view, evidence.suite, look, rows)
    title = "Computed from: parameters, versions, origin, hardware"
    parts.append(Fold(f"{evidence.suite}-records", title, provenance.provenance(evidence)))
    return Section(evidence.suite, f"Suite {evidence.suite}", tuple(parts))


def methods_section(references: Mapping[str, Reference]) -> Section:
    """List every method with its paper and what of it is our reading."""
    entries = tuple(
        MethodEntry(_anchor(name), method.title, name, method.paper, f"Our reading: {doubt}." if doubt else "")
        for name, method in references.items()
        for doubt in [method.unverified]
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
    """Return the table as texts; the first column of a frame names its rows."""
    if isinstance(table, Sheet):
        return table
    head, *columns = map(str, table.rows.columns)
    rows = [tuple(_cell(value, look.decimals) for value in row) for row in table.rows.itertuples(index=False)]
    kinds = zip(columns, table.rows.dtypes.iloc[1:], strict=True)
    words = tuple(name for name, kind in kinds if kind.kind not in "if")
    printed = tables.text_table(table.caption, head, tuple(columns), {"": rows}, words)
    return Sheet(printed, csv=format_csv(table.rows))


def _cell(value: Any, decimals: int) -> str:
    if isinstance(value, str):
        return value
    if float(value).is_integer() and not isinstance(value, float):
        return f"{value:,}"
    return tables.format_number(value, decimals)
