"""SAMerging against every method: differences from the counts, intervals and p to the digit.

The report draws test images, seeds and tasks with `scipy.stats.bootstrap`. Its draws follow from the definition of the
generator: NumPy's default one with seed 0 gives BATCH draws at a time, of the members of every axis in turn, as many as
it has, with replacement; an axis of one member is not drawn. Axes are the sets of seeds in the order of the table, then
the images of every task, or the tasks. Here the members are weighted by how often they are drawn.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pipeline.audit import printed
from pipeline.audit.evidence import Evidence
from pipeline.audit.finding import Finding, Tally
from pipeline.audit.known import MAIN, Known
from pipeline.audit.printed import agrees
from pipeline.audit.recompute import CEILING

DRAWS, BATCH = 10_000, 250
TAIL = 0.025
SURE = 0.05
NUMBER = re.compile(r"[+−-]?\d+(?:\.\d+)?|–")
"""A dash where it is undefined."""
DECIMALS = 10
"""Of a point; beyond them a difference is rounding of floating-point numbers."""
EDGES = {"These tasks": ("difference low", "difference high"), "Tasks like these": ("like low", "like high")}

Right = Mapping[str, Mapping[str, np.ndarray]]
"""{method: {task: bool [S, n]}}."""


@dataclass(frozen=True)
class Drawn:
    """Differences in points."""

    images: np.ndarray
    """[DRAWS, T]: test images and seeds are drawn."""
    tasks: np.ndarray
    """[DRAWS], of averages: tasks and seeds are drawn."""

    @property
    def averages(self) -> np.ndarray:
        """[DRAWS]: test images and seeds are drawn."""
        return self.images.mean(1).round(DECIMALS)


def check(evidence: Evidence, known: Known) -> Finding:
    """reports/tables/<suite>-comparisons.csv and what Markdown prints of it."""
    path = f"reports/tables/{known.suite}-comparisons.csv"
    tally, table = Tally(f"{known.suite}: comparisons", f"numbers of {path} and its Markdown"), evidence.table(path)
    if table is None:
        tally.absent.append(path)
        return tally.finding()
    rows = {row["method"]: row for row in table.to_dict("records")}
    for method, row in rows.items():
        if method not in known.values:
            tally.expect(False, f"{path}: no scores of {method}")
            continue
        _row(tally, known, method, row, path)
    found = right(evidence, known)
    if found is None:
        tally.absent.append("answers to single images: intervals, p")
    else:
        _chance(tally, {method: row for method, row in rows.items() if row.get("difference")}, known, found, path)
    _printed(tally, evidence, known, rows)
    return tally.finding()


def right(evidence: Evidence, known: Known) -> Right | None:
    """Which images were answered rightly, of the methods of the table; None if they are not at hand."""
    packed = evidence.arrays(f"reports/scores/{known.suite}-answers.npz")
    if packed is None:
        return None
    return {
        method: {
            task: np.unpackbits(packed[f"{method}/{task}"], axis=1, count=known.totals[task]) for task in known.tasks
        }
        for method in known.titles.values()
        if f"{method}/{known.tasks[0]}" in packed
    }


def _row(tally: Tally, known: Known, method: str, row: Mapping[str, str], path: str) -> None:
    """Everything that follows from counts alone."""
    where = f"{path}: {method}"
    if row.get("difference"):
        gain = known.accuracies[MAIN].mean(0) - known.accuracies[method].mean(0)
        expected = dict(zip(known.tasks, gain.tolist(), strict=True)) | {"difference": float(gain.mean())}
        expected |= {
            "seeds": len(known.seeds[MAIN]),
            "runs": len(known.seeds[method]),
            "images": sum(known.totals.values()),
        }
        for name, value in expected.items():
            tally.expect(agrees(row[name], value), f"{where}, {name} is {row[name]}, the scores give {value:.6f}")
        tasks = [[float(row[f"{task} {end}"]) for task in known.tasks] for end in ("low", "high")]
        won, lost = sum(low > 0 for low in tasks[0]), sum(high < 0 for high in tasks[1])
        tally.expect(
            [row["won"], row["lost"]] == [str(won), str(lost)], f"{where}: won {row['won']}, lost {row['lost']}"
        )
        tally.expect(
            row["verdict"] == _verdict(row), f"{where} is “{row['verdict']}”, its numbers say “{_verdict(row)}”"
        )
    if "iqm" in row and CEILING in known.accuracies:
        top = known.accuracies[CEILING].mean(0)
        runs = np.sort((known.accuracies[method] / np.where(top > 0, top, np.nan)).ravel())
        cut = int(0.25 * len(runs))
        value = 100 * float(runs[cut : len(runs) - cut].mean())
        tally.expect(agrees(row["iqm"], value), f"{where}, iqm is {row['iqm']}, the scores give {value:.6f}")
        tally.absent.append("intervals of IQM")


def _verdict(row: Mapping[str, str]) -> str:
    """What p and the interval of tasks like these allow to say."""
    if float(row["p"]) >= SURE:
        return "no difference shown"
    beyond = float(row["like low"]) > 0 or float(row["like high"]) < 0
    word = "better" if float(row["difference"]) > 0 else "worse"
    return f"{word} on these tasks{' and on tasks like these' * beyond}"


def _chance(tally: Tally, rows: Mapping[str, Mapping[str, str]], known: Known, found: Right, path: str) -> None:
    """Intervals and p."""
    drawn = differences(known, found)
    compared = {method: row for method, row in rows.items() if method in drawn}
    tally.absent += [f"answers of {method}" for method in rows if method not in drawn]
    p = holm([p_value(drawn[method].averages) for method in compared])
    for (method, row), adjusted in zip(compared.items(), p, strict=True):
        one, names = drawn[method], [f"{task} " for task in known.tasks]
        ends = dict(zip(("difference ", "like ", *names), (one.averages, one.tasks, *one.images.T), strict=True))
        expected = {"p": adjusted} if len(compared) == len(rows) else {}
        for name, draws in ends.items():
            low, high = np.quantile(draws.round(DECIMALS), (TAIL, 1 - TAIL))
            expected |= {f"{name}low": float(low), f"{name}high": float(high)}
        for name, value in expected.items():
            right_one = agrees(row[name], value)
            tally.expect(right_one, f"{path}: {method}, {name} is {row[name]}, the answers give {value:.6f}")


def differences(known: Known, found: Right) -> dict[str, Drawn]:
    """Draws of SAMerging minus every other method."""
    kinds = [*dict.fromkeys(known.seeds[method] for method in found)]
    sizes = {task: known.totals[task] for task in known.tasks}
    right = {task: np.concatenate([found[method][task] for method in found]).T.astype(np.float32) for task in sizes}
    lasts = np.cumsum([len(known.seeds[method]) for method in found])
    parts = {method: slice(last - len(known.seeds[method]), last) for method, last in zip(found, lasts, strict=True)}
    images = {method: np.empty((DRAWS, len(sizes))) for method in found}
    tasks = {method: np.empty(DRAWS) for method in found}
    drawing, other = np.random.default_rng(0), np.random.default_rng(0)
    for start in range(0, DRAWS, BATCH):
        batch = slice(start, start + BATCH)
        seeds = {kind: _often(drawing, len(kind)) / len(kind) for kind in kinds}
        for place, (task, size) in enumerate(sizes.items()):
            shares = 100 * (_often(drawing, size).astype(np.float32) @ right[task]).astype(float) / size
            for method, part in parts.items():
                images[method][batch, place] = (seeds[known.seeds[method]] * shares[:, part]).sum(1)
        seeds = {kind: _often(other, len(kind)) / len(kind) for kind in kinds}
        weights = _often(other, len(sizes)) / len(sizes)
        for method in found:
            runs = known.accuracies[method]
            tasks[method][batch] = np.einsum("bs,st,bt->b", seeds[known.seeds[method]], runs, weights)
    return {
        method: Drawn(images[MAIN] - images[method], tasks[MAIN] - tasks[method]) for method in found if method != MAIN
    }


def _often(generator: np.random.Generator, count: int) -> np.ndarray:
    """How often every member is drawn, of `count`, in each of BATCH draws [BATCH, count]."""
    if count == 1:
        return np.ones((BATCH, 1))
    picks = generator.integers(0, count, (BATCH, count)) + count * np.arange(BATCH)[:, None]
    return np.bincount(picks.ravel(), minlength=BATCH * count).reshape(BATCH, count)


def p_value(draws: np.ndarray) -> float:
    """Two-sided, of no difference, from differences drawn [DRAWS]."""
    rarer = min((draws <= 0).sum(), (draws >= 0).sum())
    return min(1.0, 2 * (1 + int(rarer)) / (1 + len(draws)))


def holm(p: list[float]) -> list[float]:
    """p adjusted for their number (Holm 1979): the smallest times their number, the next times one less, ascending."""
    order = sorted(range(len(p)), key=p.__getitem__)
    found, least = dict.fromkeys(order, 0.0), 0.0
    for rank, index in enumerate(order):
        least = max(least, min(1.0, p[index] * (len(p) - rank)))
        found[index] = least
    return [found[index] for index in range(len(p))]


def _printed(tally: Tally, evidence: Evidence, known: Known, rows: Mapping[str, Mapping[str, str]]) -> None:
    """The Markdown prints the CSV."""
    path = f"reports/tables/{known.suite}-comparisons.md"
    for grid in printed.markdown(evidence.text(path) or ""):
        for _, title, cells in grid.rows:
            row, shown = rows.get(known.titles.get(title, ""), {}), dict(zip(grid.columns[1:], cells, strict=True))
            if not row.get("difference"):
                continue
            shows = {"Difference": ("difference",), "p (Holm)": ("p",), "Runs": ("runs",), **EDGES}
            shows |= {"IQM": ("iqm", "iqm low", "iqm high")} if "IQM" in shown else {}
            for column, names in shows.items():
                texts = NUMBER.findall(shown[column].text)
                same = len(texts) == len(names) and all(
                    agrees(text, float(row[name] or "nan")) for text, name in zip(texts, names, strict=True)
                )
                tally.expect(same, f"{path}: {title}, {column} is {shown[column].text}, its CSV has other numbers")
            said = [shown["Won : lost"].text, shown["Verdict"].text]
            tally.expect(
                said == [f"{row['won']} : {row['lost']}", row["verdict"]], f"{path}: {title} is {', '.join(said)}"
            )
