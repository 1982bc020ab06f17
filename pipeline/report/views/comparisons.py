"""What may be said of differences: a table and sentences made of comparisons, never of bare means."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from pipeline.report.evidence import Evidence
from pipeline.report.tables import Cell, Table, number
from pipeline.report.view import Look, Sheet, View
from pipeline.statistics.accuracy import AVERAGE, CEILING, ENTROPY, FLOOR, GAP, MAIN, TWIN
from pipeline.statistics.bootstrap import RESAMPLES, Difference, Interval, Resampled, against, iqm

ORDER = 10

SURE = 0.05
"""A difference is claimed if its p, adjusted for the number of comparisons, is below this."""
NOTHING = "no difference shown"


def view(evidence: Evidence, look: Look) -> View:
    """SAMerging against every method."""
    titles, groups, resampled = evidence.titles, evidence.sections, evidence.resampled
    compared, scores = compare(resampled), means(resampled)
    return View(
        sentences=tuple(sentences(evidence.runs, compared, groups["Data-free"], titles, look.decimals)),
        tables={
            "comparisons": Sheet(
                table(resampled, compared, scores, groups, titles, look.decimals, evidence.suite),
                f"{titles[MAIN]} against every method",
                csv(compared, scores, evidence.tasks, groups, titles),
            )
        },
    )


def compare(found: Resampled) -> dict[str, Difference]:
    """SAMerging minus every other method."""
    return against(found, MAIN, [name for name in found.observed if name != MAIN])


def means(found: Resampled) -> dict[str, Interval]:
    """Interquartile means of every method; none without the experts."""
    return {name: iqm(found, name, CEILING) for name in found.observed if CEILING in found.observed}


def verdict(one: Difference) -> str:
    """The difference in words."""
    if one.p >= SURE:
        return NOTHING
    word = "better" if one.average.value > 0 else "worse"
    beyond = bool(one.like.low > 0 or one.like.high < 0)
    return f"{word} on these tasks{' and on tasks like these' * beyond}"


def sentences(
    runs: pd.DataFrame,
    compared: Mapping[str, Difference],
    data_free: Sequence[str],
    titles: Mapping[str, str],
    decimals: int,
) -> list[str]:
    """What the scores say of SAMerging: the gap it closes, and its differences to those that matter and to all."""
    means, said = runs.groupby("method")[AVERAGE].mean(), _gap(runs, titles, decimals)
    best = max(data_free, key=lambda name: means[name], default=None)
    for name, role in ((best, ", the best data-free method"), (ENTROPY, ""), (TWIN, ", the same without sharpness")):
        if name in compared:
            said.append(_pair(compared[name], f"{titles[name]}{role}", titles[MAIN], decimals + 1))
    return [*said, *_all(compared, titles)]


def _gap(runs: pd.DataFrame, titles: Mapping[str, str], decimals: int) -> list[str]:
    gaps, means = runs.loc[MAIN, GAP], runs.groupby("method")[AVERAGE].mean()
    if not np.isfinite(gaps).all():
        return []
    spread = f" ± {gaps.std():.{decimals}f}" if len(gaps) > 1 else ""
    return [
        f"{titles[MAIN]} closes {gaps.mean():.{decimals}f}{spread} % of the gap between zero-shot "
        f"({means[FLOOR]:.{decimals}f} %) and the individual experts ({means[CEILING]:.{decimals}f} %) "
        f"(n = {_plural(len(gaps), 'seed')})."
    ]


def _pair(one: Difference, other: str, title: str, decimals: int) -> str:
    own, others = one.seeds
    runs = (
        f"{_plural(own, 'seed')} each" if own == others else f"{_plural(own, 'seed')} against {_plural(others, 'run')}"
    )
    found = verdict(one)
    return (
        f"{title} minus {other}: {number(100 * one.average.value, decimals, '+')} points, 95 % interval "
        f"{_edges(one.average, decimals, '+')} on these tasks, {_edges(one.like, decimals, '+')} on tasks like these "
        f"(n = {runs}, {_plural(one.images, 'test image')}): "
        f"{'these runs show no difference' if found == NOTHING else f'{title} is {found}'}."
    )


def _all(compared: Mapping[str, Difference], titles: Mapping[str, str]) -> list[str]:
    if not compared:
        return []
    seeds = _plural(next(iter(compared.values())).seeds[0], "seed")
    better, worse, equal = (
        [titles[name] for name, one in compared.items() if verdict(one).startswith(start)]
        for start in ("better", "worse", NOTHING)
    )
    return [
        f"Of the {len(compared)} other rows of the table, {titles[MAIN]} is better than {len(better)} and worse than "
        f"{_named(worse)}; no difference is shown to {_named(equal)}. On these tasks, p below {SURE} after Holm's "
        f"correction for {_plural(len(compared), 'comparison')}.",
        "Intervals are percentiles of a bootstrap of paired differences. These tasks: other test images of the same "
        "tasks and other seeds (draw of calibration images, order of batches). Tasks like these: other tasks and "
        "other seeds. None covers other experts: all of it is about these ones; the study of replicates, if there "
        f"is one, says what others change. With {seeds} intervals are rough and, if anything, too narrow.",
    ]


def _named(names: Sequence[str]) -> str:
    return f"{len(names)}{' ' * bool(names)}" + f"({', '.join(names)})" * bool(names)


def table(
    found: Resampled,
    compared: Mapping[str, Difference],
    scores: Mapping[str, Interval],
    groups: Mapping[str, Sequence[str]],
    titles: Mapping[str, str],
    decimals: int,
    suite: str,
) -> Table:
    """SAMerging minus every row of the suite's table; groups as there."""
    more = decimals + 1

    def cells(method: str) -> tuple[Cell, ...]:
        texts = ("–",) * 7
        if method in compared:
            one = compared[method]
            texts = (
                number(100 * one.average.value, more, "+"),
                _edges(one.average, more, "+"),
                _edges(one.like, more, "+"),
                f"{one.p:.4f}",
                f"{one.won} : {one.lost}",
                str(one.seeds[1]),
                verdict(one),
            )
        mean = "–"
        if method in scores:
            score = scores[method]
            mean = f"{number(100 * score.value, decimals)} {_edges(score, decimals)}"
        return tuple(Cell(text, "", "") for text in (*texts, mean))

    columns = ("Difference", "These tasks", "Tasks like these", "p (Holm)", "Won : lost", "Runs", "Verdict", "IQM")
    caption = (
        f"Suite {suite}: {titles[MAIN]} ({_plural(found.observed[MAIN].shape[0], 'run')}) minus each method, in points "
        f"of average accuracy over {found.observed[MAIN].shape[1]} tasks and {found.count:,} test images; 95 % "
        f"bootstrap intervals ({RESAMPLES:,} draws). These tasks: test images and seeds are drawn; tasks like these: "
        "tasks and seeds. Won : lost: tasks whose own interval (images and seeds, not corrected for their number) lies "
        f"above or below zero. Runs: of the method. p: two-sided, these tasks, after Holm's correction for "
        f"{_plural(len(compared), 'comparison')}; a difference is claimed below {SURE}. IQM: interquartile mean over "
        "seeds and tasks of accuracy over the expert's, in %, with its interval."
    )
    sections = tuple(
        (group, tuple((titles[name], cells(name)) for name in names)) for group, names in groups.items() if names
    )
    return Table(caption, columns, sections, words=("Verdict",))


def csv(
    compared: Mapping[str, Difference],
    scores: Mapping[str, Interval],
    tasks: Sequence[str],
    groups: Mapping[str, Sequence[str]],
    titles: Mapping[str, str],
) -> str:
    """The same with every task, in points with six decimals; empty for SAMerging itself."""
    rows = []
    for group, name in ((group, name) for group, names in groups.items() for name in names):
        row: dict[str, object] = {"method": name, "title": titles[name], "group": group}
        if name in compared:
            one = compared[name]
            row |= _columns("difference", one.average) | {
                "like low": 100 * one.like.low,
                "like high": 100 * one.like.high,
            }
            row |= {"p": one.p, "images": str(one.images), "seeds": str(one.seeds[0]), "runs": str(one.seeds[1])}
            row |= {"won": str(one.won), "lost": str(one.lost), "verdict": verdict(one)}
            for index, task in enumerate(tasks):
                row |= _columns(task, Interval(*(edge[index] for edge in _parts(one.tasks))))
        if name in scores:
            row |= _columns("iqm", scores[name])
        rows.append(row)
    return pd.DataFrame(rows).to_csv(index=False, float_format="%.6f", lineterminator="\n")


def _parts(one: Interval) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return one.value, one.low, one.high


def _columns(name: str, one: Interval) -> dict[str, float]:
    value, low, high = (100 * float(part) for part in _parts(one))
    return {name: value, f"{name} low": low, f"{name} high": high}


def _edges(one: Interval, decimals: int, sign: str = "") -> str:
    return f"[{number(100 * one.low, decimals, sign)}, {number(100 * one.high, decimals, sign)}]"


def _plural(count: int, name: str) -> str:
    return f"{count:,} {name}{'s' * (count != 1)}"
