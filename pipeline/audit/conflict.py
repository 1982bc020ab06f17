"""The study of conflict, by code that shares nothing with what made it: labels, answers, and what is stated of them.

The two tasks of a conflicting pair have the same images, the source first. The row `bound` of the second has a bit for
each image that both label alike; the labels themselves follow from the seed. A merge answers both alike: it is right
for both or neither where the labels are the same, and for one at most where they differ.

A comparison is a weighted sum of accuracies on the images of the sources, with intervals over examples and over
sources, see `pipeline.audit.intervals`. Settings are (method, degree), the mean over both tasks of a pair or over all
pairs without conflict, and (method, degree, place) of one of them.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from pipeline.audit.arithmetic import CEILING, MAIN
from pipeline.audit.contrasts import Setting, Weights, check_apart, check_derived_comparisons, compute_contrast
from pipeline.audit.draws import shuffle_pool
from pipeline.audit.finding import Finding, Text
from pipeline.audit.intervals import CHANCE, Runs
from pipeline.audit.repository import EVIDENCE
from pipeline.audit.statements import CLEAR, TWIN, Stated, describe, expect_statements
from pipeline.audit.suite import AuditedSuite

BOUND, NONE, ENTROPY = "bound", "none", "adamerging"
MEASURES = {"loss": "Distillation loss", "entropy": "Entropy"}
VERDICTS = {True: ", shown", False: ", not shown"}


def check(suite: AuditedSuite) -> list[Finding]:
    """Check the study; no finding where it was not chosen, or no study ran."""
    steps = (_check_pairs, _check_labels, _check_answers, _check_statements)
    return check_apart(suite, "conflict", "rows, labels, answers, and what is stated of them", steps)


def _check_pairs(finding: Finding, suite: AuditedSuite, rows: pd.DataFrame) -> None:
    """Check that the pairs are those of params.yaml, and that every method answered both tasks of each once."""
    params = suite.repository.params["study"]["conflict"]
    totals = {} if suite.scores is None else dict(zip(suite.scores.task, suite.scores.total.tolist(), strict=True))
    if not totals:
        finding.skip(f"scores of {suite.name} (numbers of examples)")
    places = [place for place in params["sources"] if place < len(suite.tasks)]
    expected = []
    for place in places:
        source, others = suite.tasks[place], [*suite.tasks[place + 1 :], *suite.tasks[:place]]
        expected += [(source, f"{source}-{degree:g}", f"{degree:g}") for degree in params["degrees"]]
        expected += [(source, other, "") for other in others[: params["partners"]]]
    pairs = rows.groupby(["source", "partner", "degree"], sort=False)
    names = [tuple(map(str, name)) for name, _ in pairs]
    finding.expect(names == expected, f"the pairs are {names}, params.yaml gives {expected}")
    merges: set[tuple[str, ...]] = set()
    for name, pair in pairs:
        source, partner, degree = map(str, name)
        known = [BOUND, CEILING] if degree else [CEILING]
        methods = [*dict.fromkeys(pair["method"])]
        finding.expect(methods[: len(known)] == known, f"{source}, {partner}: no rows of {', '.join(known)} first")
        merges.add((*methods[len(known) :],))
        for method, part in pair.groupby("method", sort=False):
            both = f"expected {source} and {partner} once"
            tasks = part["task"].tolist()
            finding.expect(tasks == [source, partner], f"{source}, {partner}, {method}: tasks {tasks}, {both}")
            sizes = {totals.get(task if task in suite.tasks else source) for task in tasks} if totals else set()
            scored = {*part["total"]} <= sizes or not totals
            finding.expect(scored, f"{source}, {partner}, {method}: scored on {part['total'].tolist()} examples")
            seeds = {*part["seed"]} <= {-1, params["seed"]}
            finding.expect(seeds, f"{source}, {partner}, {method}: seeds {part['seed'].tolist()} are no seed of it")
    finding.expect(len(merges) == 1, f"pairs are merged by different methods: {sorted(merges)}")


def _check_labels(finding: Finding, suite: AuditedSuite, rows: pd.DataFrame) -> None:
    """Check which images have two labels: nested, and those of the classes that the seed draws."""
    params, split = suite.repository.params["study"]["conflict"], suite.repository.params["evaluation_split"]
    for source, part in rows[rows["method"] == BOUND].groupby("source", sort=False):
        labels, before = suite.labels(split, str(source)), None
        if labels is None:
            finding.skip(f"labels of {source}")
        for degree, pair in part.groupby("degree", sort=False):
            perfect, alike = _bits(pair, str(source)), _bits(pair, f"{source}-{degree}")
            where = f"{source}, q = {degree}"
            finding.expect(bool(perfect.all()), f"{where}: the bound is not right on every image of the source")
            nested = before is None or not (alike & ~before).any()
            finding.expect(nested, f"{where}: images have one label again that had two at a smaller q")
            before = alike
            if labels is not None:
                classes = int(labels.max()) + 1
                number = max(2, int(float(str(degree)) * classes + 0.5)) if float(str(degree)) else 0
                drawn = shuffle_pool(classes, params["seed"], f"classes of {source}")[:number]
                same = np.array_equal(alike, ~np.isin(labels, drawn))
                finding.expect(same, f"{where}: other images have two labels than those of the classes that were drawn")


def _check_answers(finding: Finding, suite: AuditedSuite, rows: pd.DataFrame) -> None:
    """Check that no merge answers the tasks of a conflicting pair differently, and that experts answer once."""
    for (source, degree), pairs in rows[rows["degree"] != ""].groupby(["source", "degree"], sort=False):
        alike = _bits(pairs[pairs["method"] == BOUND], f"{source}-{degree}")
        for method, part in pairs.groupby("method", sort=False):
            first, second = _bits(part, str(source)), _bits(part, f"{source}-{degree}")
            possible = not ((first ^ second) & alike).any() and not (first & second & ~alike).any()
            complaint = f"{source}, q = {degree}, {method}: answers that no single model gives"
            finding.expect(possible or method == CEILING, complaint)
    for task, part in rows[rows["method"] == CEILING].groupby("task"):
        finding.expect(part["right"].nunique() == 1, f"the expert of {task} answers differently from pair to pair")


def _bits(rows: pd.DataFrame, task: str) -> np.ndarray:
    """Return the answers to the only row of a task, bool [n]."""
    (row,) = rows[rows["task"] == task].to_dict("records")
    return row["answers"][: row["total"]].astype(bool)


def _check_statements(finding: Finding, suite: AuditedSuite, rows: pd.DataFrame) -> None:
    """Compute every comparison again; check the file of comparisons, the tables and the sentences."""
    named = rows[(rows["degree"] != "") | (rows["task"] == rows["source"])].replace({"degree": {"": NONE}})
    groups: dict[Setting, pd.DataFrame] = {
        tuple(map(str, pair)): part for pair, part in named.groupby(["method", "degree"], sort=False)
    }
    runs: dict[Setting, Runs] = {
        (*pair, str(place)): side for pair, part in groups.items() for place, side in enumerate(_read_sides(part))
    }
    sides: dict[Setting, list[Setting]] = {pair: [key for key in runs if key[:2] == pair] for pair in groups}
    clusters = suite.clusters(f"{EVIDENCE}/studies/{suite.name}", [*dict.fromkeys(named["source"])])
    values: dict[str, dict[str, float]] = {}
    weights = dict(_list_comparisons([*groups]))
    for name, sums in weights.items():
        spread: dict[Setting, float] = {}
        for setting, weight in sums.items():
            for side in sides.get(setting, [setting]):
                spread[side] = weight / len(sides.get(setting, [setting]))
        values[name] = compute_contrast(runs, spread, clusters)
    check_derived_comparisons(finding, suite, "conflict", weights, values)
    averages: dict[Setting, float] = {
        pair: float(np.mean([runs[side].accuracies.mean() for side in settings])) for pair, settings in sides.items()
    }
    gaps: dict[Setting, float] = {
        pair: float(np.abs(runs[settings[0]].accuracies - runs[settings[1]].accuracies).mean())
        for pair, settings in sides.items()
        if pair[1] != NONE
    }
    each: dict[Setting, np.ndarray] = {
        pair: np.mean([runs[side].accuracies[0, 0] for side in settings], axis=0) for pair, settings in sides.items()
    }
    stated = _state(values, averages, gaps, each, named, suite)
    names = ["accuracy", "pairs", "changes", "distillation", "served", "warnings"]
    expect_statements(finding, suite, "Conflict", [f"conflict-{name}" for name in names], stated)


def _read_sides(part: pd.DataFrame) -> Iterator[Runs]:
    """Yield the answers to every source's first task, then to its second, in the order of the rows."""
    sources = [list(rows.to_dict("records")) for _, rows in part.groupby("source", sort=False)]
    for rows in zip(*sources, strict=True):
        seeds = tuple({row["seed"] for row in rows})
        yield Runs(seeds, [row["answers"][: row["total"]].reshape(1, 1, -1) for row in rows])


def _list_comparisons(settings: Sequence[Setting]) -> Iterator[tuple[str, Weights]]:
    """Yield the name and the weights of every comparison, in the order of the report."""
    methods = [method for method in dict.fromkeys(method for method, _ in settings) if method not in (BOUND, CEILING)]
    degrees = [degree for degree in dict.fromkeys(degree for _, degree in settings) if degree != NONE]
    grid, plain = [*itertools.product(methods, degrees)], (TWIN, NONE)
    for name, q in grid:
        yield f"below: {name}, {q}", {(BOUND, q): 1, (name, q): -1}
    for name, q in grid:
        yield f"change: {name}, {q}", {(name, q): 1, (name, NONE): -1}
    for name, q in grid:
        if name != TWIN:
            yield f"more: {name}, {q}", {(TWIN, q): 1, plain: -1, (name, q): -1, (name, NONE): 1}
    for q in degrees:
        yield f"sam: {MAIN}, {q}", {(MAIN, q): 1, (TWIN, q): -1}
    for name, q in grid:
        yield f"gap: {name}, {q}", {(name, q, "0"): 1, (name, q, "1"): -1}


def _state(
    values: Mapping[str, Mapping[str, float]],
    averages: Mapping[Setting, float],
    gaps: Mapping[Setting, float],
    each: Mapping[Setting, np.ndarray],
    named: pd.DataFrame,
    suite: AuditedSuite,
) -> Stated:
    titles = suite.repository.json(f"{EVIDENCE}/studies/{suite.name}/titles.json")
    methods = [name for name in dict.fromkeys(named["method"]) if name not in (BOUND, CEILING)]
    degrees = [degree for degree in dict.fromkeys(named["degree"]) if degree != NONE]
    sources, last = named["source"].nunique(), degrees[-1]
    size: list[Any] = [sources, int(named.groupby("source")["total"].first().sum())]
    columns = [f"q = {q}" for q in degrees]
    shares = [200 - 2 * averages[BOUND, q] for q in degrees]
    measured = named[named["loss"] != ""].astype({"loss": float, "entropy": float})

    def numbers(name: str) -> list[float]:
        return [values[name][key] for key in ("mean", "low", "high", "like low", "like high")]

    def judged(name: str) -> list[Any]:
        _, *ends = numbers(name)
        shown = all(low > 0 or high < 0 for low, high in (ends[:2], ends[2:]))
        return [numbers(name), VERDICTS[shown]]

    def served(name: str, q: str) -> list[float]:
        return [gaps[name, q], values[f"gap: {name}, {q}"]["won"], values[f"gap: {name}, {q}"]["lost"]]

    def by_degree(kind: str, name: str) -> list[Any]:
        return [[f"q = {q}", judged(f"{kind}: {name}, {q}")] for q in degrees]

    others = [name for name in methods if name != TWIN]
    means = {name: [averages[name, q] for q in (NONE, *degrees) if (name, q) in averages] for name in (BOUND, CEILING)}
    accuracies = [["Method", "No conflict", columns], ["Images with two labels", shares], ["Bound", means[BOUND]]]
    accuracies.append([titles[CEILING], means[CEILING]])
    accuracies += [[titles[name], [averages[name, q] for q in (NONE, *degrees)]] for name in methods]
    ends = measured[measured["method"] == TWIN].groupby(["source", "degree"])["loss"].mean()
    pairs: list[Text] = [["Pair", "Two labels", "Bound", titles[CEILING], [titles[name] for name in methods], "Loss"]]
    for place, source in enumerate(dict.fromkeys(named["source"])):
        for q in degrees:
            row = [each[name, q][place] for name in (BOUND, CEILING, *methods)]
            pairs.append([f"{source}, q = {q}", 200 - 2 * row[0], row, ends[source, q]])
    changes, rivals = (
        [["Method", columns], *([titles[name], [numbers(f"{kind}: {name}, {q}") for q in degrees]] for name in rows)]
        for kind, rows in (("change", methods), ("more", others))
    )
    balance = [["Method", columns], *([titles[name], [served(name, q) for q in degrees]] for name in methods)]
    nats = measured.groupby(["method", "degree"])[[*MEASURES]].mean()
    warnings = [["Method", "No conflict", columns]]
    warnings += [[titles[name], [nats.loc[(name, q)].tolist() for q in (NONE, *degrees)]] for name in methods]
    reach = [
        [f"q = {q}", share, averages[BOUND, q], averages[CEILING, q]] for q, share in zip(degrees, shares, strict=True)
    ]
    clear = [name for name, value in values.items() if name.startswith("more") and _excludes_zero(value)]
    sentences: list[Text] = [
        [reach, size],
        [f"q = {last}", [[titles[name], judged(f"below: {name}, {last}")] for name in methods], size],
        *([titles[name], by_degree("change", name), size] for name in methods),
        [titles[TWIN], f"q = {last}", [[titles[name], judged(f"more: {name}, {last}")] for name in others], size],
        [len(clear), len(others) * len(degrees), CHANCE * len(others) * len(degrees), size],
        [titles[MAIN], titles[TWIN], by_degree("sam", MAIN), size],
        [f"q = {last}", [[titles[name], served(name, last)] for name in methods], size],
    ]
    for measure, title in MEASURES.items():
        for name in (TWIN, ENTROPY):
            grid = measured[measured["method"] == name].groupby(["degree", "source"])[measure].mean().unstack("source")
            parts = []
            for q in degrees:
                *spread, verdict = describe((grid.loc[q] - grid.loc[NONE]).to_numpy()[None])
                parts.append([f"q = {q}", spread, VERDICTS[verdict == CLEAR]])
            sentences.append([title, titles[name], nats.loc[(name, NONE), measure], parts, sources])
    sentences.append([size[1], sources, sources])
    return [accuracies, pairs, changes, rivals, balance, warnings, sentences]


def _excludes_zero(value: Mapping[str, float]) -> bool:
    return value["low"] > 0 or value["high"] < 0
