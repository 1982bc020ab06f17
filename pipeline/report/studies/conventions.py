"""Conventions in the report: what each does to every method, and to the ranking among the methods."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from pipeline.report.figures import STYLE, Style, styles
from pipeline.report.studies import Context
from pipeline.report.view import Drawing, Frame, View
from pipeline.report.words import INTERVALS, accuracies, count, excludes_zero, interval, listed, spread, stated
from pipeline.statistics.bootstrap import PRECISION
from pipeline.statistics.contrasts import RESAMPLES, Contrast, combined, resample

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
    """The one with the smallest."""
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
    rows = rows.assign(seed=rows.seed.fillna(-1).astype("int64"))
    table = accuracies(rows, SETTINGS, context.tasks).mean(axis=1)
    methods, conventions = [*dict.fromkeys(rows.method)], [*dict.fromkeys(rows.setting)]
    defaults = rows[rows.default == 1].groupby("method").setting.first().to_dict()
    changes = {name: _changes(rows, name, defaults[name], conventions, context.tasks) for name in methods}
    pairs = [_pair(rows, *both, conventions, context.tasks) for both in combinations(methods, 2)]
    ranks = _ranks(table, methods, conventions)
    images = count(int(rows.groupby("task").total.first().sum()), "test image")
    seeds = {name: part.seed.nunique() for name, part in rows[rows.seed >= 0].groupby("method", sort=False)}
    drawn = ", ".join(f"{context.titles[name]} {number}" for name, number in seeds.items()) or "no method has any"
    over = f"{images} of {count(len(context.tasks), 'task')} of the {context.evaluation_split} split; seeds: {drawn}"
    looks = styles({name: context.titles[name] for name in ("samerging", *methods)})
    return View(
        title="Conventions",
        question=(
            "Do conventions decide rankings? Every method that decomposes matrices merges at its published scale with "
            "q, k and v as three matrices (split) or one (fused), and with the positional embedding treated as what is "
            "no matrix (average) or as one more matrix (decompose)."
        ),
        sentences=(
            *(_effect(table, name, defaults[name], changes[name], seeds, images, context) for name in methods),
            _clear([each for of_method in changes.values() for each in of_method.values()], images),
            _held(ranks, conventions, context),
            *_turned(pairs, len(methods), images, context),
            f"Intervals are of 95 %, of {RESAMPLES:,} bootstrap draws of the paired differences, not adjusted for "
            f"their number: over the {images} of these {count(len(context.tasks), 'task')} and over seeds ({drawn}; "
            f"other methods have no randomness). The two conventions that are named for a pair are those in which it "
            f"is furthest apart, chosen by the same answers: these intervals are, if anything, too narrow.",
        ),
        figures={
            "conventions": Drawing(
                _figure(table, changes, looks, conventions, context.width),
                f"Left: average accuracy under the four conventions, matrices/positional_embedding; right: minus that "
                f"under the method's default, with 95 % intervals over test images and seeds. Over {over}.",
            )
        },
        tables={
            "accuracies": Frame(
                _accuracies(table, methods, conventions, context),
                f"Average accuracy in %, mean ± sample standard deviation over seeds. Over {over}.",
            ),
            "differences": Frame(
                _differences(changes, conventions, context),
                f"Average accuracy minus that under the method's default convention, in points, with 95 % interval. "
                f"{INTERVALS.partition(';')[0]}. Over {over}.",
            ),
            "ranks": Frame(
                _ranked(ranks, context),
                f"Rank by average accuracy among these methods, 1 the best; ties share the better rank. Over {over}.",
            ),
            "pairs": Frame(
                _pairs(pairs, conventions, context),
                f"One method minus another under each convention, in points, with 95 % interval; Change: the smallest "
                f"minus the largest of the four. {INTERVALS.partition(';')[0]}. Over {over}.",
            ),
        },
        contrasts={
            **{f"{name}, {each}": change for name, of in changes.items() for each, change in of.items()},
            **{
                f"{pair.method} minus {pair.other}, {each}": lead for pair in pairs for each, lead in pair.leads.items()
            },
            **{f"{pair.method} minus {pair.other}, change": pair.change for pair in pairs},
        },
    )


def _changes(
    rows: pd.DataFrame, method: str, default: str, conventions: Sequence[str], tasks: Sequence[str]
) -> dict[str, Contrast]:
    drawn = resample(rows[rows.method == method], SETTINGS, tasks)
    return {
        convention: combined(drawn, {(method, convention): 1, (method, default): -1})
        for convention in conventions
        if convention != default
    }


def _pair(rows: pd.DataFrame, method: str, other: str, conventions: Sequence[str], tasks: Sequence[str]) -> Pair:
    drawn = resample(rows[rows.method.isin((method, other))], SETTINGS, tasks, seeded=("method",))
    weights = {name: {(method, name): 1, (other, name): -1} for name in conventions}
    leads = {name: combined(drawn, each) for name, each in weights.items()}
    means = {name: round(lead.these.mean, PRECISION - 3) for name, lead in leads.items()}
    most, least = max(means, key=means.__getitem__), min(reversed(means), key=means.__getitem__)
    opposite = {setting: -weight for setting, weight in weights[most].items()}
    return Pair(method, other, leads, most, least, combined(drawn, weights[least] | opposite))


def _ranks(table: pd.Series, methods: Sequence[str], conventions: Sequence[str]) -> dict[str, dict[str, int]]:
    """{method: {convention: its rank}}; ties share the better rank."""
    means = table.groupby(level=["setting", "method"]).mean().round(PRECISION)
    return {name: {each: 1 + int((means[each] > means[each, name]).sum()) for each in conventions} for name in methods}


def _effect(
    table: pd.Series,
    method: str,
    default: str,
    changes: Mapping[str, Contrast],
    seeds: Mapping[str, int],
    images: str,
    context: Context,
) -> str:
    parts = [f"{name}: {stated(change.these, context.decimals + 1)}" for name, change in changes.items()]
    basis = f"{count(seeds[method], 'seed')}, {images}" if method in seeds else images
    return (
        f"{context.titles[method]} has {table[method, default].mean():.{context.decimals}f} % with its default "
        f"{default}; against it, {'; '.join(parts)} (n = {basis})."
    )


def _clear(changes: Sequence[Contrast], images: str) -> str:
    clear = sum(excludes_zero(change.these) for change in changes)
    return (
        f"{clear} of {len(changes)} intervals of differences from a default exclude zero, where chance alone would "
        f"give about {0.05 * len(changes):.1f} (n = {images})."
    )


def _held(ranks: Mapping[str, Mapping[str, int]], conventions: Sequence[str], context: Context) -> str:
    parts = []
    for name, each in ranks.items():
        values = [*each.values()]
        times = [f"rank {rank} in {values.count(rank)}" for rank in sorted({*values})]
        parts.append(f"{context.titles[name]} {listed(times)}")
    return (
        f"Ranks among these methods by the number of conventions (n = {count(len(conventions), 'convention')}): "
        f"{'; '.join(parts)}."
    )


def _turned(pairs: Sequence[Pair], methods: int, images: str, context: Context) -> list[str]:
    turning, decimals = [pair for pair in pairs if pair.turns], context.decimals + 1
    changed = sum(excludes_zero(pair.change.these) for pair in turning)
    texts = [
        f"{len(turning)} of {len(pairs)} pairs of methods change order between conventions; the interval of the change "
        f"excludes zero for {changed} of them, and both orders are beyond their own intervals for "
        f"{sum(pair.clear for pair in turning)} (n = {methods} methods, {images})."
    ]
    for pair in turning:
        ends = [f"{interval(pair.leads[end].these, decimals)} with {end}" for end in (pair.most, pair.least)]
        texts.append(
            f"{context.titles[pair.method]} minus {context.titles[pair.other]}: {listed(ends)}; the change is "
            f"{stated(pair.change.these, decimals)} (n = {images})."
        )
    return texts


def _accuracies(table: pd.Series, methods: Sequence[str], conventions: Sequence[str], context: Context) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"Method": context.titles[name]}
            | {each: spread(table[name, each], context.decimals) for each in conventions}
            for name in methods
        ]
    )


def _differences(changes: Changes, conventions: Sequence[str], context: Context) -> pd.DataFrame:
    decimals = context.decimals + 1
    return pd.DataFrame(
        [
            {"Method": context.titles[name]}
            | {each: interval(of[each].these, decimals) if each in of else DEFAULT for each in conventions}
            for name, of in changes.items()
        ]
    )


def _ranked(ranks: Mapping[str, Mapping[str, int]], context: Context) -> pd.DataFrame:
    return pd.DataFrame([{"Method": context.titles[name], **each} for name, each in ranks.items()])


def _pairs(pairs: Sequence[Pair], conventions: Sequence[str], context: Context) -> pd.DataFrame:
    decimals = context.decimals + 1
    return pd.DataFrame(
        [
            {"Pair": f"{context.titles[pair.method]} minus {context.titles[pair.other]}"}
            | {each: interval(pair.leads[each].these, decimals) for each in conventions}
            | {"Change": interval(pair.change.these, decimals), "Order": "changes" if pair.turns else "stays"}
            for pair in pairs
        ]
    )


@mpl.rc_context(STYLE)
def _figure(
    table: pd.Series, changes: Changes, looks: Mapping[str, Style], conventions: Sequence[str], width: float
) -> Figure:
    figure = Figure((width, 0.5 * width), layout="constrained")
    left, right = figure.subplots(1, 2)
    for index, (name, of_method) in enumerate(changes.items()):
        look, offset = looks[name], SHIFT * (index - (len(changes) - 1) / 2)
        kind = {"color": look.colour, "marker": look.marker, "linestyle": look.line}
        left.plot(range(len(conventions)), [table[name, each].mean() for each in conventions], label=look.title, **kind)
        differences = {place: of_method[each].these for place, each in enumerate(conventions) if each in of_method}
        means, lows, highs = (
            [getattr(difference, part) for difference in differences.values()] for part in ("mean", "low", "high")
        )
        below = [mean - low for mean, low in zip(means, lows, strict=True)]
        above = [high - mean for mean, high in zip(means, highs, strict=True)]
        places = [place + offset for place in differences]
        right.errorbar(places, means, (below, above), elinewidth=0.8, **(kind | {"linestyle": "none"}))
    right.axhline(0, color="#777777", linewidth=0.6)
    left.set(ylabel="average accuracy (%)")
    right.set(ylabel="minus the method's default (points)")
    for axes in (left, right):
        axes.set_xticks(range(len(conventions)), [each.replace("/", "/\n") for each in conventions])
        axes.grid(axis="y", alpha=0.3, linewidth=0.5)
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=6)
    return figure
