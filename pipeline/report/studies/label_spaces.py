"""Label spaces in the report: how tasks fare that are merged with another one of their domain with its own labels."""

from collections.abc import Iterator, Mapping, Sequence

import pandas as pd

from pipeline.report.studies import Context
from pipeline.report.studies._shared import describe_chance
from pipeline.report.view import Frame, View
from pipeline.report.words import METHOD, compare, count, edges, excludes_zero, interval, percentages, side_by_side
from pipeline.statistics.accuracy import CEILING, TWIN
from pipeline.statistics.contrasts import Contrast, StudySetting, combine_settings, mark_settings

SOURCE, LABELS, RELATED, SAME = "source", "labels", "related", "labels-1"
"""Sides and settings of `pipeline.studies.label_spaces`; SAME: the labels are those of the source."""
COLUMNS = ("method", "setting", "side")
VERDICTS = {True: ", shown", False: ", not shown"}
"""Whether every interval of a number excludes zero."""
TITLE = "Label spaces"
QUESTION = (
    "How does a task fare that is merged with another task of its domain, which asks for its own labels, instead of a "
    "task of another domain?"
)
Contrasts = Mapping[tuple[str, str], Contrast]
"""{(method, setting): contrast}."""


def view(rows: pd.DataFrame, context: Context) -> View:
    """`rows`: columns as in `pipeline.studies.label_spaces`."""
    rows = percentages(rows)
    sources, settings = [*dict.fromkeys(rows.task)], [*dict.fromkeys(rows.setting)]
    others = [name for name in settings if name.startswith("other")]
    shared = [name for name in settings if name not in others]
    differing = [name for name in shared if name not in (RELATED, SAME)]
    methods = [name for name in dict.fromkeys(rows.method) if name != CEILING]
    rivals = [name for name in methods if name != TWIN]
    marks = mark_settings(rows, COLUMNS, sources, context.clusters, seeded=("method",))

    def weigh_change(method: str, setting: str) -> dict[StudySetting, float]:
        """Weigh the accuracy on the source minus the mean beside tasks of other domains."""
        apart: dict[StudySetting, float] = {(method, other, SOURCE): -1 / len(others) for other in others}
        return {(method, setting, SOURCE): 1, **apart}

    def weigh_pair(method: str, setting: str, sign: int) -> dict[StudySetting, float]:
        """Weigh the mean accuracy of the two tasks of a pair; of related tasks both are sources."""
        sides = (SOURCE, LABELS) if setting in differing else (SOURCE,)
        return {(method, setting, side): sign / len(sides) for side in sides}

    parts: dict[str, Contrasts] = {
        "change": {(name, q): combine_settings(marks, weigh_change(name, q)) for q in shared for name in methods},
        "labels": {
            (name, q): combine_settings(marks, {(name, q, SOURCE): 1, (name, SAME, SOURCE): -1})
            for q in differing
            if SAME in shared
            for name in methods
        },
        "pair": {
            (name, q): combine_settings(marks, weigh_pair(TWIN, q, 1) | weigh_pair(name, q, -1))
            for q in shared
            if q != SAME
            for name in rivals
        },
    }
    precisions = {
        q: side_by_side(rows[(rows.setting == q) & (rows.side == LABELS)], "task", "average_precision")
        for q in shared
        if q != RELATED
    }
    twin, n = context.titles[TWIN], f"n = {count(len(sources), 'source')}, {count(marks.count, 'test example')}"
    openings = {
        "change": "Accuracy on the source merged with {}, minus the mean merged with a task of another domain",
        "labels": f"Accuracy on the source merged with {{}}, minus that merged with {name_setting(SAME)}",
        "pair": f"Mean accuracy of the source and {{}} when they are merged, {twin} minus another method",
    }
    scope = f"Means over {count(len(sources), 'source')} ({', '.join(sources)}), {context.evaluation_split} split."
    differences = [contrast.these for part in parts.values() for contrast in part.values()]
    labelled = (
        " Label sets: share of the multi-label task's images whose labels have the largest logits; mAP: mean average "
        "precision over its labels. With 1 label its answers are those to the source."
    )
    return View(
        title=TITLE,
        question=QUESTION,
        sentences=(
            *(sentence for kind, part in parts.items() for sentence in _describe(part, openings[kind], context, n)),
            *(_describe_precision(table, q, rivals, context) for q, table in precisions.items()),
            f"{describe_chance(differences, 'intervals over test examples')} ({n}).",
            f"{METHOD} over the {count(marks.count, 'test example')} of these {count(len(sources), 'source')} or, "
            f"where so named, over the {count(len(sources), 'source')}. Shown: every interval of a number "
            f"excludes zero. One seed of trainings and calibrations, whose chance no interval covers.",
        ),
        tables={
            "accuracy": Frame(
                pd.DataFrame(_tabulate(rows, [CEILING, *methods], shared, others, precisions, context)),
                f"Accuracy in % on the source, merged with tasks of other domains and with one of its domain."
                f"{labelled if precisions else ''} {scope}",
            ),
            "changes": Frame(
                pd.DataFrame(
                    {
                        "Method": context.titles[name],
                        **{
                            title_setting(q): f"{interval(parts['change'][name, q].these, context.digits)}; "
                            f"{edges(parts['change'][name, q].like, context.digits)}"
                            for q in shared
                        },
                    }
                    for name in methods
                ),
                f"Accuracy on the source merged with a task of its domain, minus the mean merged with a task of "
                f"another domain, in points: mean and 95 % interval over test examples; interval over sources. {scope}",
            ),
        },
        contrasts={
            f"{kind}: {name}, {q}": contrast for kind, part in parts.items() for (name, q), contrast in part.items()
        },
    )


def name_setting(setting: str) -> str:
    """Return what a partner on the same domain is called."""
    return "the related task" if setting == RELATED else f"a task of {title_setting(setting)} per image"


def title_setting(setting: str) -> str:
    """Return the same as the head of a column."""
    return "Related" if setting == RELATED else count(int(setting.removeprefix("labels-")), "label")


def _describe(contrasts: Contrasts, opening: str, context: Context, n: str) -> Iterator[str]:
    """Yield a sentence on every setting; opening: what is compared, with a place for the setting."""
    for setting in dict.fromkeys(setting for _, setting in contrasts):
        parts = [
            f"{context.titles[name]} {interval(contrast.these, context.digits)}, over sources "
            f"{edges(contrast.like, context.digits)}"
            f"{VERDICTS[excludes_zero(contrast.these) and excludes_zero(contrast.like)]}"
            for (name, other), contrast in contrasts.items()
            if other == setting
        ]
        yield f"{opening.format(name_setting(setting))}, in points: {'; '.join(parts)} ({n})."


def _describe_precision(table: pd.DataFrame, setting: str, rivals: Sequence[str], context: Context) -> str:
    """Compare the mean average precisions of label sets; table: of `side_by_side`."""
    pairs = {name: compare(table, TWIN, name) for name in rivals}
    parts = [
        f"{context.titles[name]} {interval(pair, context.digits)}{VERDICTS[excludes_zero(pair)]}"
        for name, pair in pairs.items()
    ]
    expert, twin = (table.loc[name].to_numpy().mean() for name in (CEILING, TWIN))
    return (
        f"Mean average precision on {name_setting(setting)}: experts {expert:.{context.decimals}f} %, "
        f"{context.titles[TWIN]} {twin:.{context.decimals}f} %. {context.titles[TWIN]} minus another method, in "
        f"points, with intervals over sources: {'; '.join(parts)} (n = {count(len(table.columns), 'source')})."
    )


def _tabulate(
    rows: pd.DataFrame,
    methods: Sequence[str],
    shared: Sequence[str],
    others: Sequence[str],
    precisions: Mapping[str, pd.DataFrame],
    context: Context,
) -> Iterator[dict[str, str]]:
    """Yield a row of the table of accuracies for every method."""
    means, decimals = rows.groupby(["method", "setting", "side"]).accuracy.mean(), context.decimals
    for name in methods:
        apart = sum(means[name, other, SOURCE] for other in others) / len(others)
        cells = {"Method": context.titles[name], "Other domains": f"{apart:.{decimals}f}"}
        for setting in shared:
            title = title_setting(setting)
            cells[title] = f"{means[name, setting, SOURCE]:.{decimals}f}"
            if setting in precisions:
                if setting != SAME:
                    cells[f"{title}: label sets"] = f"{means[name, setting, LABELS]:.{decimals}f}"
                cells[f"{title}: mAP"] = f"{precisions[setting].loc[name].to_numpy().mean():.{decimals}f}"
        yield cells
