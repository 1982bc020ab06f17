"""The study of label spaces, by code that shares nothing with what made it: pairs, answers, and what is stated of them.

A comparison is a weighted sum of accuracies on the images of the sources, with intervals over examples and over
sources, see `pipeline.audit.intervals`. Settings are (method, partner of the source, side): the source's classes, or
the label sets of its multi-label partner.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from pipeline.audit.arithmetic import CEILING
from pipeline.audit.contrasts import (
    Setting,
    Weights,
    check_apart,
    check_derived_comparisons,
    compute_contrast,
    group_settings,
    read_runs,
)
from pipeline.audit.finding import Finding, Text
from pipeline.audit.intervals import CHANCE
from pipeline.audit.repository import EVIDENCE
from pipeline.audit.statements import CLEAR, TWIN, Stated, describe, expect_statements, tabulate
from pipeline.audit.suite import AuditedSuite

STUDY, COLUMNS = "label_spaces", ("method", "setting", "side")
SOURCE, LABELS, RELATED, SAME = "source", "labels", "related", "labels-1"
VERDICTS = {True: ", shown", False: ", not shown"}


def check(suite: AuditedSuite) -> list[Finding]:
    """Check the study; no finding where it was not chosen, or no study ran."""
    steps = (_check_pairs, _check_answers, _check_statements)
    return check_apart(suite, STUDY, "rows, pairs, answers, and what is stated of them", steps)


def _check_pairs(finding: Finding, suite: AuditedSuite, rows: pd.DataFrame) -> None:
    """Check that the pairs are those of params.yaml, and that every method answered each side of each once."""
    params = suite.repository.params["study"][STUDY]
    totals = {} if suite.scores is None else dict(zip(suite.scores.task, suite.scores.total.tolist(), strict=True))
    if not totals:
        finding.skip(f"scores of {suite.name} (numbers of examples)")
    expected = []
    for source in suite.tasks:
        others = params["others"].get(source, [""])
        if {*others} <= {*suite.tasks}:
            related = [name for pair in params["related"] if source in pair for name in pair if name != source]
            made = [(f"labels-{m}", f"{source}-{m}-labels") for m in params["labels"]]
            pairs = [(RELATED, name) for name in related if name in suite.tasks] or made
            pairs += [(f"other-{number}", other) for number, other in enumerate(others, start=1)]
            expected += [(source, *pair) for pair in pairs]
    names = [tuple(map(str, name)) for name, _ in rows.groupby(["task", "setting", "partner"], sort=False)]
    finding.expect(names == expected, f"the pairs are {names}, params.yaml gives {expected}")
    runs: set[tuple[str, ...]] = set()
    for name, pair in rows.groupby(["task", "setting"], sort=False):
        source, setting = map(str, name)
        sides = [SOURCE, LABELS] if setting.startswith(LABELS) else [SOURCE]
        runs.add(tuple(dict.fromkeys(pair["method"])))
        for method, part in pair.groupby("method", sort=False):
            where = f"{source}, {setting}, {method}"
            finding.expect(part["side"].tolist() == sides, f"{where}: {part['side'].tolist()}, expected {sides} once")
            finding.expect(
                {*part["seed"]} <= {-1, params["seed"]}, f"{where}: {part['seed'].tolist()} is no seed of it"
            )
            scored = not totals or {*part["total"]} == {totals.get(source)}
            finding.expect(scored, f"{where}: scored on {part['total'].tolist()} examples")
            values = dict(zip(part["side"], part["average_precision"], strict=True))
            possible = values.pop(SOURCE) == "" and all(0 <= float(value or -1) <= 100 for value in values.values())
            finding.expect(possible, f"{where}: average precision {part['average_precision'].tolist()}")
    same = len(runs) == 1 and next(iter(runs))[0] == CEILING
    finding.expect(same, f"pairs are merged by different methods, or without {CEILING} first: {sorted(runs)}")


def _check_answers(finding: Finding, suite: AuditedSuite, rows: pd.DataFrame) -> None:
    """Check that experts answer alike in all pairs, and that one label per image has the source's answers."""
    experts = rows[rows["method"] == CEILING]
    for source, part in experts[experts["side"] == SOURCE].groupby("task"):
        finding.expect(part["right"].nunique() == 1, f"the expert of {source} answers differently from pair to pair")
    merged = rows[(rows["setting"] == SAME) & (rows["method"] != CEILING)]
    for name, part in merged.groupby(["task", "method"]):
        source, method = map(str, name)
        finding.expect(part["right"].nunique() == 1, f"{source}, {SAME}, {method}: answers that no single model gives")


def _check_statements(finding: Finding, suite: AuditedSuite, rows: pd.DataFrame) -> None:
    """Compute every comparison again; check the file of comparisons, the tables and the sentences."""
    sources = [task for task in suite.tasks if task in {*rows["task"]}]
    clusters = suite.clusters(f"{EVIDENCE}/studies/{suite.name}", sources)
    runs = {name: read_runs(part, sources) for name, part in group_settings(rows, COLUMNS).items()}
    weights = dict(_list_comparisons([*runs]))
    values = {name: compute_contrast(runs, sums, clusters) for name, sums in weights.items()}
    check_derived_comparisons(finding, suite, STUDY, weights, values)
    names = [f"{STUDY}-accuracy", f"{STUDY}-changes"]
    expect_statements(finding, suite, "Label spaces", names, _state(values, rows, suite))


def _sort_settings(settings: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the settings of a partner on the same domain, and those of other domains."""
    return [q for q in settings if not q.startswith("other")], [q for q in settings if q.startswith("other")]


def _list_comparisons(runs: Sequence[Setting]) -> Iterator[tuple[str, Weights]]:
    """Yield the name and the weights of every comparison, in the order of the report."""
    methods = [method for method in dict.fromkeys(method for method, *_ in runs) if method != CEILING]
    shared, others = _sort_settings([*dict.fromkeys(setting for _, setting, _ in runs)])
    apart = [q for q in shared if q not in (RELATED, SAME)]
    for q in shared:
        for name in methods:
            weights: Weights = {(name, other, SOURCE): -1 / len(others) for other in others}
            yield f"change: {name}, {q}", {(name, q, SOURCE): 1, **weights}
    for q in apart if SAME in shared else ():
        for name in methods:
            yield f"labels: {name}, {q}", {(name, q, SOURCE): 1, (name, SAME, SOURCE): -1}
    for q in (q for q in shared if q != SAME):
        sides = (SOURCE, LABELS) if q in apart else (SOURCE,)
        for name in (name for name in methods if name != TWIN):
            weights: Weights = {(TWIN, q, side): 1 / len(sides) for side in sides}
            yield f"pair: {name}, {q}", {**weights, **{(name, q, side): -1 / len(sides) for side in sides}}


def _state(values: Mapping[str, Mapping[str, float]], rows: pd.DataFrame, suite: AuditedSuite) -> Stated:
    titles = suite.repository.json(f"{EVIDENCE}/studies/{suite.name}/titles.json")
    names = [name for name in dict.fromkeys(rows["method"]) if name != CEILING]
    shared, others = _sort_settings([*dict.fromkeys(rows["setting"])])
    heads = {q: "Related" if q == RELATED else f"{(m := q.split('-')[1])} label{'s' * (m != '1')}" for q in shared}
    named = {q: "the related task" if q == RELATED else f"a task of {head}" for q, head in heads.items()}
    sources, rivals = rows["task"].nunique(), [name for name in names if name != TWIN]
    size: list[Any] = [sources, int(rows.groupby("task")["total"].first().sum())]
    openings = {"change": ["another domain"], "labels": [f"a task of {heads.get(SAME)}"], "pair": [titles[TWIN]]}
    sentences: list[Text] = []
    for kind, last in openings.items():
        for q in shared:
            judged = []
            for name in names:
                if (value := values.get(f"{kind}: {name}, {q}")) is not None:
                    ends = [(value["low"], value["high"]), (value["like low"], value["like high"])]
                    shown = all(low > 0 or high < 0 for low, high in ends)
                    judged.append([titles[name], value["mean"], [*map(list, ends)], VERDICTS[shown]])
            if judged:
                sentences.append([named[q], last, judged, size])
    means = rows.groupby(["method", "setting", "side"])["accuracy"].mean()
    lines: list[list[Text]] = [["Method", "Other domains"]]
    lines += [[titles[name], np.mean([means[name, q, SOURCE] for q in others])] for name in (CEILING, *names)]
    for q, head in heads.items():
        labels = rows[(rows["setting"] == q) & (rows["side"] == LABELS)]
        grids = (
            tabulate(labels.astype({"average_precision": float}), "method", "task", "average_precision")
            if len(labels)
            else {}
        )
        lines[0] += [head, [f"{head}: label sets"] * (bool(grids) and q != SAME), [f"{head}: mAP"] * bool(grids)]
        for line, name in zip(lines[1:], (CEILING, *names), strict=True):
            line.append(means[name, q, SOURCE])
            if grids:
                line += [[means[name, q, LABELS]] * (q != SAME), grids[name].mean()]
        if grids:
            gains = []
            for name in rivals:
                *spread, verdict = describe(grids[TWIN] - grids[name])
                gains.append([titles[name], spread, VERDICTS[verdict == CLEAR]])
            ends = ["experts", grids[CEILING].mean(), titles[TWIN], grids[TWIN].mean(), titles[TWIN]]
            sentences.append([named[q], ends, gains, sources])
    clear = sum(value["low"] > 0 or value["high"] < 0 for value in values.values())
    sentences.append([clear, len(values), CHANCE * len(values), size])
    sentences.append([size[1], sources, sources])
    changes: list[Text] = [["Method", *heads.values()]]
    keys = ("mean", "low", "high", "like low", "like high")
    changes += [
        [titles[name], [[values[f"change: {name}, {q}"][key] for key in keys] for q in shared]] for name in names
    ]
    return [lines, changes, sentences]
