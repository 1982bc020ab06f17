"""SAMerging against every method: differences from the counts, intervals and p by another bootstrap.

The report draws test images, seeds and tasks with `scipy.stats.bootstrap`; here they are weighted by how often they are
drawn, with a generator of our own. Two bootstraps never agree to the digit, so an end of an interval is held against
the share of our draws that lies beyond it, which must be 2.5 % within CHANCE.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pipeline.audit import printed
from pipeline.audit.evidence import Evidence
from pipeline.audit.finding import Finding, Tally
from pipeline.audit.known import MAIN, Known
from pipeline.audit.printed import agrees
from pipeline.audit.recompute import CEILING

DRAWS, BATCH = 10_000, 1_000
CHANCE = 0.01
"""Four and a half standard errors of the share of 2.5 % in two bootstraps of DRAWS."""
TAIL = 0.025
SURE = 0.05
CSV_DIGITS = 6
EDGES = {"These tasks": ("difference low", "difference high"), "Tasks like these": ("like low", "like high")}

Right = Mapping[str, Mapping[str, np.ndarray]]
"""{method: {task: bool [S, n]}}."""


@dataclass(frozen=True)
class Drawn:
    """[DRAWS] differences of averages, in points."""

    images: np.ndarray
    """Test images and seeds are drawn."""
    tasks: np.ndarray
    """Tasks and seeds are drawn."""


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
    for method, row in rows.items():
        if method not in drawn:
            tally.absent.append(f"answers of {method}")
            continue
        one = drawn[method]
        for kind, draws in zip(EDGES, (one.images, one.tasks), strict=True):
            low, high = (row[name] for name in EDGES[kind])
            same = likely(draws, low, TAIL) and likely(draws, high, 1 - TAIL)
            tally.expect(
                same, f"{path}: {method}, {kind.lower()} [{low}, {high}], another bootstrap has {_ends(draws)}"
            )
    methods = [method for method in rows if method in drawn]
    if len(methods) == len(rows):
        for method, value in zip(methods, holm([p_value(drawn[method].images) for method in methods]), strict=True):
            stated = float(rows[method]["p"])
            near = abs(stated - value) <= 0.02 + 0.5 * max(stated, value)
            tally.expect(near, f"{path}: {method}, p is {stated}, another bootstrap has {value:.4f}")


def differences(known: Known, found: Right) -> dict[str, Drawn]:
    """Draws of SAMerging minus every other method; methods with the same seeds share the draws of seeds."""
    generator = np.random.default_rng(20251224)
    methods = [*found]
    kinds = {known.seeds[method] for method in methods}
    seeds = {
        kind: generator.multinomial(len(kind), np.full(len(kind), 1 / len(kind)), DRAWS) / len(kind) for kind in kinds
    }
    tasks = generator.multinomial(len(known.tasks), np.full(len(known.tasks), 1 / len(known.tasks)), DRAWS)
    images = _images(known, found, generator)

    def of(method: str) -> Drawn:
        weights = seeds[known.seeds[method]]
        own = 100 * np.einsum("bs,bst->b", weights, images[method]) / len(known.tasks)
        return Drawn(own, np.einsum("bs,st,bt->b", weights, known.accuracies[method], tasks / len(known.tasks)))

    drawn = {method: of(method) for method in methods}
    main = drawn.pop(MAIN)
    return {name: Drawn(main.images - one.images, main.tasks - one.tasks) for name, one in drawn.items()}


def _images(known: Known, found: Right, generator: np.random.Generator) -> dict[str, np.ndarray]:
    """{method: shares of right answers [DRAWS, S, T]}, the same images drawn for all methods."""
    sizes = [len(known.seeds[method]) for method in found]
    shares = np.empty((DRAWS, sum(sizes), len(known.tasks)), np.float32)
    for place, task in enumerate(known.tasks):
        stacked = np.concatenate([tasks[task] for tasks in found.values()]).astype(np.float32)
        count = stacked.shape[1]
        for start in range(0, DRAWS, BATCH):
            picks = generator.integers(count, size=(BATCH, count)) + count * np.arange(BATCH)[:, None]
            often = np.bincount(picks.ravel(), minlength=BATCH * count).reshape(BATCH, count).astype(np.float32)
            shares[start : start + BATCH, :, place] = often @ stacked.T / count
    edges = np.cumsum([0, *sizes])
    return {method: shares[:, first:last] for method, first, last in zip(found, edges, edges[1:], strict=False)}


def likely(draws: np.ndarray, end: str, share: float) -> bool:
    """Whether `share` of the draws lies below a printed end, within CHANCE and its last digit."""
    value, half = float(end.replace("−", "-")), 0.5 * 10.0 ** -len(end.partition(".")[2]) + 1e-6
    return (draws < value - half).mean() <= share + CHANCE and (draws <= value + half).mean() >= share - CHANCE


def _ends(draws: np.ndarray) -> str:
    low, high = np.quantile(draws, (TAIL, 1 - TAIL))
    return f"[{low:+.3f}, {high:+.3f}]"


def p_value(draws: np.ndarray) -> float:
    """Two-sided, of no difference, from differences drawn [DRAWS]."""
    rounded = draws.round(5)
    rarer = min((rounded <= 0).sum(), (rounded >= 0).sum())
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
            for column, names in {
                "Difference": ("difference",),
                "p (Holm)": ("p",),
                "Runs": ("runs",),
                **EDGES,
            }.items():
                texts = [text.strip() for text in shown[column].text.strip("[]").split(", ")]
                same = all(agrees(text, float(row[name])) for text, name in zip(texts, names, strict=True))
                tally.expect(same, f"{path}: {title}, {column} is {shown[column].text}, its CSV has other numbers")
            said = [shown["Won : lost"].text, shown["Verdict"].text]
            tally.expect(
                said == [f"{row['won']} : {row['lost']}", row["verdict"]], f"{path}: {title} is {', '.join(said)}"
            )
