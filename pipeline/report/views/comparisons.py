"""Claims about differences: a table and sentences made of comparisons, never of bare means."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from pipeline.report.evidence import Evidence, format_csv
from pipeline.report.tables import Cell, Table, format_number, group_rows
from pipeline.report.view import Look, Sheet, View
from pipeline.report.words import count, spread, tested
from pipeline.statistics.accuracy import AVERAGE, CEILING, ENTROPY, FLOOR, GAP, MAIN, TWIN
from pipeline.statistics.intervals import Comparison, Interval, compare_pairs, interquartile_mean

ORDER = 10

SURE = 0.05
"""A difference is claimed if its p, adjusted for the number of comparisons, is below this."""
NOTHING = "no difference shown"


def view(evidence: Evidence, look: Look) -> View:
    """Compare SAMerging with every method."""
    comparisons, scores = compare_main(evidence), interquartile_means(evidence)
    table = comparison_table(evidence, comparisons, scores, look.decimals)
    rows = comparison_csv(evidence, comparisons, scores)
    return View(
        sentences=tuple(claims(evidence, comparisons, look.decimals)),
        tables={"comparisons": Sheet(table, f"{evidence.titles[MAIN]} against every method", rows)},
    )


def compare_main(evidence: Evidence) -> dict[str, Comparison]:
    """Compare SAMerging with every other method."""
    pairs = [(MAIN, name) for name in evidence.chosen.names if name != MAIN]
    return {other: comparison for (_, other), comparison in compare_pairs(evidence.marks, pairs).items()}


def interquartile_means(evidence: Evidence) -> dict[str, float]:
    """Interquartile means of every method; none without the experts."""
    names = evidence.chosen.names
    return {name: interquartile_mean(evidence.marks, name, CEILING) for name in names if CEILING in names}


def verdict(comparison: Comparison) -> str:
    """Put the difference in words."""
    if comparison.p >= SURE:
        return NOTHING
    word = "better" if comparison.average.value > 0 else "worse"
    beyond = bool(comparison.like.low > 0 or comparison.like.high < 0)
    return f"{word} on these tasks{' and on tasks like these' * beyond}"


def claims(evidence: Evidence, comparisons: Mapping[str, Comparison], decimals: int) -> list[str]:
    """State the gap that SAMerging closes, and its differences from the closest rivals and from all methods."""
    titles, runs, sentences = evidence.titles, evidence.runs, []
    means, gaps = runs.groupby("method")[AVERAGE].mean(), runs[GAP].xs(MAIN, level="method")
    if np.isfinite(gaps).all():
        sentences.append(
            f"{titles[MAIN]} closes {spread(gaps, decimals)} % of the gap between zero-shot "
            f"({means[FLOOR]:.{decimals}f} %) and the individual experts ({means[CEILING]:.{decimals}f} %) "
            f"(n = {count(len(gaps), 'seed')})."
        )
    best = max(evidence.sections["Data-free"], key=lambda name: means[name], default=None)
    for name, role in ((best, ", the best data-free method"), (ENTROPY, ""), (TWIN, ", the same without sharpness")):
        if name in comparisons:
            sentences.append(_pair(comparisons[name], f"{titles[name]}{role}", titles[MAIN], decimals + 1))
    return [*sentences, *_all(comparisons, evidence)]


def _pair(comparison: Comparison, other: str, title: str, decimals: int) -> str:
    seeds, others = comparison.seeds
    runs = (
        f"{count(seeds, 'seed')} each" if seeds == others else f"{count(seeds, 'seed')} against {count(others, 'run')}"
    )
    words = verdict(comparison)
    return (
        f"{title} minus {other}: {in_points(comparison.average.value, decimals, '+')} points, 95 % interval "
        f"{bounds(comparison.average, decimals, '+')} on these tasks, {bounds(comparison.like, decimals, '+')} on "
        f"tasks like these (n = {runs}, {count(comparison.examples, 'test example')}): "
        f"{'these runs show no difference' if words == NOTHING else f'{title} is {words}'}."
    )


def _all(comparisons: Mapping[str, Comparison], evidence: Evidence) -> list[str]:
    if not comparisons:
        return []
    titles, examples = evidence.titles, tested(evidence.marks)
    seeds = count(next(iter(comparisons.values())).seeds[0], "seed")
    better, worse, equal = (
        [titles[name] for name, comparison in comparisons.items() if verdict(comparison).startswith(start)]
        for start in ("better", "worse", NOTHING)
    )
    return [
        f"Of the {len(comparisons)} other rows of the table, {titles[MAIN]} is better than {len(better)} and worse "
        f"than {_named(worse)}; no difference is shown to {_named(equal)}. On these tasks, p below {SURE} after Holm's "
        f"correction for {count(len(comparisons), 'comparison')}.",
        f"Intervals are Student's t for paired differences. These tasks: over {examples}, and over seeds (draw of "
        "calibration examples, order of batches). Tasks like these: over tasks and seeds. None covers other experts: "
        "all of it is about these ones; the study of replicates, if there is one, says what others change. "
        f"With {seeds} intervals presume that the effects of seeds are roughly normal.",
    ]


def _named(names: Sequence[str]) -> str:
    return f"{len(names)} ({', '.join(names)})" if names else "0"


def comparison_table(
    evidence: Evidence, comparisons: Mapping[str, Comparison], scores: Mapping[str, float], decimals: int
) -> Table:
    """Build SAMerging minus every row of the suite's table; sections as there."""
    titles, sections, marks, more = evidence.titles, evidence.sections, evidence.marks, decimals + 1

    def cells(method: str) -> tuple[Cell, ...]:
        texts, mean = ("–",) * 7, "–"
        if method in comparisons:
            comparison = comparisons[method]
            texts = (
                in_points(comparison.average.value, more, "+"),
                bounds(comparison.average, more, "+"),
                bounds(comparison.like, more, "+"),
                f"{comparison.p:.4f}",
                f"{comparison.won} : {comparison.lost}",
                str(comparison.seeds[1]),
                verdict(comparison),
            )
        if method in scores:
            mean = in_points(scores[method], decimals)
        return tuple(map(Cell, (*texts, mean)))

    columns = ("Difference", "These tasks", "Tasks like these", "p (Holm)", "Won : lost", "Runs", "Verdict", "IQM")
    _, runs, tasks = marks.accuracies(MAIN).shape
    caption = (
        f"Suite {evidence.suite}: {titles[MAIN]} ({count(runs, 'run')}) minus each method, in points "
        f"of average accuracy over {tasks} tasks and {tested(marks)}; 95 % intervals of Student's t. These tasks: over "
        "test examples and seeds; tasks like these: over tasks and seeds. "
        "Won : lost: tasks whose own interval (examples and seeds, not corrected for their number) "
        f"lies above or below zero. Runs: of the method. p: two-sided, these tasks, after Holm's correction for "
        f"{count(len(comparisons), 'comparison')}; a difference is claimed below {SURE}. IQM: interquartile mean over "
        "seeds and tasks of accuracy over the expert's, in %."
    )
    rows = {name: (titles[name], cells(name)) for names in sections.values() for name in names}
    return Table(caption, columns, group_rows(sections, rows), words=("Verdict",))


def comparison_csv(evidence: Evidence, comparisons: Mapping[str, Comparison], scores: Mapping[str, float]) -> str:
    """Return the same with every task, in points with six decimals; empty for SAMerging itself."""
    rows = []
    for group, name in ((group, name) for group, names in evidence.sections.items() for name in names):
        row: dict[str, object] = {"method": name, "title": evidence.titles[name], "group": group}
        if name in comparisons:
            row |= interval_columns(comparisons[name], evidence.tasks)
        if name in scores:
            row["iqm"] = 100 * scores[name]
        rows.append(row)
    return format_csv(pd.DataFrame(rows), "%.6f")


def interval_columns(comparison: Comparison, tasks: Sequence[str]) -> dict[str, object]:
    """Return {column: value} of a comparison, in points: difference, intervals, counts, verdict, every task."""
    row: dict[str, object] = {**_columns("difference", comparison.average)}
    row |= {"like low": 100 * comparison.like.low, "like high": 100 * comparison.like.high, "p": comparison.p}
    row |= {"examples": str(comparison.examples), "seeds": str(comparison.seeds[0]), "runs": str(comparison.seeds[1])}
    row |= {"won": str(comparison.won), "lost": str(comparison.lost), "verdict": verdict(comparison)}
    for index, task in enumerate(tasks):
        row |= _columns(task, comparison.tasks, index)
    return row


def _columns(name: str, interval: Interval, index: int | tuple[()] = ()) -> dict[str, float]:
    parts = {name: interval.value, f"{name} low": interval.low, f"{name} high": interval.high}
    return {column: 100 * float(values[index]) for column, values in parts.items()}


def in_points(share: float | np.ndarray, decimals: int, sign: str = "") -> str:
    """Return a share as points or per cent."""
    return format_number(100 * float(share), decimals, sign)


def bounds(interval: Interval, decimals: int, sign: str = "") -> str:
    """Return `[-0.03, +0.27]`, in points."""
    return f"[{in_points(interval.low, decimals, sign)}, {in_points(interval.high, decimals, sign)}]"
