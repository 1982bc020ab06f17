"""The rows of the studies, and every comparison that they state, by code that shares nothing with what made them.

Rows are whole and possible, and their counts are those of the answers to single images. A study that keeps answers
writes what it compares, reports/studies/<suite>/tables/<study>-contrasts.csv: a weight for every setting, the mean of
the weighted accuracies, and its intervals. These are computed again from the rows, to the digit; for the draws see
`pipeline.audit.arithmetic`: of the replicates, then of the seeds, then of the images of every task or of the tasks.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from pipeline.audit.arithmetic import BATCH, DECIMALS, TAIL, shares
from pipeline.audit.finding import Finding, Tally
from pipeline.audit.images import tasks_of
from pipeline.audit.repository import EVIDENCE, Repository, RepositoryError, integers

DRAWS = 2_000
CLOSE = 1e-7
"""Share of a number, or of a point, that its printed digits may be off."""
DIGITS = re.compile(r"-?\d+(\.\d+)?(e-?\d+)?")
WHOLE = (
    *("seed", "k", "samples", "correct", "total", "merges", "passed", "severity", "size", "merged", "published"),
    *("default", "replicate"),
)
VARIED = (
    *("setting", "k", "method", "knob", "value", "corruption", "severity", "subset", "split", "replicate"),
    "seed",
)
"""Columns that tell one run from another."""
APART = ("conventions", "sensitivity")
"""Studies that draw the compared settings alone; the others draw all settings together, each set of seeds an axis."""
PARTS = ("robustness", "landscape")
"""Studies that score a part of the test images, or other images."""
SETTINGS: Mapping[str, Sequence[str]] = {
    "ablation": ("objective", "sharpness", "granularity"),
    "efficiency": ("method", "k"),
    "protocol": ("method", "k", "setting"),
    "flatness": ("setting",),
    "sensitivity": ("method", "knob", "value"),
    "replicates": ("method",),
    "conventions": ("method", "setting"),
}
"""Studies that keep answers, and the columns that their settings are values of."""


def check(repository: Repository, suite: str) -> list[Finding]:
    """A finding per study; one alone where there is none."""
    folder = f"{EVIDENCE}/studies/{suite}"
    studies = sorted({path.removeprefix(f"{folder}/").partition("/")[0] for path in repository.names(folder, ".csv")})
    studies = [name.removesuffix(".csv") for name in studies if name != "scores.csv"]
    if not studies:
        return [Tally(f"{suite}: studies", "rows of studies", absent=[folder]).finding()]
    return [_study(repository, suite, study) for study in studies]


def _study(repository: Repository, suite: str, study: str) -> Finding:
    tally = Tally(f"{suite}: {study}", "rows and comparisons")
    folder, tasks = f"{EVIDENCE}/studies/{suite}", tasks_of(repository, suite)
    paths = [f"{folder}/{study}.csv"] if repository.text(f"{folder}/{study}.csv") else []
    for path in paths or repository.names(f"{folder}/{study}", ".csv"):
        try:
            rows = read(repository.table(path))
        except ValueError as error:
            tally.expect(False, f"{path}: counts must be whole, answers hexadecimal ({error})")
            continue
        tally.compared += len(rows)
        tally.wrong += [f"{path}, {complaint}" for complaint in _odd(rows, _scored(repository, suite, study), tasks)]
        if not tally.wrong and study in SETTINGS and len(rows):
            _stated(tally, repository, f"reports/studies/{suite}/tables/{study}-contrasts.csv", rows, study, tasks)
    if study not in SETTINGS:
        tally.absent.append("differences of numbers that are no answers to single images, but by rendering again")
    return tally.finding()


def read(table: pd.DataFrame) -> pd.DataFrame:
    """The rows with numbers, seed -1 for none, and `answers` where a study keeps them; ValueError if they are none."""
    kinds = dict.fromkeys((name for name in WHOLE if name in table), "int64")
    rows = table.replace({"seed": {"": "-1"}}).astype(kinds)
    if "right" in rows:
        rows["answers"] = [np.unpackbits(np.frombuffer(bytes.fromhex(digits), np.uint8)) for digits in rows.right]
    return rows


def _scored(repository: Repository, suite: str, study: str) -> dict[str, int]:
    """{task: images} that the study must have scored; empty where it scores others."""
    scores = integers(repository, suite)
    return {} if scores is None or study in PARTS else scores.groupby("task").total.first().to_dict()


def _odd(rows: pd.DataFrame, scored: Mapping[str, int], tasks: Sequence[str]) -> Iterator[str]:
    """Counts beyond their totals, other totals than those scored, bits that do not fit, runs without a task."""
    for row in rows.itertuples() if "total" in rows else ():
        where = f"row {row.Index + 2}"
        if not 0 <= row.correct <= row.total or row.total < 1:
            yield f"{where}: {row.correct} of {row.total} correct"
        elif scored and row.total != scored.get(row.task):
            yield f"{where}: {row.task} scored on {row.total} images, the suite has {scored.get(row.task)}"
        elif "answers" in rows and (len(row.answers) != 8 * -(-row.total // 8) or row.answers[row.total :].any()):
            yield f"{where}: {len(row.answers)} bits of `right` do not fit {row.total} images"
        elif "answers" in rows and row.answers.sum() != row.correct:
            yield f"{where}: {row.correct} correct, but `right` has {row.answers.sum()} ones"
    if {"total", "method"} <= {*rows} or "answers" in rows:
        for run, part in rows.groupby([name for name in VARIED if name in rows]):
            if sorted(part.task) != sorted(tasks):
                name, expected = " ".join(map(str, run)), f"expected each of {', '.join(tasks)} once"
                yield f"{name}: tasks {', '.join(part.task)}, {expected}"


def _stated(
    tally: Tally, repository: Repository, path: str, rows: pd.DataFrame, study: str, tasks: Sequence[str]
) -> None:
    """Every comparison of a study that keeps answers."""
    table = repository.table(path)
    if table is None or "answers" not in rows:
        tally.absent.append(path if table is None else "answers to single images (`right`)")
        return
    if study == "ablation":
        rows[[*SETTINGS[study]]] = rows.setting.str.split("/", expand=True)
    first = rows[rows.replicate == 0] if "replicate" in rows else rows
    for row in table.to_dict("records"):
        weights = {tuple(map(str, setting)): weight for *setting, weight in json.loads(row["weights"])}
        part = first if row["replicates"] == "first" else rows
        drawn = part.groupby([*SETTINGS[study]], sort=False).seed
        axes = [] if study in APART else [tuple(sorted(seeds.unique().tolist())) for _, seeds in drawn]
        try:
            expected = computed(part, SETTINGS[study], weights, tasks, axes)
        except (KeyError, RepositoryError) as error:
            tally.expect(False, f"{path}: {row['name']} compares runs that are not there ({error})")
            continue
        which = row["name"]
        if "replicate" in rows:  # orders of methods count no tasks won, and draw no tasks on one replicate
            which = f"{which} ({row['replicates']} replicates)"
            unstated = ("won", "lost", *["like low", "like high"] * (row["replicates"] == "first"))
            expected = {name: value for name, value in expected.items() if name not in unstated}
        for name, value in expected.items():
            text = row.get(name, "")
            close = bool(DIGITS.fullmatch(text)) and abs(float(text) - value) <= CLOSE * max(1.0, abs(value))
            tally.expect(close, f"{path}: {which}, {name} is {text or 'missing'}, the rows give {value:.10g}")


def computed(
    rows: pd.DataFrame,
    columns: Sequence[str],
    weights: Mapping[tuple[str, ...], float],
    tasks: Sequence[str],
    axes: Sequence[tuple[int, ...]] = (),
) -> dict[str, float]:
    """mean, low, high, like low, like high, won and lost of the weighted sum of settings, in points.

    axes: sets of seeds that are drawn before those of the settings.
    """
    sides, seeds = _runs(rows, columns, weights, tasks)
    replicates = rows.replicate.nunique() if "replicate" in rows else 1
    axes = [*dict.fromkeys((*axes, *seeds.values()))]
    sizes = [side.shape[-1] for side in next(iter(sides.values()))]
    accuracies = {setting: np.stack([100 * task.mean(-1) for task in side], -1) for setting, side in sides.items()}
    of_images, of_tasks = np.random.default_rng(0), np.random.default_rng(0)
    images, like = np.zeros((DRAWS, len(tasks))), np.zeros(DRAWS)
    for start in range(0, DRAWS, BATCH):
        batch = slice(start, start + BATCH)
        drawn = _run_shares(of_images, replicates, axes)
        for place, size in enumerate(sizes):
            picked = 100 * shares(of_images, size)
            for setting, weight in weights.items():
                means = np.einsum("bn,rsn->brs", picked, sides[setting][place], optimize=True)
                images[batch, place] += weight * (drawn[seeds[setting]] * means).sum((1, 2))
        drawn = _run_shares(of_tasks, replicates, axes)
        picked = shares(of_tasks, len(tasks))
        for setting, weight in weights.items():
            like[batch] += weight * np.einsum("brs,rst,bt->b", drawn[seeds[setting]], accuracies[setting], picked)
    mean = sum(weight * accuracies[setting].mean() for setting, weight in weights.items())
    lows, highs = np.quantile(images.round(DECIMALS), (TAIL, 1 - TAIL), axis=0)
    edges = {"": images.mean(1), "like ": like}
    found = {"mean": float(mean), "won": float((lows > 0).sum()), "lost": float((highs < 0).sum())}
    for name, values in edges.items():
        low, high = np.quantile(values.round(DECIMALS), (TAIL, 1 - TAIL))
        found |= {f"{name}low": float(low), f"{name}high": float(high)}
    return found


def _runs(
    rows: pd.DataFrame, columns: Sequence[str], weights: Mapping[tuple[str, ...], float], tasks: Sequence[str]
) -> tuple[dict[tuple[str, ...], list[np.ndarray]], dict[tuple[str, ...], tuple[int, ...]]]:
    """Per setting the answers to every task [R, S, n] in R replicates and S seeds, and its seeds."""
    texts = rows[[*columns]].map(_plain)
    sides, seeds = {}, {}
    for setting in weights:
        part = rows[(texts == [_plain(value) for value in setting]).all(axis=1)]
        replicates = sorted(part.replicate.unique()) if "replicate" in part else [0]
        seeds[setting] = tuple(sorted(part.seed.unique().tolist()))
        if not seeds[setting]:
            raise RepositoryError(f"no rows of {', '.join(setting)}")
        keys = ["task", *["replicate"] * ("replicate" in part), "seed"]
        answers, totals = part.set_index(keys).answers, part.groupby("task").total.first()
        shape = (len(replicates), len(seeds[setting]), -1)
        sides[setting] = [
            np.stack([bits[: totals[task]] for bits in answers.loc[task].sort_index()]).reshape(shape) for task in tasks
        ]
    return sides, seeds


def _plain(value: object) -> str:
    """A value as text: 1, 1.0 and "1.0" are the same."""
    try:
        return f"{float(str(value)):g}"
    except ValueError:
        return str(value)


def _run_shares(
    generator: np.random.Generator, replicates: int, axes: Sequence[tuple[int, ...]]
) -> dict[tuple[int, ...], np.ndarray]:
    """{seeds: the share of every run in BATCH draws of replicates and of these seeds [BATCH, R, S]}."""
    drawn = shares(generator, replicates)
    return {seeds: drawn[:, :, None] * shares(generator, len(seeds))[:, None] for seeds in axes}
