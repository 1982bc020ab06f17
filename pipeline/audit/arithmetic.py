"""Integer counts -> every number of a suite's CSV tables, by code that shares nothing with what made them.

For accuracies a [S, T] of S seeds and T tasks, floor and ceiling f, c [T], in per cent:

    Average     mean over tasks            Normalised   mean over tasks of a / c
    Worst task  least of the tasks         Gap closed   (mean a - mean f) / (mean c - mean f)

Intervals and p are compared to the digit. The report draws with `scipy.stats.bootstrap`, whose draws follow from the
definition of the generator: NumPy's default one with seed 0 gives BATCH draws at a time, of the members of every axis
in turn, as many as it has, with replacement; an axis of one member is not drawn. Axes are the sets of seeds in the
order of the table, then the images of every task, or the tasks. Here members are weighted by how often they are drawn.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline.audit.finding import Finding, Tally
from pipeline.audit.images import tasks_of
from pipeline.audit.repository import EVIDENCE, Repository, integers

FLOOR, CEILING, MAIN = "zeroshot", "individual", "samerging"
RIVALS = ("distillation", "adamerging")
DRAWS, BATCH = 10_000, 250
TAIL, SURE = 0.025, 0.05
DECIMALS = 10
"""Of a point; beyond them a difference is rounding of floating-point numbers."""
DIGITS = re.compile(r"-?\d+(\.\d+)?")

Right = Mapping[str, Mapping[str, np.ndarray]]
"""{method: {task: [S, n]}}, 1 for images that were answered rightly."""


@dataclass(frozen=True)
class Known:
    """What the scores of a suite say."""

    tasks: tuple[str, ...]
    accuracies: Mapping[str, np.ndarray]
    """{method: [S, T]}, in per cent, seeds ascending."""
    seeds: Mapping[str, tuple[int, ...]]
    totals: Mapping[str, int]
    """{task: images that were scored}."""


def check(repository: Repository, suite: str) -> list[Finding]:
    """All findings of a suite; the first alone where there are no scores, or impossible ones."""
    scores, tasks = integers(repository, suite), tuple(tasks_of(repository, suite))
    whole = Tally(f"{suite}: scores", "integer scores are whole and possible")
    if scores is None:
        whole.absent.append(f"{EVIDENCE}/suites/{suite}/scores.csv, data/scores")
        return [whole.finding()]
    whole.compared = len(scores)
    whole.wrong += odd(scores, tasks)
    if whole.wrong:
        return [whole.finding()]
    known = know(scores, tasks)
    packed = repository.arrays(f"{EVIDENCE}/suites/{suite}/answers.npz")
    return [
        whole.finding(),
        _answers(repository, suite, scores, packed),
        _copied(repository, suite),
        _table(repository, suite, known),
        _metrics(repository, suite, known),
        _comparisons(repository, suite, known, packed),
    ]


def odd(scores: pd.DataFrame, tasks: Sequence[str]) -> list[str]:
    """What makes scores impossible: counts beyond totals, other numbers of images, a task twice or never."""
    complaints = []
    for row in scores[(scores.correct < 0) | (scores.correct > scores.total) | (scores.total < 1)].itertuples():
        complaints.append(f"{row.method}/{row.task}: {row.correct} of {row.total} correct")
    for task, totals in scores.groupby("task").total:
        if totals.nunique() > 1:
            complaints.append(f"{task} was scored on {' and '.join(map(str, sorted(totals.unique())))} images")
    for (method, seed), rows in scores.groupby(["method", "seed"]):
        if sorted(rows.task) != sorted(tasks):
            expected = f"expected each of {', '.join(tasks)} once"
            complaints.append(f"{method}, seed {seed}: tasks {', '.join(rows.task)}, {expected}")
    return complaints


def know(scores: pd.DataFrame, tasks: Sequence[str]) -> Known:
    """Accuracies of scores that are not odd."""
    accuracies = {}
    places = {task: index for index, task in enumerate(tasks)}
    for method, rows in scores.groupby("method", sort=False):
        ordered = rows.assign(place=rows.task.map(places)).sort_values(["seed", "place"])
        counts = ordered[["correct", "total"]].to_numpy().reshape(-1, len(tasks), 2)
        accuracies[str(method)] = 100 * counts[..., 0] / counts[..., 1]
    seeds = {str(method): tuple(sorted({*rows.seed})) for method, rows in scores.groupby("method")}
    totals = {str(task): int(rows.total.iloc[0]) for task, rows in scores.groupby("task")}
    return Known(tuple(tasks), accuracies, seeds, totals)


def values(known: Known, method: str) -> dict[str, np.ndarray]:
    """{column: [S]} of a method's tasks and derived values, NaN where undefined."""
    accuracies, unknown = known.accuracies[method], np.full(len(known.tasks), np.nan)
    floor, ceiling = (
        known.accuracies[name].mean(0) if name in known.accuracies else unknown for name in (FLOOR, CEILING)
    )
    span, average = ceiling.mean() - floor.mean(), accuracies.mean(1)
    return {
        **dict(zip(known.tasks, accuracies.T, strict=True)),
        "Average": average,
        "Normalised": 100 * (accuracies / np.where(ceiling > 0, ceiling, np.nan)).mean(1),
        "Gap closed": 100 * (average - floor.mean()) / (span if span > 0 else np.nan),
        "Worst task": accuracies.min(1),
    }


def agrees(text: str, value: float) -> bool:
    """Whether printed digits are those of a number, to half a unit of the last one; empty is undefined."""
    if not text or not np.isfinite(value):
        return not text and not np.isfinite(value)
    if not DIGITS.fullmatch(text):
        return False
    return abs(float(text) - value) <= 0.5 * 10.0 ** -len(text.partition(".")[2]) + 1e-9


def _answers(
    repository: Repository, suite: str, scores: pd.DataFrame, packed: Mapping[str, np.ndarray] | None
) -> Finding:
    """The number of correct answers, image by image, is the score; and the answers are those of data/."""
    tally, path = Tally(f"{suite}: answers", "counts are those of the answers to single images"), "answers.npz"
    if packed is None:
        tally.absent.append(f"{EVIDENCE}/suites/{suite}/{path}")
        return tally.finding()
    for method, counts in scores.groupby("method", sort=False):
        given = repository.arrays(f"data/answers/{suite}/{method}.npz")
        for task, rows in counts.groupby("task", sort=False):
            if f"{method}/{task}" not in packed:
                tally.expect(False, f"{path}: no {method}/{task}")
                continue
            total, bits = int(rows.total.iloc[0]), np.unpackbits(packed[f"{method}/{task}"], axis=1)
            same = bits[:, :total].sum(1).tolist() == rows.correct.tolist() and not bits[:, total:].any()
            tally.expect(same, f"{path}: {method}/{task} has other numbers of right answers than the scores")
            if given is not None:
                same = np.array_equal(bits[:, :total], given[task] == given[f"labels/{task}"])
                tally.expect(same, f"{path}: {method}/{task} is not what data/answers/{suite}/{method}.npz holds")
    return tally.finding()


def _copied(repository: Repository, suite: str) -> Finding:
    """Measures, losses and coefficients of the evidence are those of data/, whose hashes dvc.lock holds."""
    tally, folder = Tally(f"{suite}: copies", "values of the evidence are those of data/"), f"{EVIDENCE}/suites/{suite}"
    for name in ("measures.csv", "prediction.csv"):
        source = f"data/diagnostics/{suite}/{name}"
        if (original := repository.text(source)) is None:
            tally.absent.append(source)
        else:
            tally.expect(repository.text(f"{folder}/{name}") == original, f"{name} is not {source}")
    losses = repository.table(f"{folder}/losses.csv")
    for method, rows in () if losses is None else losses.groupby("method", sort=False):
        source = f"data/merges/{suite}/{method}/losses.csv"
        if (original := repository.table(source)) is None:
            tally.absent.append(source)
        else:
            same = rows.drop(columns="method").reset_index(drop=True).equals(original)
            tally.expect(same, f"losses.csv: losses of {method} are not those of {source}")
    source, rows = (
        f"data/merges/{suite}/{MAIN}/coefficients.safetensors",
        repository.table(f"{folder}/coefficients.csv"),
    )
    tensors, about = repository.tensors(source), repository.json(f"data/merges/{suite}/{MAIN}/merge.json")
    if rows is None or tensors is None or about is None:
        tally.absent.append(source)
        return tally.finding()
    values = tensors["coefficients"][:, 0]  # [S, T, G]
    for row in rows.itertuples():
        place = (about["seeds"].index(int(row.seed)), about["tasks"].index(row.task), about["groups"].index(row.tensor))
        same = np.float32(row.coefficient) == values[place]
        tally.expect(bool(same), f"coefficients.csv: {row.tensor} of {row.task}, seed {row.seed} is {row.coefficient}")
    return tally.finding()


def _table(repository: Repository, suite: str, known: Known) -> Finding:
    """reports/tables/<suite>.csv: every mean and deviation, title and section, and no method is left out."""
    path = f"reports/tables/{suite}.csv"
    tally, table = Tally(f"{suite}: table", f"numbers of {path}"), repository.table(path)
    if table is None:
        tally.absent.append(path)
        return tally.finding()
    chosen = repository.yaml("params.yaml")["methods"]
    claimed = {*chosen["merge"], *chosen["calibrate"], MAIN, *(f"surgery-{name}" for name in chosen["surgery"])}
    for method in sorted(claimed ^ {*table.method}):
        tally.expect(False, f"{path}: {method} is {'missing' if method in claimed else 'no method of params.yaml'}")
    for row in table.to_dict("records"):
        method, title = row["method"], title_of(repository, row["method"])
        if title is not None:
            tally.expect(row["title"].rstrip(" †") == title, f"{path}: {method} is called {row['title']}, not {title}")
        if method not in known.accuracies:
            tally.expect(False, f"{path}: no scores of {method}")
            continue
        for column, runs in values(known, method).items():
            deviation = runs.std(ddof=1) if len(runs) > 1 else np.nan
            for name, value in ((column, runs.mean()), (f"{column} std", deviation)):
                tally.expect(agrees(row[name], value), f"{path}: {method}, {name} is {row[name]}, not {value:.6f}")
        tally.expect(row["runs"] == str(len(known.seeds[method])), f"{path}: {method} has {row['runs']} runs")
        allowed = _groups(chosen, method, repository.json(f"data/costs/{suite}/{method}.json"))
        allowed_text = " or ".join(allowed)
        tally.expect(row["group"] in allowed, f"{path}: {method} stands under {row['group']}, not {allowed_text}")
    return tally.finding()


def _metrics(repository: Repository, suite: str, known: Known) -> Finding:
    """reports/metrics.json: no number of a suite is missing that its scores give, none is another."""
    path = "reports/metrics.json"
    tally, stated = Tally(f"{suite}: metrics", f"numbers of {path}"), repository.json(path)
    table = repository.table(f"reports/tables/{suite}.csv")
    if stated is None or table is None:
        tally.absent.append(path if stated is None else f"reports/tables/{suite}.csv")
        return tally.finding()
    means = {method: accuracies.mean() for method, accuracies in known.accuracies.items()}
    free = [means[method] for method in table.method[table.group == "Data-free"]]
    expected = {MAIN: means[MAIN], "gap_closed": values(known, MAIN)["Gap closed"].mean()}
    expected |= {f"minus_{other}": means[MAIN] - means[other] for other in RIVALS if other in means}
    expected |= {"best_data_free": max(free)} if free else {}
    expected |= {"experts": means[CEILING]} if CEILING in means else {}
    expected = {name: float(value) for name, value in expected.items() if np.isfinite(value)}
    numbers = stated.get(suite, {})
    for name in sorted(expected.keys() | numbers.keys()):
        given, value = numbers.get(name, np.nan), expected.get(name, np.nan)
        tally.expect(abs(given - value) <= 0.005 + 1e-9, f"{path}: {name} is {given}, the scores give {value:.4f}")
    return tally.finding()


def title_of(repository: Repository, method: str) -> str | None:
    """TITLE of the method's file, which dvc.lock holds the hash of; None if it is not there."""
    name = method.removeprefix("surgery-")
    title = re.search(r'^TITLE = "(.*)"$', repository.text(f"pipeline/methods/{name}.py") or "", re.MULTILINE)
    if title is None:
        return None
    return title[1] if name == method else f"Surgery on {title[1]}"


def _groups(chosen: Mapping[str, list[str]], method: str, cost: Mapping | None) -> list[str]:
    """The sections that a method may stand in, by where params.yaml names it and what it needs at inference."""
    if method in (FLOOR, CEILING):
        return ["Floor and ceiling, not merged"]
    more, alone = "More than one model at inference", "Data-free" if method in chosen["merge"] else "Calibrated"
    if cost is None:
        return [alone, more]
    if cost["encoders"] == 1 and not cost["extra_bytes"]:
        return [alone]
    return [alone, more] if method in chosen["calibrate"] else [more]  # tuned heads are no second model


def _comparisons(repository: Repository, suite: str, known: Known, packed: Mapping[str, np.ndarray] | None) -> Finding:
    """reports/tables/<suite>-comparisons.csv: SAMerging against every method."""
    path = f"reports/tables/{suite}-comparisons.csv"
    tally, table = Tally(f"{suite}: comparisons", f"numbers of {path}"), repository.table(path)
    if table is None:
        tally.absent.append(path)
        return tally.finding()
    rows = {row["method"]: row for row in table.to_dict("records")}
    for method, row in rows.items():
        if method in known.accuracies:
            _counted(tally, known, method, row, f"{path}: {method}")
        else:
            tally.expect(False, f"{path}: no scores of {method}")
    tally.absent.append("intervals of IQM")
    if packed is None:
        tally.absent.append("answers to single images: intervals, p")
        return tally.finding()
    right = {
        method: {
            task: np.unpackbits(packed[f"{method}/{task}"], axis=1, count=known.totals[task]) for task in known.tasks
        }
        for method in rows
    }
    _drawn(tally, known, right, {method: row for method, row in rows.items() if row["difference"]}, path)
    return tally.finding()


def _counted(tally: Tally, known: Known, method: str, row: Mapping[str, str], where: str) -> None:
    """What follows from counts alone."""
    if row["difference"]:
        gain = known.accuracies[MAIN].mean(0) - known.accuracies[method].mean(0)
        expected = dict(zip(known.tasks, gain.tolist(), strict=True)) | {"difference": float(gain.mean())}
        expected |= {"seeds": len(known.seeds[MAIN]), "runs": len(known.seeds[method])}
        expected["images"] = sum(known.totals.values())
        expected["won"] = sum(float(row[f"{task} low"]) > 0 for task in known.tasks)
        expected["lost"] = sum(float(row[f"{task} high"]) < 0 for task in known.tasks)
        for name, value in expected.items():
            tally.expect(agrees(row[name], value), f"{where}, {name} is {row[name]}, the scores give {value:.6f}")
        verdict = _verdict(row)
        tally.expect(row["verdict"] == verdict, f"{where} is “{row['verdict']}”, its numbers say “{verdict}”")
    if "iqm" in row and CEILING in known.accuracies:
        top = known.accuracies[CEILING].mean(0)
        runs = np.sort((known.accuracies[method] / np.where(top > 0, top, np.nan)).ravel())
        cut = int(0.25 * len(runs))
        value = 100 * float(runs[cut : len(runs) - cut].mean())
        tally.expect(agrees(row["iqm"], value), f"{where}, iqm is {row['iqm']}, the scores give {value:.6f}")


def _verdict(row: Mapping[str, str]) -> str:
    """What p and the interval of tasks like these allow to say."""
    if float(row["p"]) >= SURE:
        return "no difference shown"
    beyond = float(row["like low"]) > 0 or float(row["like high"]) < 0
    word = "better" if float(row["difference"]) > 0 else "worse"
    return f"{word} on these tasks{' and on tasks like these' * beyond}"


def _drawn(tally: Tally, known: Known, right: Right, rows: Mapping[str, Mapping[str, str]], path: str) -> None:
    """Intervals and p."""
    images, tasks = draws(known, right)
    p = {}
    for method, row in rows.items():
        by_task, like = images[MAIN] - images[method], tasks[MAIN] - tasks[method]
        average = by_task.mean(1).round(DECIMALS)
        rarer = min((average <= 0).sum(), (average >= 0).sum())
        p[method] = min(1.0, 2 * (1 + int(rarer)) / (1 + DRAWS))
        ends = {"difference": average, "like": like, **dict(zip(known.tasks, by_task.T, strict=True))}
        for name, drawn in ends.items():
            low, high = np.quantile(drawn.round(DECIMALS), (TAIL, 1 - TAIL))
            for end, value in (("low", low), ("high", high)):
                text = row[f"{name} {end}"]
                tally.expect(
                    agrees(text, value), f"{path}: {method}, {name} {end} is {text}, the answers give {value:.6f}"
                )
    for method, value in holm(p).items():
        text = rows[method]["p"]
        tally.expect(agrees(text, value), f"{path}: {method}, p is {text}, the answers give {value:.6f}")


def draws(known: Known, right: Right) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Per method accuracies [DRAWS, T] with images and seeds drawn, and averages [DRAWS] with tasks and seeds drawn."""
    kinds = [*dict.fromkeys(known.seeds[method] for method in right)]
    images = {method: np.empty((DRAWS, len(known.tasks))) for method in right}
    tasks = {method: np.empty(DRAWS) for method in right}
    of_images, of_tasks = np.random.default_rng(0), np.random.default_rng(0)
    for start in range(0, DRAWS, BATCH):
        batch = slice(start, start + BATCH)
        seeds = {kind: shares(of_images, len(kind)) for kind in kinds}
        for place, task in enumerate(known.tasks):
            picked = 100 * shares(of_images, known.totals[task])
            for method, answers in right.items():
                images[method][batch, place] = (seeds[known.seeds[method]] * (picked @ answers[task].T)).sum(1)
        seeds = {kind: shares(of_tasks, len(kind)) for kind in kinds}
        picked = shares(of_tasks, len(known.tasks))
        for method in right:
            tasks[method][batch] = np.einsum(
                "bs,st,bt->b", seeds[known.seeds[method]], known.accuracies[method], picked
            )
    return images, tasks


def shares(generator: np.random.Generator, count: int) -> np.ndarray:
    """The share of every member in BATCH draws of as many as there are [BATCH, count]."""
    if count == 1:
        return np.ones((BATCH, 1))
    picks = generator.integers(0, count, (BATCH, count)) + count * np.arange(BATCH)[:, None]
    return np.bincount(picks.ravel(), minlength=BATCH * count).reshape(BATCH, count) / count


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """p adjusted for their number (Holm 1979): the smallest times their number, the next times one less, ascending."""
    adjusted, least = {}, 0.0
    for rank, name in enumerate(sorted(p, key=p.__getitem__)):
        least = max(least, min(1.0, p[name] * (len(p) - rank)))
        adjusted[name] = least
    return adjusted
