"""Conflict in the report: what tasks lose by a merge if they label the same images differently, and which is served."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from pipeline.report.figures import STYLE
from pipeline.report.studies import Context
from pipeline.report.studies._shared import add_legend, describe_chance, line_style, two_panels
from pipeline.report.view import Drawing, Frame, View
from pipeline.report.words import METHOD, count, edges, excludes_zero, interval
from pipeline.statistics.accuracy import CEILING, ENTROPY, MAIN, TWIN
from pipeline.statistics.contrasts import (
    Contrast,
    PairedDifference,
    StudySetting,
    combine_settings,
    contrast_settings,
    mark_settings,
    paired_difference,
)
from pipeline.statistics.intervals import Marks

BOUND, NONE = "bound", "none"
"""The pseudo-method that attains the bound; the degree of a pair without conflict."""
MEASURES = {"loss": "Distillation loss", "entropy": "Entropy"}
VERDICTS = {True: ", shown", False: ", not shown"}
"""Whether every interval of a number excludes zero."""
TITLE = "Conflict"
QUESTION = (
    "What happens when merged tasks disagree about the same images? Of a task, the source, the meanings of a share q "
    "of the classes are permuted; an expert is trained on the permuted labels and merged with the source's."
)
Contrasts = Mapping[tuple[str, str], Contrast]
"""{(method, degree): contrast}."""


def view(rows: pd.DataFrame, context: Context) -> View:
    """`rows`: columns as in `pipeline.studies.conflict`."""
    named = name_settings(rows)
    sources, degrees = [*dict.fromkeys(named.task)], [*dict.fromkeys(named.degree[named.degree != NONE])]
    methods = [name for name in dict.fromkeys(named.method) if name not in (BOUND, CEILING)]
    sides = mark_settings(named, ("method", "degree", "side"), sources, context.clusters, seeded=("method",))
    pairs = average_sides(sides)
    grid, rivals = [(name, q) for name in methods for q in degrees], [name for name in methods if name != TWIN]
    below = {(name, q): contrast_settings(pairs, [(BOUND, q)], [(name, q)]) for name, q in grid}
    changes = {(name, q): contrast_settings(pairs, [(name, q)], [(name, NONE)]) for name, q in grid}
    served = {(name, q): contrast_settings(sides, [(name, q, 0)], [(name, q, 1)]) for name, q in grid}
    sharp = {(MAIN, q): contrast_settings(pairs, [(MAIN, q)], [(TWIN, q)]) for q in degrees}
    more = {
        (name, q): combine_settings(pairs, {(TWIN, q): 1, (TWIN, NONE): -1, (name, q): -1, (name, NONE): 1})
        for name in rivals
        for q in degrees
    }
    accuracies = {setting: 100 * float(pairs.accuracies(setting).mean()) for setting in pairs.tasks}
    gaps = {
        (name, q): 100 * np.abs(sides.accuracies((name, q, 0)) - sides.accuracies((name, q, 1))).mean((0, 1))
        for name, q in grid
    }
    conflicting = {q: 2 * (100 - accuracies[BOUND, q]) for q in degrees}
    n = f"n = {count(len(sources), 'source')}, {count(pairs.count, 'test example')}"
    scope = f"Means over {count(len(sources), 'source')} ({', '.join(sources)}), {context.evaluation_split} split."
    return View(
        title=TITLE,
        question=QUESTION,
        sentences=(
            _describe_bound(conflicting, accuracies, n),
            _describe_below(below, degrees[-1], context, n),
            *_describe_changes(changes, methods, context, n),
            *_describe_rivals(more, degrees[-1], context, n),
            _describe_sharpness(sharp, context, n),
            _describe_served(served, gaps, methods, degrees[-1], context, n),
            *_describe_warnings(named, context),
            f"{METHOD} over the {count(pairs.count, 'test example')} of these {count(len(sources), 'source')} or, "
            f"where so named, over the {count(len(sources), 'source')}. Shown: every interval of a number "
            f"excludes zero. One seed of trainings and calibrations; the conflicts are constructed, on one embedded "
            f"suite.",
        ),
        figures={
            "conflict": Drawing(
                _draw(accuracies, gaps, conflicting, methods, context),
                f"Suite {context.suite}. Left: average accuracy of the two tasks of a pair against the share of test "
                f"images that they label differently; left of zero, on the images of the source alone, merges with "
                f"tasks without conflict. Right: by how much the two tasks of a pair differ in accuracy. {scope}",
            )
        },
        tables={
            "accuracy": Frame(
                pd.DataFrame(_tabulate_accuracies(accuracies, conflicting, methods, context)),
                f"Average accuracy in % of a source and its conflicting task, by the share q of permuted classes, "
                f"and on the source in merges with tasks without conflict. Bound: of any model that answers both "
                f"tasks alike. {scope}",
            ),
            "pairs": Frame(
                pd.DataFrame(_tabulate_pairs(pairs, named, sources, degrees, methods, context)),
                f"The same for every source; loss: the distillation loss, in nats, with which "
                f"{context.titles[TWIN]} ends on unlabelled calibration examples.",
            ),
            "changes": Frame(
                _tabulate(changes, context, lambda contrast: _both(contrast, context.digits)),
                f"Average accuracy of a conflicting pair minus accuracy on the source in merges with tasks without "
                f"conflict, in points: 95 % interval over test examples; over sources. {scope}",
            ),
            "distillation": Frame(
                _tabulate(more, context, lambda contrast: _both(contrast, context.digits)),
                f"How much less {context.titles[TWIN]} loses to conflict than the method of the row, in points: 95 % "
                f"interval over test examples; over sources. {scope}",
            ),
            "served": Frame(
                pd.DataFrame(_tabulate_served(served, gaps, methods, degrees, context)),
                f"Accuracy on the source and on its conflicting task, absolute difference in points; in brackets the "
                f"sources whose own interval favours the source : the conflicting task. {scope}",
            ),
            "warnings": Frame(
                pd.DataFrame(_tabulate_warnings(named, methods, degrees, context)),
                f"Means on the unlabelled calibration examples of the source and its conflicting task, in nats: "
                f"distillation loss from the experts; entropy. {count(len(sources), 'source')}.",
            ),
        },
        contrasts={
            f"{title}: {name}, {q}": contrast
            for title, part in (("below", below), ("change", changes), ("more", more), ("sam", sharp), ("gap", served))
            for (name, q), contrast in part.items()
        },
    )


def name_settings(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the scores on the sources' images: `task`: the source; `degree`: as a text, NONE without conflict.

    `side`: 0 for the source and 1 for the conflicting task; without conflict, the number of the pair.
    """
    conflict = rows.degree.notna()
    partners = rows[~conflict].groupby("source", sort=False).partner
    places = {(source, name): place for source, names in partners for place, name in enumerate(dict.fromkeys(names))}
    sides = [
        int(task != source) if q else places[source, partner]
        for source, partner, task, q in zip(rows.source, rows.partner, rows.task, conflict, strict=True)
    ]
    named = rows.assign(
        side=sides,
        degree=[f"{value:g}" if q else NONE for value, q in zip(rows.degree, conflict, strict=True)],
        seed=rows.seed.fillna(-1).astype("int64"),  # -1: no randomness
    )
    return named[conflict | (rows.task == rows.source)].assign(task=lambda kept: kept.source)


def average_sides(sides: Marks[StudySetting]) -> Marks[StudySetting]:
    """Average the answers of (method, degree, side) over sides: the settings are (method, degree)."""
    parts: dict[StudySetting, list[StudySetting]] = {}
    for setting in sides.tasks:
        parts.setdefault(setting[:2], []).append(setting)
    return Marks(
        {
            pair: [np.mean(tasks, axis=0) for tasks in zip(*map(sides.tasks.__getitem__, settings), strict=True)]
            for pair, settings in parts.items()
        },
        {pair: sides.seeds[settings[0]] for pair, settings in parts.items()},
        sides.clusters,
    )


def _both(contrast: Contrast, digits: int) -> str:
    return f"{interval(contrast.these, digits)}; {edges(contrast.like, digits)}"


def _judged(contrast: Contrast, digits: int) -> str:
    shown = excludes_zero(contrast.these) and excludes_zero(contrast.like)
    return f"{interval(contrast.these, digits)}, over sources {edges(contrast.like, digits)}{VERDICTS[shown]}"


def _describe_bound(conflicting: Mapping[str, float], accuracies: Mapping[StudySetting, float], n: str) -> str:
    parts = [
        f"q = {q}: {share:.1f} %, at most {accuracies[BOUND, q]:.1f} %, experts {accuracies[CEILING, q]:.1f} %"
        for q, share in conflicting.items()
    ]
    return (
        f"A merged answer depends on image and head alone, and a source and its conflicting task have the same of "
        f"both: where their labels differ no merge is right for the two of them, and a model per task is the only "
        f"remedy. Test images with two labels, what any merge can reach on average, and the experts: "
        f"{'; '.join(parts)} ({n})."
    )


def _describe_below(below: Contrasts, last: str, context: Context, n: str) -> str:
    parts = [
        f"{context.titles[name]} {_judged(contrast, context.digits)}"
        for (name, q), contrast in below.items()
        if q == last
    ]
    return f"Points below the bound at q = {last}: {'; '.join(parts)} ({n})."


def _describe_changes(changes: Contrasts, methods: Sequence[str], context: Context, n: str) -> Iterator[str]:
    for method in methods:
        parts = [
            f"q = {q}: {_judged(contrast, context.digits)}" for (name, q), contrast in changes.items() if name == method
        ]
        yield (
            f"{context.titles[method]}, conflicting pairs minus merges with tasks without conflict, in points: "
            f"{'; '.join(parts)} ({n})."
        )


def _describe_rivals(more: Contrasts, last: str, context: Context, n: str) -> Iterator[str]:
    """Compare what distillation loses to conflict with what each other method loses."""
    parts = [
        f"{context.titles[name]} {_judged(contrast, context.digits)}"
        for (name, q), contrast in more.items()
        if q == last
    ]
    yield (
        f"How much less {context.titles[TWIN]} loses to conflict than another method, in points at q = {last}: "
        f"{'; '.join(parts)} ({n})."
    )
    these = [contrast.these for contrast in more.values()]
    yield f"Over all degrees of conflict, {describe_chance(these, 'intervals of these differences')} ({n})."


def _describe_sharpness(sharp: Contrasts, context: Context, n: str) -> str:
    parts = [f"q = {q}: {_judged(contrast, context.digits)}" for (_, q), contrast in sharp.items()]
    return f"{context.minus(MAIN, TWIN)} on conflicting pairs, in points: {'; '.join(parts)} ({n})."


def _describe_served(
    served: Contrasts,
    gaps: Mapping[tuple[str, str], np.ndarray],
    methods: Sequence[str],
    last: str,
    context: Context,
    n: str,
) -> str:
    parts = [
        f"{context.titles[name]} {gaps[name, last].mean():.{context.decimals}f} ({served[name, last].won} : "
        f"{served[name, last].lost})"
        for name in methods
    ]
    return (
        f"Which task is served, at q = {last}: absolute difference of accuracy between source and conflicting task in "
        f"points, and the sources whose own interval favours the source : the conflicting task: {'; '.join(parts)} "
        f"({n})."
    )


def compare_measures(named: pd.DataFrame, method: str, measure: str) -> dict[str, PairedDifference]:
    """Return {degree: by how much `measure` is above that of pairs without conflict}, with an interval over sources.

    named: rows of `name_settings`.
    """
    part = named[named.method == method]
    table = part.pivot_table(measure, ["degree", "seed"], "task")
    degrees = [q for q in dict.fromkeys(part.degree) if q != NONE]
    return {q: paired_difference(table, [*table.columns], q, NONE) for q in degrees}


def _describe_warnings(named: pd.DataFrame, context: Context) -> Iterator[str]:
    """Say whether what can be measured without labels differs between pairs with and without conflict."""
    sources = count(named.task.nunique(), "source")
    for measure, title in MEASURES.items():
        for method in (TWIN, ENTROPY):
            mean = named[(named.method == method) & (named.degree == NONE)][measure].mean()
            parts = [
                f"q = {q}: {interval(gap, 3)}{VERDICTS[excludes_zero(gap)]}"
                for q, gap in compare_measures(named, method, measure).items()
            ]
            yield (
                f"{title} of {context.titles[method]} on the source's unlabelled images: {mean:.3f} nats without "
                f"conflict; above that, with intervals over sources, {'; '.join(parts)} (n = {sources})."
            )


def _tabulate_accuracies(
    accuracies: Mapping[StudySetting, float],
    conflicting: Mapping[str, float],
    methods: Sequence[str],
    context: Context,
) -> Iterator[dict[str, str]]:
    shares = {f"q = {q}": f"{share:.{context.decimals}f}" for q, share in conflicting.items()}
    yield {"Method": "Images with two labels", "No conflict": "", **shares}
    for name in (BOUND, CEILING, *methods):
        cells = {
            f"q = {q}" if q != NONE else "No conflict": f"{accuracies[name, q]:.{context.decimals}f}"
            for q in (NONE, *conflicting)
            if (name, q) in accuracies
        }
        yield {"Method": "Bound" if name == BOUND else context.titles[name], "No conflict": "", **cells}


def _tabulate_pairs(
    pairs: Marks[StudySetting],
    named: pd.DataFrame,
    sources: Sequence[str],
    degrees: Sequence[str],
    methods: Sequence[str],
    context: Context,
) -> Iterator[dict[str, str]]:
    ends = named[named.method == TWIN].groupby(["task", "degree"]).loss.mean().to_dict()
    for place, source in enumerate(sources):
        for q in degrees:
            values = {
                name: 100 * float(pairs.accuracies((name, q))[..., place].mean()) for name in (BOUND, CEILING, *methods)
            }
            accuracies = {
                "Bound" if name == BOUND else context.titles[name]: f"{value:.{context.decimals}f}"
                for name, value in values.items()
            }
            two = f"{2 * (100 - values[BOUND]):.{context.decimals}f}"
            yield {"Pair": f"{source}, q = {q}", "Two labels": two, **accuracies, "Loss": f"{ends[source, q]:.3f}"}


def _tabulate(contrasts: Contrasts, context: Context, cell: Callable[[Contrast], str]) -> pd.DataFrame:
    lines: dict[str, dict[str, str]] = {}
    for (name, q), contrast in contrasts.items():
        lines.setdefault(name, {"Method": context.titles[name]})[f"q = {q}"] = cell(contrast)
    return pd.DataFrame([*lines.values()])


def _tabulate_served(
    served: Contrasts,
    gaps: Mapping[tuple[str, str], np.ndarray],
    methods: Sequence[str],
    degrees: Sequence[str],
    context: Context,
) -> Iterator[dict[str, str]]:
    for name in methods:
        cells = {
            f"q = {q}": f"{gaps[name, q].mean():.{context.decimals}f} ({served[name, q].won} : {served[name, q].lost})"
            for q in degrees
        }
        yield {"Method": context.titles[name], **cells}


def _tabulate_warnings(
    named: pd.DataFrame, methods: Sequence[str], degrees: Sequence[str], context: Context
) -> Iterator[dict[str, str]]:
    means = {measure: named.groupby(["method", "degree"])[measure].mean().to_dict() for measure in MEASURES}
    for name in methods:
        cells = {
            "No conflict" if q == NONE else f"q = {q}": "; ".join(f"{mean[name, q]:.3f}" for mean in means.values())
            for q in (NONE, *degrees)
        }
        yield {"Method": context.titles[name], **cells}


@mpl.rc_context(STYLE)
def _draw(
    accuracies: Mapping[StudySetting, float],
    gaps: Mapping[tuple[str, str], np.ndarray],
    conflicting: Mapping[str, float],
    methods: Sequence[str],
    context: Context,
) -> Figure:
    """Draw accuracy and balance against the share of test images with two labels, a line per method."""
    labels = ("average accuracy of the pair (%)", "accuracy, difference\nof the two tasks (points)")
    figure, left, right = two_panels(context.width, 0.55, *labels)
    shares = [*conflicting.values()]
    left.plot(shares, [accuracies[BOUND, q] for q in conflicting], color="#000000", linewidth=1.8, label="Bound")
    for name, look in context.styles((CEILING, *methods)).items():
        left.plot(shares, [accuracies[name, q] for q in conflicting], **line_style(look))
        left.plot([-10], [accuracies[name, NONE]], color=look.colour, marker=look.marker, linestyle="")
        if name in methods:
            right.plot(shares, [gaps[name, q].mean() for q in conflicting], **line_style(look))
    for axes in (left, right):
        axes.set(xlabel="test images with two labels (%)")
        axes.grid(axis="y", alpha=0.3, linewidth=0.5)
    left.set_xticks([-10, 0, 25, 50, 75, 100], ["none", "0", "25", "50", "75", "100"])
    return add_legend(figure, left, 3)
