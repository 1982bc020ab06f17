"""Conventions in the report: what each does to every method, and to the ranking among the methods."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from pipeline.report.figures import STYLE, Style
from pipeline.report.studies import Context, _shared
from pipeline.report.view import Drawing, Frame, View
from pipeline.report.words import (
    INTERVALS,
    METHOD,
    accuracies,
    count,
    excludes_zero,
    interval,
    listed,
    percentages,
    spread,
    stated,
)
from pipeline.statistics.accuracy import MAIN
from pipeline.statistics.contrasts import Contrast, StudySetting, combine_settings, mark_settings
from pipeline.statistics.intervals import SHARE_DECIMALS

DEFAULT = "default"
SETTINGS = ("method", "setting")
SHIFT = 0.06
"""Neighbours are shifted sideways by this much of the distance of two conventions."""

Changes = Mapping[str, Mapping[str, Contrast]]
"""{method: {convention: it minus the method's default}}."""


@dataclass(frozen=True)
class Pair:
    """One method minus another under every convention."""

    method: str
    other: str
    leads: Mapping[str, Contrast]
    most: str
    """The convention with the largest difference."""
    least: str
    """The convention with the smallest difference."""
    change: Contrast
    """The difference under `least` minus that under `most`."""

    @property
    def turns(self) -> bool:
        """Whether the order of the two changes."""
        return self.leads[self.most].these.mean > 0 > self.leads[self.least].these.mean

    @property
    def clear(self) -> bool:
        """Whether each of the two orders is beyond its own interval."""
        return all(excludes_zero(self.leads[convention].these) for convention in (self.most, self.least))


def view(rows: pd.DataFrame, context: Context) -> View:
    """`rows`: columns as in `pipeline.studies.conventions`."""
    rows, titles, decimals, digits = percentages(rows), context.titles, context.decimals, context.digits
    table = accuracies(rows, SETTINGS, context.tasks).mean(axis=1)
    methods, conventions = [*dict.fromkeys(rows.method)], [*dict.fromkeys(rows.setting)]
    defaults = rows[rows.default == 1].groupby("method").setting.first().to_dict()
    changes = {name: _contrast_default(rows, name, defaults[name], conventions, context) for name in methods}
    pairs = [_compare(rows, *both, conventions, context) for both in combinations(methods, 2)]
    ranks = _rank(table, methods, conventions)
    examples = count(int(rows.groupby("task").total.first().sum()), "test example")
    seeds = {name: rows[(rows.method == name) & (rows.seed >= 0)].seed.nunique() for name in methods}
    runs = ", ".join(f"{titles[name]} {number}" for name, number in seeds.items() if number) or "no method has any"
    tasks = count(len(context.tasks), "task")
    scope = f"{examples} of {tasks} of the {context.evaluation_split} split; seeds: {runs}"
    examples_and_seeds = INTERVALS.partition(";")[0]

    def describe_method(name: str) -> str:
        parts = "; ".join(f"{each}: {stated(change.these, digits)}" for each, change in changes[name].items())
        basis = f"{count(seeds[name], 'seed')}, {examples}" if seeds[name] else examples
        return (
            f"{titles[name]} has {table[name, defaults[name]].mean():.{decimals}f} % with its default "
            f"{defaults[name]}; against it, {parts} (n = {basis})."
        )

    return View(
        title="Conventions",
        question=(
            "Do conventions decide rankings? Every method that decomposes matrices merges at its published scale with "
            "q, k and v as three matrices (split) or one (fused), and with the positional embedding treated as what is "
            "no matrix (average) or as one more matrix (decompose)."
        ),
        sentences=(
            *map(describe_method, methods),
            _shared.describe_chance(
                [change.these for each in changes.values() for change in each.values()],
                "intervals of differences from a default",
            )
            + f" (n = {examples}).",
            _describe_ranks(ranks, titles),
            *_describe_turns(pairs, len(methods), examples, context),
            f"{METHOD} over the {examples} of these {tasks} and over seeds ({runs}; other methods have no randomness). "
            f"The two conventions that are named for a pair are those in which it is furthest apart, chosen by the "
            f"same answers: these intervals are, if anything, too narrow.",
        ),
        figures={
            "conventions": Drawing(
                _draw(table, changes, context.styles((MAIN, *methods)), conventions, context.width),
                f"Left: average accuracy under the four conventions, matrices/positional_embedding; right: minus that "
                f"under the method's default, with 95 % intervals over test examples and seeds. Over {scope}.",
            )
        },
        tables={
            "accuracies": Frame(
                pd.DataFrame(
                    {"Method": titles[name], **{each: spread(table[name, each], decimals) for each in conventions}}
                    for name in methods
                ),
                f"Average accuracy in %, mean ± sample standard deviation over seeds. Over {scope}.",
            ),
            "differences": Frame(
                pd.DataFrame(
                    {"Method": titles[name]}
                    | {each: interval(found[each].these, digits) if each in found else DEFAULT for each in conventions}
                    for name, found in changes.items()
                ),
                f"Average accuracy minus that under the method's default convention, in points, with 95 % interval. "
                f"{examples_and_seeds}. Over {scope}.",
            ),
            "ranks": Frame(
                pd.DataFrame({"Method": titles[name], **each} for name, each in ranks.items()),
                f"Rank by average accuracy among these methods, 1 the best; ties share the better rank. Over {scope}.",
            ),
            "pairs": Frame(
                pd.DataFrame(
                    {"Pair": context.minus(pair.method, pair.other)}
                    | {each: interval(pair.leads[each].these, digits) for each in conventions}
                    | {"Change": interval(pair.change.these, digits), "Order": "changes" if pair.turns else "stays"}
                    for pair in pairs
                ),
                f"One method minus another under each convention, in points, with 95 % interval; Change: the smallest "
                f"minus the largest of the four. {examples_and_seeds}. Over {scope}.",
            ),
        },
        contrasts={
            **{f"{name}, {each}": change for name, found in changes.items() for each, change in found.items()},
            **{f"{it.method} minus {it.other}, {each}": lead for it in pairs for each, lead in it.leads.items()},
            **{f"{it.method} minus {it.other}, change": it.change for it in pairs},
        },
    )


def _contrast_default(
    rows: pd.DataFrame, method: str, default: str, conventions: Sequence[str], context: Context
) -> dict[str, Contrast]:
    """Contrast every other convention of a method with its default."""
    marks = mark_settings(rows[rows.method == method], SETTINGS, context.tasks, context.clusters)
    return {
        convention: combine_settings(marks, {(method, convention): 1, (method, default): -1})
        for convention in conventions
        if convention != default
    }


def _compare(rows: pd.DataFrame, method: str, other: str, conventions: Sequence[str], context: Context) -> Pair:
    part = rows[rows.method.isin((method, other))]
    marks = mark_settings(part, SETTINGS, context.tasks, context.clusters, seeded=("method",))
    weights: dict[str, dict[StudySetting, int]] = {name: {(method, name): 1, (other, name): -1} for name in conventions}
    leads = {name: combine_settings(marks, each) for name, each in weights.items()}
    means = {name: round(lead.these.mean, SHARE_DECIMALS - 3) for name, lead in leads.items()}
    most, least = max(means, key=means.__getitem__), min(reversed(means), key=means.__getitem__)
    opposite = {setting: -weight for setting, weight in weights[most].items()}
    return Pair(method, other, leads, most, least, combine_settings(marks, weights[least] | opposite))


def _rank(table: pd.Series, methods: Sequence[str], conventions: Sequence[str]) -> dict[str, dict[str, int]]:
    """Return {method: {convention: its rank}}; ties share the better rank."""
    means = table.groupby(level=["setting", "method"]).mean().round(SHARE_DECIMALS)
    return {name: {each: 1 + int((means[each] > means[each, name]).sum()) for each in conventions} for name in methods}


def _describe_ranks(ranks: Mapping[str, Mapping[str, int]], titles: Mapping[str, str]) -> str:
    parts, values = [], []
    for name, by_convention in ranks.items():
        values = [*by_convention.values()]
        times = [f"rank {rank} in {values.count(rank)}" for rank in sorted({*values})]
        parts.append(f"{titles[name]} {listed(times)}")
    return (
        f"Ranks among these methods by the number of conventions (n = {count(len(values), 'convention')}): "
        f"{'; '.join(parts)}."
    )


def _describe_turns(pairs: Sequence[Pair], methods: int, examples: str, context: Context) -> list[str]:
    """Describe the pairs whose order changes between conventions."""
    turning = [pair for pair in pairs if pair.turns]
    changed = sum(excludes_zero(pair.change.these) for pair in turning)
    sentences = [
        f"{len(turning)} of {len(pairs)} pairs of methods change order between conventions; the interval of the change "
        f"excludes zero for {changed} of them, and both orders are beyond their own intervals for "
        f"{sum(pair.clear for pair in turning)} (n = {methods} methods, {examples})."
    ]
    for pair in turning:
        ends = [f"{interval(pair.leads[end].these, context.digits)} with {end}" for end in (pair.most, pair.least)]
        sentences.append(
            f"{context.minus(pair.method, pair.other)}: {listed(ends)}; the change is "
            f"{stated(pair.change.these, context.digits)} (n = {examples})."
        )
    return sentences


@mpl.rc_context(STYLE)
def _draw(
    table: pd.Series, changes: Changes, looks: Mapping[str, Style], conventions: Sequence[str], width: float
) -> Figure:
    figure, left, right = _shared.two_panels(width, 0.5, "average accuracy (%)", "minus the method's default (points)")
    for index, (name, found) in enumerate(changes.items()):
        style, offset = _shared.line_style(looks[name]), SHIFT * (index - (len(changes) - 1) / 2)
        means = [table[name, each].mean() for each in conventions]
        left.plot(range(len(conventions)), means, **style)
        differences = {place + offset: found[each].these for place, each in enumerate(conventions) if each in found}
        _shared.plot_differences(right, [*differences], differences.values(), {**style, "linestyle": "none"})
    right.axhline(0, color="#777777", linewidth=0.6)
    for axes in (left, right):
        axes.set_xticks(range(len(conventions)), [each.replace("/", "/\n") for each in conventions])
        axes.grid(axis="y", alpha=0.3, linewidth=0.5)
    return _shared.add_legend(figure, left, 6)
