"""Integer counts -> every number of a suite's CSV tables, by code that shares nothing with what made them.

For accuracies a [S, T] of S seeds and T tasks, floor and ceiling f, c [T], in per cent:

    Average     mean over tasks            Normalised   mean over tasks of a / c
    Worst task  least of the tasks         Gap closed   (mean a - mean f) / (mean c - mean f)

Intervals and p are compared to the digit, see `pipeline.audit.intervals`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from pipeline.audit.finding import Finding
from pipeline.audit.intervals import Key, Runs, Sum, weigh_runs
from pipeline.audit.repository import Repository
from pipeline.audit.rows import find_impossible
from pipeline.audit.suite import AuditedSuite

FLOOR, CEILING, MAIN = "zeroshot", "individual", "samerging"
RIVALS = ("distillation", "adamerging")
SURE = 0.05


@dataclass(frozen=True)
class Accuracies:
    """What the scores of a suite say."""

    tasks: tuple[str, ...]
    per_cent: Mapping[str, np.ndarray]
    """{method: [S, T]}, seeds ascending."""
    seeds: Mapping[str, tuple[int, ...]]
    totals: Mapping[str, int]
    """{task: examples that were scored}."""


def check(suite: AuditedSuite) -> list[Finding]:
    """Check scores, answers, copies, table, metrics and comparisons; the scores alone if they are missing or wrong."""
    whole = Finding(f"{suite.name}: scores", "integer scores are whole and possible")
    if suite.scores is None:
        return [whole.skip(f"{suite.evidence}/scores.csv, data/scores")]
    whole.compared = len(suite.scores)
    totals = dict(zip(suite.scores.task, suite.scores.total.tolist(), strict=True))
    for complaint in find_impossible(suite.scores, totals, suite.tasks):
        whole.complain(complaint)
    if whole.wrong:
        return [whole]
    accuracies = derive_accuracies(suite.scores, suite.tasks)
    return [
        whole,
        _check_answers(suite, suite.scores),
        _check_copies(suite),
        _check_table(suite, accuracies),
        _check_metrics(suite, accuracies),
        check_comparisons(suite, accuracies, "comparisons"),
        check_comparisons(suite, accuracies, "questions"),
    ]


def derive_accuracies(scores: pd.DataFrame, tasks: Sequence[str]) -> Accuracies:
    """Return the accuracies of scores that are possible."""
    per_cent, seeds = {}, {}
    places = {task: index for index, task in enumerate(tasks)}
    for method, rows in scores.groupby("method", sort=False):
        ordered = rows.assign(place=rows.task.map(places)).sort_values(["seed", "place"])
        counts = ordered[["correct", "total"]].to_numpy().reshape(-1, len(tasks), 2)
        per_cent[str(method)] = 100 * counts[..., 0] / counts[..., 1]
        seeds[str(method)] = tuple(sorted({*rows.seed}))
    totals = {str(task): int(rows.total.iloc[0]) for task, rows in scores.groupby("task")}
    return Accuracies(tuple(tasks), per_cent, seeds, totals)


def derive_values(accuracies: Accuracies, method: str) -> dict[str, np.ndarray]:
    """Return {column: [S]} of a method's tasks and derived values, NaN where undefined."""
    runs, unknown = accuracies.per_cent[method], np.full(len(accuracies.tasks), np.nan)
    floor, ceiling = (
        accuracies.per_cent[name].mean(0) if name in accuracies.per_cent else unknown for name in (FLOOR, CEILING)
    )
    span, average = ceiling.mean() - floor.mean(), runs.mean(1)
    return {
        **dict(zip(accuracies.tasks, runs.T, strict=True)),
        "Average": average,
        "Normalised": 100 * (runs / np.where(ceiling > 0, ceiling, np.nan)).mean(1),
        "Gap closed": 100 * (average - floor.mean()) / (span if span > 0 else np.nan),
        "Worst task": runs.min(1),
    }


def _check_answers(suite: AuditedSuite, scores: pd.DataFrame) -> Finding:
    """Check that correct answers, example by example, add up to the score, and are those of data/."""
    finding = Finding(f"{suite.name}: answers", "counts are those of the answers to single examples")
    path = "answers.npz"
    if suite.answers is None:
        return finding.skip(f"{suite.evidence}/{path}")
    for method, counts in scores.groupby("method", sort=False):
        source = f"data/answers/{suite.name}/{method}.npz"
        predictions = suite.repository.arrays(source)
        for task, rows in counts.groupby("task", sort=False):
            name = f"{method}/{task}"
            if name not in suite.answers:
                finding.expect(False, f"{path}: no {name}")
                continue
            total, bits = int(rows.total.iloc[0]), np.unpackbits(suite.answers[name], axis=1)
            same = bits[:, :total].sum(1).tolist() == rows.correct.tolist() and not bits[:, total:].any()
            finding.expect(same, f"{path}: {name} has other numbers of right answers than the scores")
            if predictions is not None:
                same = np.array_equal(bits[:, :total], predictions[str(task)] == predictions[f"labels/{task}"])
                finding.expect(same, f"{path}: {name} is not what {source} holds")
    return finding


def _check_copies(suite: AuditedSuite) -> Finding:
    """Check that measures, losses and coefficients of the evidence are those of data/, which dvc.lock has hashes of."""
    finding = Finding(f"{suite.name}: copies", "values of the evidence are those of data/")
    repository, folder = suite.repository, suite.evidence
    for name in ("measures.csv", "prediction.csv"):
        source = f"data/diagnostics/{suite.name}/{name}"
        if (text := repository.text(source)) is None:
            finding.skip(source)
        else:
            finding.expect(repository.text(f"{folder}/{name}") == text, f"{name} is not {source}")
    losses = repository.table(f"{folder}/losses.csv")
    for method, rows in () if losses is None else losses.groupby("method", sort=False):
        source = f"data/merges/{suite.name}/{method}/losses.csv"
        if (original := repository.table(source)) is None:
            finding.skip(source)
        else:
            same = rows.drop(columns="method").reset_index(drop=True).equals(original)
            finding.expect(same, f"losses.csv: losses of {method} are not those of {source}")
    clusters, place = repository.arrays(f"{folder}/clusters.npz") or {}, f"data/suites/{suite.name}"
    for name in (f"{split}/{task}" for split in ("validation", "test") for task in suite.tasks):
        if repository.array(f"{place}/labels/{name}.npy") is None:
            finding.skip(f"{place}/clusters/{name}.npy")
            continue
        original = repository.array(f"{place}/clusters/{name}.npy")
        same = name not in clusters if original is None else np.array_equal(clusters.get(name, ()), original)
        finding.expect(same, f"clusters.npz: {name} is not as in {place}/clusters")
    merged = f"data/merges/{suite.name}/{MAIN}"
    source, coefficients = f"{merged}/coefficients.safetensors", repository.rows(f"{folder}/coefficients.csv")
    tensors, merge = repository.tensors(source), repository.json(f"{merged}/merge.json")
    if coefficients is None or tensors is None or merge is None:
        return finding.skip(source)
    values = tensors["coefficients"][:, 0]  # [S, T, G]
    for row in coefficients:
        seed, task, tensor, text = (row[name] for name in ("seed", "task", "tensor", "coefficient"))
        place = merge["seeds"].index(int(seed)), merge["tasks"].index(task), merge["groups"].index(tensor)
        same = np.float32(text) == values[place]
        finding.expect(bool(same), f"coefficients.csv: {tensor} of {task}, seed {seed} is {text}")
    return finding


def _check_table(suite: AuditedSuite, accuracies: Accuracies) -> Finding:
    """Check every mean and deviation, title and section of the table, and that no method is left out."""
    path = f"reports/tables/{suite.name}.csv"
    finding = Finding(f"{suite.name}: table", f"numbers of {path}")
    if suite.table is None:
        return finding.skip(path)
    methods = suite.repository.params["methods"]
    refined = {*(f"{name}-svc" for name in methods.get("svc", ())), *(f"surgery-{name}" for name in methods["surgery"])}
    claimed = {*methods["merge"], *methods["calibrate"], MAIN, *refined}
    for method in sorted(claimed ^ {row["method"] for row in suite.table}):
        finding.expect(False, f"{path}: {method} is {'missing' if method in claimed else 'no method of params.yaml'}")
    for row in suite.table:
        method, title = row["method"], read_title(suite.repository, row["method"])
        if title is not None:
            complaint = f"{path}: {method} is called {row['title']}, not {title}"
            finding.expect(row["title"].rstrip(" †") == title, complaint)
        if method not in accuracies.per_cent:
            finding.expect(False, f"{path}: no scores of {method}")
            continue
        for column, runs in derive_values(accuracies, method).items():
            deviation = runs.std(ddof=1) if len(runs) > 1 else np.nan
            for name, value in ((column, runs.mean()), (f"{column} std", deviation)):
                finding.expect_number(f"{path}: {method}, {name}", row[name], value)
        same = row["runs"] == str(len(accuracies.seeds[method]))
        finding.expect(same, f"{path}: {method} has {row['runs']} runs")
        cost = suite.repository.json(f"data/costs/{suite.name}/{method}.json")
        sections = _possible_sections(methods, method, cost)
        complaint = f"{path}: {method} stands under {row['group']}, not {' or '.join(sections)}"
        finding.expect(row["group"] in sections, complaint)
    return finding


def _check_metrics(suite: AuditedSuite, accuracies: Accuracies) -> Finding:
    """Check that reports/metrics.json has every number that the scores of a suite give, and no other."""
    path = "reports/metrics.json"
    finding, metrics = Finding(f"{suite.name}: metrics", f"numbers of {path}"), suite.repository.json(path)
    if metrics is None or suite.table is None:
        return finding.skip(path if metrics is None else f"reports/tables/{suite.name}.csv")
    means = {method: runs.mean() for method, runs in accuracies.per_cent.items()}
    data_free = [means[row["method"]] for row in suite.table if row["group"] == "Data-free"]
    expected = {MAIN: means[MAIN], "gap_closed": derive_values(accuracies, MAIN)["Gap closed"].mean()}
    expected |= {f"minus_{other}": means[MAIN] - means[other] for other in RIVALS if other in means}
    expected |= {"best_data_free": max(data_free)} if data_free else {}
    expected |= {"experts": means[CEILING]} if CEILING in means else {}
    expected = {name: float(value) for name, value in expected.items() if np.isfinite(value)}
    stated = metrics.get(suite.name, {})
    for name in sorted(expected.keys() | stated.keys()):
        number, value = stated.get(name, np.nan), expected.get(name, np.nan)
        close = abs(number - value) <= 0.005 + 1e-9
        finding.expect(close, f"{path}: {name} is {number}, the scores give {value:.4f}")
    return finding


def read_title(repository: Repository, method: str) -> str | None:
    """Return TITLE of the method's file, whose hash is in dvc.lock; None if the file is missing."""
    name = method.removeprefix("surgery-").removesuffix("-svc")
    title = re.search(r'^TITLE = "(.*)"$', repository.text(f"pipeline/methods/{name}.py") or "", re.MULTILINE)
    if title is None:
        return None
    return {name: title[1], f"{name}-svc": f"{title[1]} + SVC"}.get(method, f"Surgery on {title[1]}")


def _possible_sections(methods: Mapping[str, Sequence[str]], method: str, cost: Mapping[str, Any] | None) -> list[str]:
    """Return the sections that a method may stand in, by its place in params.yaml and what it needs at inference."""
    if method in (FLOOR, CEILING):
        return ["Floor and ceiling, not merged"]
    data_free = method.removesuffix("-svc") in methods["merge"]
    more, alone = "More than one model at inference", "Data-free" if data_free else "Calibrated"
    if cost is None:
        return [alone, more]
    if cost["encoders"] == 1 and not cost["extra_bytes"]:
        return [alone]
    return [alone, more] if method in methods["calibrate"] else [more]  # tuned heads are no second model


def check_comparisons(suite: AuditedSuite, accuracies: Accuracies, table: str) -> Finding:
    """Check reports/tables/<suite>-<table>.csv: SAMerging against every method, or the pairs that answer questions."""
    path = f"reports/tables/{suite.name}-{table}.csv"
    finding, rows = Finding(f"{suite.name}: {table}", f"numbers of {path}"), suite.repository.rows(path)
    if rows is None:
        return finding.skip(path)
    for row in rows:
        if unscored := [method for method in _pair(row) if method not in accuracies.per_cent]:
            finding.expect(False, f"{path}: no scores of {unscored[0]}")
        else:
            _check_counts(finding, accuracies, row, f"{path}: {' minus '.join(_pair(row))}")
    if suite.answers is None:
        return finding.skip("answers to single examples: intervals, p")
    runs = {
        method: Runs(
            accuracies.seeds[method],
            [
                np.unpackbits(suite.answers[f"{method}/{task}"], axis=1, count=accuracies.totals[task])[None]
                for task in accuracies.tasks
            ],
        )
        for method in dict.fromkeys(name for row in rows for name in _pair(row) if name in accuracies.per_cent)
    }
    compared = [row for row in rows if row["difference"] and {*_pair(row)} <= runs.keys()]
    clusters = suite.clusters(suite.evidence, accuracies.tasks)
    sums = [weigh_runs(runs, dict(zip(_pair(row), (1, -1), strict=True)), clusters) for row in compared]
    _check_intervals(finding, accuracies.tasks, sums, compared, path)
    return finding


def _pair(row: Mapping[str, str]) -> tuple[str, str]:
    """Return the methods whose difference a row has, the first minus the second."""
    return (row["method"], row["other"]) if "other" in row else (MAIN, row["method"])


def _check_counts(finding: Finding, accuracies: Accuracies, row: Mapping[str, str], where: str) -> None:
    """Check what follows from counts alone, and the verdict that the row's own numbers allow."""
    tasks, (method, other) = accuracies.tasks, _pair(row)
    if row["difference"]:
        gain = accuracies.per_cent[method].mean(0) - accuracies.per_cent[other].mean(0)
        expected = dict(zip(tasks, gain.tolist(), strict=True)) | {"difference": float(gain.mean())}
        expected |= {"seeds": len(accuracies.seeds[method]), "runs": len(accuracies.seeds[other])}
        expected["examples"] = sum(accuracies.totals.values())
        expected["won"] = sum(float(row[f"{task} low"]) > 0 for task in tasks)
        expected["lost"] = sum(float(row[f"{task} high"]) < 0 for task in tasks)
        for name, value in expected.items():
            finding.expect_number(f"{where}, {name}", row[name], value)
        verdict = _verdict(row)
        finding.expect(row["verdict"] == verdict, f"{where} is “{row['verdict']}”, its numbers say “{verdict}”")
    if "iqm" in row and CEILING in accuracies.per_cent:
        ceiling = accuracies.per_cent[CEILING].mean(0)
        runs = accuracies.per_cent[row["method"]]
        normalised = np.sort((runs / np.where(ceiling > 0, ceiling, np.nan)).ravel())
        cut = int(0.25 * len(normalised))
        value = 100 * float(normalised[cut : len(normalised) - cut].mean())
        finding.expect_number(f"{where}, iqm", row["iqm"], value)


def _verdict(row: Mapping[str, str]) -> str:
    """Return what p and the interval over tasks like these allow to claim."""
    if float(row["p"]) >= SURE:
        return "no difference shown"
    beyond = float(row["like low"]) > 0 or float(row["like high"]) < 0
    word = "better" if float(row["difference"]) > 0 else "worse"
    return f"{word} on these tasks{' and on tasks like these' * beyond}"


def _check_intervals(
    finding: Finding, tasks: Sequence[str], sums: Sequence[Sum], rows: Sequence[Mapping[str, str]], path: str
) -> None:
    """Check intervals and p."""
    adjusted = adjust_holm({_pair(row): total.average.p for row, total in zip(rows, sums, strict=True)})
    for row, total in zip(rows, sums, strict=True):
        where = f"{path}: {' minus '.join(_pair(row))}"
        bounds = {"difference": total.average, "like": total.like, **dict(zip(tasks, total.each, strict=True))}
        for name, (low, high, _) in bounds.items():
            finding.expect_number(f"{where}, {name} low", row[f"{name} low"], low)
            finding.expect_number(f"{where}, {name} high", row[f"{name} high"], high)
        finding.expect_number(f"{where}, p", row["p"], adjusted[_pair(row)])


def adjust_holm(p: Mapping[Key, float]) -> dict[Key, float]:
    """Adjust p for their number (Holm 1979): the smallest times their number, the next times one less, ascending."""
    adjusted, least = {}, 0.0
    for rank, name in enumerate(sorted(p, key=p.__getitem__)):
        least = max(least, min(1.0, p[name] * (len(p) - rank)))
        adjusted[name] = least
    return adjusted
