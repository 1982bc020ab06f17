"""Every printed number against the integer scores: tables, plots, metrics, page, sentences.

What is not a function of the scores is compared with the files that it was printed from, where they are at hand, and
named where they are not.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from pipeline.audit import captions, comparisons, figures, printed, recompute, sentences
from pipeline.audit.evidence import Evidence, integers
from pipeline.audit.finding import Finding, Tally
from pipeline.audit.images import tasks_of
from pipeline.audit.known import MAIN, RESCALED, Known, know, title_of
from pipeline.audit.printed import Grid, agrees
from pipeline.audit.recompute import CEILING, FLOOR, Value

RANKS = {1: "best", 2: "second"}


def check(evidence: Evidence, suite: str) -> list[Finding]:
    """All findings of a suite; the first alone where there are no scores, or impossible ones."""
    scores, tasks = integers(evidence, suite), tasks_of(evidence, suite)
    whole = Tally(f"{suite}: scores", "integer scores are whole and possible")
    if scores is None:
        whole.absent.append("reports/scores, data/scores")
        return [whole.finding()]
    whole.compared = len(scores)
    whole.wrong += recompute.odd(scores, tasks)
    if whole.wrong:
        return [whole.finding()]
    known = know(evidence, suite, tuple(tasks), scores)
    return [
        whole.finding(),
        _answers(evidence, scores, suite),
        _table(evidence, known),
        _printed(evidence, known),
        captions.check(evidence, known, scores),
        figures.check(evidence, known),
        comparisons.check(evidence, known),
        _metrics(evidence, known),
        sentences.check(evidence, known),
    ]


def expected(known: Known, method: str, column: str) -> Value | None:
    """What a column of a printed table must show of a method; None if the column is unknown or not at hand."""
    if column in known.values[method]:
        return known.values[method][column]
    nothing = Value(math.nan, math.nan, 0)
    if column == "Scale from KL":
        return known.values.get(f"{method}{RESCALED}", {}).get("Average", nothing)
    if column == "Images":
        return Value(known.samples[method], math.nan, 1)
    if column in {"Extra, %", "FLOPs, ×"} and method in known.costs:
        cost = known.costs[method]
        held = cost["extra_bytes"] or (cost["encoders"] - 1) * cost["encoder_bytes"]
        share = 100 * held / cost["encoder_bytes"]
        work = sum(cost["flops"].values()) / len(cost["flops"]) / cost["plain_flops"]
        return Value(share if column[0] == "E" else work, math.nan, 1)
    return None


def grid(tally: Tally, known: Known, found: Grid, where: str) -> None:
    """Compare every cell of a table whose rows are methods."""
    for place, column in enumerate(found.columns[1:]):
        shown: dict[str, printed.Cell] = {}
        for _, title, cells in found.rows:
            if title not in known.titles:
                tally.expect(False, f"{where}: {title} is no method of the table's CSV")
                continue
            method, cell = known.titles[title], cells[place]
            value = expected(known, method, column)
            if value is None:
                tally.absent.append(f"column {column} of {where}")
                break
            right = agrees(cell.mean, value.mean) and agrees(cell.deviation, value.deviation)
            tally.expect(right, f"{where}: {title}, {column} is {cell.text}, the scores give {value.mean:.6g}")
            shown[method] = cell
        if column in known.values[MAIN]:
            _ranks(tally, shown, f"{where}: {column}")


def _ranks(tally: Tally, shown: Mapping[str, printed.Cell], where: str) -> None:
    """Best and second best of the merged models, by the value that is printed."""
    merged = {name: cell for name, cell in shown.items() if name not in (FLOOR, CEILING) and cell.mean != "–"}
    numbers = {name: float(cell.mean.replace("−", "-")) for name, cell in merged.items() if agrees_with_number(cell)}
    for name, cell in merged.items():
        if name in numbers:
            rank = 1 + sum(other > numbers[name] for other in numbers.values())
            tally.expect(
                cell.mark == RANKS.get(rank, ""), f"{where}: {name} is marked {cell.mark or 'not'}, rank {rank}"
            )
    for name in (FLOOR, CEILING):
        if name in shown:
            tally.expect(not shown[name].mark, f"{where}: {name} is marked {shown[name].mark}, it is not merged")


def agrees_with_number(cell: printed.Cell) -> bool:
    """Whether the cell shows a number."""
    return bool(printed.NUMBER.fullmatch(cell.mean.replace("−", "-")))


def _answers(evidence: Evidence, scores: pd.DataFrame, suite: str) -> Finding:
    """The number of correct answers, image by image, is the score."""
    tally = Tally(f"{suite}: answers", "counts are those of the answers to single images")
    path = f"reports/scores/{suite}-answers.npz"
    packed = evidence.arrays(path)
    if packed is None:
        tally.absent.append(path)
        return tally.finding()
    for method, counts in scores.groupby("method", sort=False):
        given = evidence.arrays(f"data/answers/{suite}/{method}.npz")
        for task, rows in counts.groupby("task", sort=False):
            if f"{method}/{task}" not in packed:
                tally.absent.append(f"answers of {method}")
                continue
            total = int(rows.total.iloc[0])
            bits = np.unpackbits(packed[f"{method}/{task}"], axis=1)
            same = bits[:, :total].sum(1).tolist() == rows.correct.tolist() and not bits[:, total:].any()
            tally.expect(same, f"{path}: {method}/{task} has other numbers of right answers than the scores")
            if given is not None:
                right = given[task] == given[f"labels/{task}"]
                same = np.array_equal(bits[:, :total], right)
                tally.expect(same, f"{path}: {method}/{task} is not what data/answers/{suite}/{method}.npz holds")
    return tally.finding()


def _table(evidence: Evidence, known: Known) -> Finding:
    """reports/tables/<suite>.csv, six decimals."""
    path = f"reports/tables/{known.suite}.csv"
    tally, table = Tally(f"{known.suite}: table", f"numbers of {path}"), evidence.table(path)
    if table is None:
        tally.absent.append(path)
        return tally.finding()
    chosen = evidence.yaml("params.yaml")["methods"]
    claimed = {*chosen["merge"], *chosen["calibrate"], MAIN, *(f"surgery-{name}" for name in chosen["surgery"])}
    for method in sorted(claimed ^ {*table.method}):
        tally.expect(False, f"{path}: {method} is {'missing' if method in claimed else 'no method of params.yaml'}")
    for row in table.to_dict("records"):
        method = row["method"]
        title = title_of(evidence, method)
        if title is not None:
            tally.expect(row["title"].rstrip(" †") == title, f"{path}: {method} is called {row['title']}, not {title}")
        if method not in known.values:
            tally.expect(False, f"{path}: no scores of {method}")
            continue
        for column, value in known.values[method].items():
            for name, number in ((column, value.mean), (f"{column} std", value.deviation)):
                if name in row:
                    tally.expect(
                        agrees(row[name], number), f"{path}: {method}, {name} is {row[name]}, not {number:.6f}"
                    )
        tally.expect(row["runs"] == str(len(known.seeds[method])), f"{path}: {method} has {row['runs']} runs")
        allowed = _groups(chosen, method, known.costs.get(method))
        tally.expect(
            row["group"] in allowed, f"{path}: {method} stands under {row['group']}, not {' or '.join(allowed)}"
        )
    numbers = {name for column in known.values[MAIN] for name in (column, f"{column} std")}
    for column in [name for name in table if name not in {*numbers, "method", "title", "group", "runs"}]:
        tally.absent.append(f"column {column} of {path}")
    return tally.finding()


def _groups(chosen: Mapping[str, list[str]], method: str, cost: Mapping[str, Any] | None) -> list[str]:
    """The sections that a method may stand in, by where params.yaml names it and what it needs at inference."""
    if method in (FLOOR, CEILING):
        return ["Floor and ceiling, not merged"]
    more, own = "More than one model at inference", "Data-free" if method in chosen["merge"] else "Calibrated"
    if cost is None:
        return [own, more]
    if cost["encoders"] == 1 and not cost["extra_bytes"]:
        return [own]
    heads = method in chosen["calibrate"]  # that has tuned heads, which are no second model, stays where it was
    return [own, more] if heads else [more]


def _printed(evidence: Evidence, known: Known) -> Finding:
    """Markdown and LaTeX, and the page, which shows the same."""
    tally = Tally(f"{known.suite}: printed tables", "cells of Markdown, LaTeX and the page, and their ranks")
    page = printed.html(evidence.text("reports/index.html") or "")
    for name in (known.suite, f"{known.suite}-overview"):
        for ending, read in (("md", printed.markdown), ("tex", printed.latex)):
            path = f"reports/tables/{name}.{ending}"
            text = evidence.text(path)
            if text is None:
                tally.absent.append(path)
                continue
            grids = read(text)
            tally.expect(bool(grids), f"{path} holds no table")
            for found in grids:
                grid(tally, known, found, path)
                lacking = sorted({*known.titles} - {title for _, title, _ in found.rows})
                tally.expect(not lacking, f"{path}: no row of {', '.join(lacking)}")
            if ending == "md" and page:
                tally.expect(any(_within(grids[0], shown) for shown in page), f"the page has no table equal to {path}")
    return tally.finding()


def _within(small: Grid, large: Grid) -> bool:
    """Whether `large` has the rows and columns of `small`, with the same cells."""
    if not {*small.columns} <= {*large.columns} or len(small.rows) != len(large.rows):
        return False
    places = [large.columns.index(column) - 1 for column in small.columns[1:]]
    rows = {name: cells for _, name, cells in large.rows}
    return all(
        name in rows and len(rows[name]) == len(large.columns) - 1 and [rows[name][one] for one in places] == [*cells]
        for _, name, cells in small.rows
    )


def _metrics(evidence: Evidence, known: Known) -> Finding:
    tally = Tally(f"{known.suite}: metrics", "numbers of reports/metrics.json")
    stated = evidence.json("reports/metrics.json")
    if stated is None:
        tally.absent.append("reports/metrics.json")
        return tally.finding()
    stated = stated.get(known.suite, {})
    for method, value in stated.get("accuracy", {}).items():
        own = known.values.get(method, {}).get("Average", Value(math.nan, math.nan, 0)).mean
        tally.expect(agrees(f"{value:.2f}", own), f"metrics.json: {method} is {value}, the scores give {own:.4f}")
    missing = {*known.titles.values()} - stated.get("accuracy", {}).keys()
    tally.expect(not missing, f"metrics.json lacks {', '.join(sorted(missing))}")
    if f"{MAIN}_gap_closed" in stated:
        gap = known.values[MAIN]["Gap closed"].mean
        tally.expect(agrees(f"{stated[f'{MAIN}_gap_closed']:.2f}", gap), f"metrics.json: gap closed is not {gap:.4f}")
    return tally.finding()
