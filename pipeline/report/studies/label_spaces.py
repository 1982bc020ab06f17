"""Label spaces in the report: what a task loses beside another one of its domain that asks for other labels."""

from collections.abc import Iterator, Mapping, Sequence

import pandas as pd

from pipeline.report.studies import Context
from pipeline.report.studies._shared import describe_chance
from pipeline.report.view import Frame, View
from pipeline.report.words import METHOD, compare, count, edges, excludes_zero, interval, percentages, side_by_side
from pipeline.statistics.accuracy import CEILING, TWIN
from pipeline.statistics.contrasts import Contrast, PairedDifference, StudySetting, combine_settings, mark_settings

SOURCE, LABELS, RELATED = "source", "labels", "related"
COLUMNS = ("method", "setting", "side")
VERDICTS = {True: ", shown", False: ", not shown"}
"""Whether every interval of a number excludes zero."""
TITLE = "Label spaces"
QUESTION = (
    "What does a task lose if it is merged with another one of its domain that asks for different labels, against "
    "merges with tasks of other domains?"
)
Contrasts = Mapping[tuple[str, str], Contrast]
"""{(method, setting): contrast}."""


def view(rows: pd.DataFrame, context: Context) -> View:
    """`rows`: columns as in `pipeline.studies.label_spaces`."""
    rows = percentages(rows)
    sources, settings = [*dict.fromkeys(rows.task)], [*dict.fromkeys(rows.setting)]
    others = [name for name in settings if name.startswith("other")]
    shared = [name for name in settings if name not in others]
    labelled = [name for name in shared if name != RELATED]
    methods = [name for name in dict.fromkeys(rows.method) if name != CEILING]
    marks = mark_settings(rows, COLUMNS, sources, context.clusters, seeded=("method",))

    def weigh(method: str, setting: str, sign: int = 1) -> dict[StudySetting, float]:
        """Weigh the accuracy on the source minus that beside tasks of other domains."""
        apart: dict[StudySetting, float] = {(method, other, SOURCE): -sign / len(others) for other in others}
        return {(method, setting, SOURCE): sign, **apart}

    change = {(name, setting): combine_settings(marks, weigh(name, setting)) for setting in shared for name in methods}
    rivals = [name for name in methods if name != TWIN]
    more = {
        (name, setting): combine_settings(marks, weigh(TWIN, setting) | weigh(name, setting, -1))
        for setting in shared
        for name in rivals
    }
    ranked = {
        (name, setting): combine_settings(marks, {(TWIN, setting, LABELS): 1, (name, setting, LABELS): -1})
        for setting in labelled
        for name in rivals
    }
    precisions = {
        setting: side_by_side(rows[(rows.setting == setting) & (rows.side == LABELS)], "task", "average_precision")
        for setting in labelled
    }
    twin, n = context.titles[TWIN], f"n = {count(len(sources), 'source')}, {count(marks.count, 'test example')}"
    scope = f"Means over {count(len(sources), 'source')} ({', '.join(sources)}), {context.evaluation_split} split."
    differences = [contrast.these for part in (change, more, ranked) for contrast in part.values()]
    return View(
        title=TITLE,
        question=QUESTION,
        sentences=(
            *_describe(change, "Accuracy on the source beside {} minus beside a task of another domain", context, n),
            *_describe(more, f"How much less {twin} loses beside {{}} than another method", context, n),
            *_describe(ranked, f"Label sets ranked first, {{}}: {twin} minus another method", context, n),
            *(_describe_precision(precisions[setting], setting, rivals, context) for setting in labelled),
            f"{describe_chance(differences, 'intervals over test examples')} ({n}).",
            f"{METHOD} over the {count(marks.count, 'test example')} of these {count(len(sources), 'source')} or, "
            f"where so named, over the {count(len(sources), 'source')}. Shown: every interval of a number "
            f"excludes zero. One seed of trainings and calibrations.",
        ),
        tables={
            "accuracy": Frame(
                pd.DataFrame(_tabulate(rows, [CEILING, *methods], shared, others, precisions, context)),
                f"On the source: accuracy in % beside tasks of other domains, and beside one of its domain. Label "
                f"sets: of the multi-label task, in % of its images whose labels are ranked first; mAP: mean average "
                f"precision over its labels, in %. {scope}",
            ),
            "changes": Frame(
                pd.DataFrame(
                    {
                        "Method": context.titles[name],
                        **{
                            title_setting(setting): f"{interval(change[name, setting].these, context.digits)}; "
                            f"{edges(change[name, setting].like, context.digits)}"
                            for setting in shared
                        },
                    }
                    for name in methods
                ),
                f"Accuracy on the source beside a task of its domain minus that beside tasks of other domains, in "
                f"points: 95 % interval over test examples; over sources. {scope}",
            ),
        },
        contrasts={
            f"{title}: {name}, {setting}": contrast
            for title, part in (("change", change), ("more", more), ("ranked", ranked))
            for (name, setting), contrast in part.items()
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
    pairs: dict[str, PairedDifference] = {name: compare(table, TWIN, name) for name in rivals}
    parts = [
        f"{context.titles[name]} {interval(pair, context.digits)}{VERDICTS[excludes_zero(pair)]}"
        for name, pair in pairs.items()
    ]
    expert, twin = (table.loc[name].to_numpy().mean() for name in (CEILING, TWIN))
    return (
        f"Mean average precision over labels, {name_setting(setting)}: experts {expert:.{context.decimals}f} %, "
        f"{context.titles[TWIN]} {twin:.{context.decimals}f} %; minus another method, in points, with intervals over "
        f"sources: {'; '.join(parts)} (n = {count(len(table.columns), 'source')})."
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
    means = rows.groupby(["method", "setting", "side"]).accuracy.mean()
    for name in methods:
        apart = sum(means[name, other, SOURCE] for other in others) / len(others)
        cells = {"Method": context.titles[name], "Other domains": f"{apart:.{context.decimals}f}"}
        for setting in shared:
            title = title_setting(setting)
            cells[title] = f"{means[name, setting, SOURCE]:.{context.decimals}f}"
            if setting in precisions:
                precision = precisions[setting].loc[name].to_numpy().mean()
                cells[f"{title}: label sets"] = f"{means[name, setting, LABELS]:.{context.decimals}f}"
                cells[f"{title}: mAP"] = f"{precision:.{context.decimals}f}"
        yield cells
