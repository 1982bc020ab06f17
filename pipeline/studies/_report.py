"""Rows of the studies -> every file of reports/studies/<suite>: page, figures, tables, sentences, and the rows."""

import io
from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline import figures, methods, page, scores, store, tables, tidy
from pipeline.page import Grid, Link, Page, Prose, Section
from pipeline.results import parameters
from pipeline.scores import AVERAGE, CEILING, FLOOR
from pipeline.sections import NAMES, PIXELS, texts
from pipeline.studies.views import Context, View

STUDIES = (
    "ablation", "efficiency", "protocol", "flatness", "sensitivity", "landscape", "tasks", "robustness", "replicates",
    "conventions",
)  # fmt: skip
"""In the order of the page."""
SEVERAL = ("landscape",)
"""Studies that write a folder of tables, not one."""
LEAD = (
    "Why a method wins, how sure that is, and what the claims are worth when sharpness-aware minimisation works. "
    "Every study says over how many seeds and on which split. Tables sort; every study links to the rows that it wrote."
)


def data(study: str, suite: str) -> str:
    """Where a study writes its rows: a file, or a folder of them."""
    return f"data/studies/{suite}/{study}{'' if study in SEVERAL else '.csv'}"


def write(
    found: Mapping[str, Path], fixed: Iterable[Path], records: Iterable[Path], templates: Path, look: Any, output: Path
) -> None:
    """Write the folder.

    found: {study: its rows}; fixed: the scores of zero-shot and of the experts; records: of the studies' runs;
    templates: see `pipeline.page.render`; look: dpi, width, decimals.
    """
    context = _context(fixed, records, look)
    shown, said = [], []
    for study, path in found.items():
        files = (
            {f"{study}-{file.stem}": file for file in sorted(path.glob("*.csv"))} if path.is_dir() else {study: path}
        )
        for name, file in files.items():
            store.write_text(output / f"{name}.csv", store.read_text(file))
        view = import_module(f"pipeline.studies.views.{study}").view(_rows(path), context)
        links = tuple(Link(f"{name}.csv", f"{name}.csv") for name in files)
        shown.append(_section(study, view, links, context, look.dpi, output))
        said.append(f"### {view.title}\n\n{tables.bullets(view.said)}")
    store.write_text(output / "sentences.md", "\n".join(said))
    whole = Page(
        f"Studies of {context.suite}", (Prose((LEAD,)),), tuple(shown), (Link("The benchmark", "../../index.html"),)
    )
    store.write_text(output / "index.html", page.render(whole, templates))


def _context(fixed: Iterable[Path], records: Iterable[Path], look: Any) -> Context:
    """What the studies are shown against; BenchmarkError if they ran with different values of a parameter."""
    frame = pd.concat([scores.parse(store.read_text(path), path) for path in fixed], ignore_index=True)
    suite, tasks = frame.suite.iloc[0], tuple(frame.task.drop_duplicates())
    means = scores.runs(frame, tasks).groupby("method").mean()
    params = parameters(suite, [store.read_json(path) for path in records])
    return Context(
        suite=suite,
        tasks=tasks,
        titles={name: methods.load(name).TITLE for name in methods.names()},
        floor=means.loc[FLOOR, AVERAGE],
        ceiling=means.loc[CEILING, AVERAGE],
        experts=means.loc[CEILING, list(tasks)].to_dict(),
        calibration_split=params["calibration_split"],
        evaluation_split=params["evaluation_split"],
        params=params,
        width=look.width,
        decimals=look.decimals,
    )


def _rows(path: Path) -> pd.DataFrame | dict[str, pd.DataFrame]:
    if path.is_dir():
        return {file.stem: _table(file, keep_default_na=False) for file in sorted(path.glob("*.csv"))}
    return _table(path)


def _table(file: Path, **options: bool) -> pd.DataFrame:
    return pd.read_csv(io.StringIO(store.read_text(file)), dtype={"right": "str"}, **options)


def _section(study: str, view: View, links: tuple[Link, ...], context: Context, dpi: int, output: Path) -> Section:
    """The section of a study; its figures and tables are written beside the page."""
    blocks: list[page.Block] = [Prose((view.question,), tuple(view.said), links=links)]
    for name, (figure, caption) in view.figures.items():
        stem = f"{study}-figure-{name}"
        for kind in figures.FORMATS:
            store.write_bytes(output / f"{stem}.{kind}", figures.render(figure, kind, stem, dpi))
        files = tuple(Link(NAMES[kind], f"{stem}.{kind}") for kind in figures.FORMATS)
        blocks.append(page.Figure(stem, _headline(name), figures.inline(figure, stem, PIXELS), caption, files + links))
    for name, (frame, caption) in view.tables.items():
        stem = f"{study}-table-{name}"
        table = _text(frame, caption, context.decimals)
        contents = {"csv": tidy.csv(frame), "md": tables.markdown(table), "tex": tables.latex(table, stem)}
        for kind, content in contents.items():
            store.write_text(output / f"{stem}.{kind}", content)
        files = tuple(Link(NAMES[kind], f"{stem}.{kind}") for kind in contents)
        blocks.append(Grid(stem, _headline(name), table, files))
    return Section(study, view.title, tuple(blocks))


def _headline(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _text(frame: pd.DataFrame, caption: str, decimals: int) -> tables.Table:
    """The rows as a table of texts; the first column names them."""
    head, *columns = map(str, frame.columns)
    rows = [tuple(_cell(value, decimals) for value in row) for row in frame.itertuples(index=False)]
    words = tuple(name for name, kind in zip(columns, frame.dtypes.iloc[1:], strict=True) if kind.kind not in "if")
    return texts(caption, head, tuple(columns), {"": rows}, words)


def _cell(value: Any, decimals: int) -> str:
    if isinstance(value, str):
        return value
    return (
        f"{value:,}" if float(value).is_integer() and not isinstance(value, float) else tables.number(value, decimals)
    )
