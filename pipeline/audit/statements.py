"""What six studies state, from their rows: tables and sentences on numbers per task or text, by other arithmetic.

The studies of the number of tasks, of robustness, of the landscape and of theory, and the rise of the loss in flatness,
have a number per task and seed, and no answers to single examples: a grid [S, T] for every method or setting. Their
intervals are over seeds and tasks, see `pipeline.audit.intervals`; the study of language has a number per text and
seed, and intervals over both. A text holds if its numbers are those that the rows give, in this order and no others,
and if names and verdicts stand in it in order; it may be worded freely.
"""

import csv
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from pipeline.audit.arithmetic import CEILING, FLOOR, MAIN
from pipeline.audit.finding import Finding, Text
from pipeline.audit.intervals import CHANCE, bound_grid, bound_grids
from pipeline.audit.repository import EVIDENCE
from pipeline.audit.suite import AuditedSuite

TWIN, PLAIN, SAM = "distillation", "plain", "sam"
SPACES = {"coefficients": "coefficients λ", "weights": "merged weights θ"}
CLEAR, UNCLEAR, SINGLE = "excludes zero", "includes zero", "no interval"

GENERAL, GENERATED = "general", ("arithmetic", "dates")
"""Of the study of language: general text, and domains whose lines have a right answer."""

Tables: TypeAlias = Mapping[str, pd.DataFrame]
"""{file of the study: its rows}."""
Grids: TypeAlias = dict[str, Any]
"""{method or setting: [S, T]}."""
Stated: TypeAlias = Sequence[Sequence[Text]]
"""The lines of every table, its head first; last, the sentences."""


def check(finding: Finding, suite: AuditedSuite, study: str, tables: Tables) -> None:
    """Check the tables and the sentences of a study of STUDIES."""
    titles = suite.repository.json(f"{EVIDENCE}/studies/{suite.name}/titles.json")
    title, names, state = STUDIES[study]
    order = {task: index for index, task in enumerate(suite.tasks)}
    tables = {
        name: rows.assign(place=rows["task"].map(order)) if "task" in rows else rows for name, rows in tables.items()
    }
    expect_statements(finding, suite, title, [f"{study}-{table}" for table in names], state(tables, titles, suite))


def expect_statements(finding: Finding, suite: AuditedSuite, title: str, names: Sequence[str], stated: Stated) -> None:
    """Count every part of the tables of these names, and of the sentences below this title."""
    repository, folder = suite.repository, f"reports/studies/{suite.name}"
    paths = *(f"{folder}/tables/{name}.csv" for name in names), f"{folder}/sentences.md"
    for path, expected in zip(paths, stated, strict=True):
        if (text := repository.text(path)) is None:
            finding.skip(path)
            continue
        if path.endswith(".csv"):
            lines, where = [" | ".join(cells) for cells in csv.reader(text.splitlines())], path
        else:
            part = re.search(rf"^### {title}\n([^#]*)", text.replace("\\", ""), re.MULTILINE)
            lines, where = part[1].replace("95 %", "").strip().split("\n") if part else [], f"{path}, {title}"
        finding.expect(len(lines) == len(expected), f"{where}: {len(lines)} lines, not {len(expected)}")
        for number, (line, parts) in enumerate(zip(lines, expected, strict=False), start=1):
            finding.expect_text(f"{where}, line {number}", line, parts)


def tabulate(rows: pd.DataFrame, by: str, column: str, value: str) -> Grids:
    """Return the means of `value`: a row per seed and a column per value of `column`, both ascending."""
    wide = rows.groupby([by, "seed", column])[value].mean().unstack(column)
    return {str(name): part.to_numpy() for name, part in wide.groupby(level=by)}


def describe(grid: np.ndarray, digits: int | None = None, bounded: bool = True) -> list[Any]:
    """Return mean, ends of the interval and verdict of a grid; mean and SINGLE of a single number, or not `bounded`.

    digits: how many significant ones are printed; without, as many decimals as there are.
    """
    if grid.size == 1 or not bounded:
        return [grid.mean(), SINGLE]
    low, high, _ = bound_grid(grid)
    return [*((float(number), digits) for number in (grid.mean(), low, high)), _judge(low, high)]


def _judge(low: float | np.ndarray, high: float | np.ndarray) -> str:
    return CLEAR if low > 0 or high < 0 else UNCLEAR


def _subtract(grids: Grids, others: Grids) -> Grids:
    return {name: grid - others[name] for name, grid in grids.items()}


def _compare(grids: Grids, method: str, other: str, bounded: bool = True) -> Text:
    """Describe a difference; every seed of one method meets the only run of another without randomness."""
    grid = grids[method] - grids[other]
    return [describe(grid, bounded=bounded), *grid.shape]


def _spread(values: np.ndarray, *digits: int) -> Text:
    """Return mean and deviation over seeds; the mean alone of one seed."""
    numbers = [values.mean(), values.std(ddof=1)] if len(values) > 1 else [values.mean()]
    return [(float(number), count) for number, count in zip(numbers, digits or (None, None), strict=False)]


def _state_tasks(tables: Tables, titles: Mapping[str, str], suite: AuditedSuite) -> Stated:
    rows = tables["rows"]
    floor, ceiling = (rows[rows["method"] == name].set_index("task")["accuracy"] for name in (FLOOR, CEILING))
    merges = rows[~rows["method"].isin((FLOOR, CEILING))]
    names = [*dict.fromkeys(merges["method"])]
    gain, share = merges["accuracy"] - merges["task"].map(floor), merges["accuracy"] / merges["task"].map(ceiling)
    merges, columns = merges.assign(gain=gain, share=100 * share), {1: "share", 0: "gain"}
    tables_of: dict[int, dict[Any, Grids]] = {0: {}, 1: {}}
    apart: dict[tuple[int, Any], bool] = {}  # no two subsets are scored on the same task
    for (merged, size), part in merges.groupby(["merged", "size"]):
        tables_of[merged][size] = tabulate(part, "method", "subset", columns[merged])
        apart[merged, size] = not part[["subset", "task"]].drop_duplicates()["task"].duplicated().any()
    outside, inside = tables_of.values()
    free = [name for name in names if (merges["seed"][merges["method"] == name] < 0).all()]
    small, large = inside[min(inside)], inside[max(inside)]
    falls = [[titles[name], small[name].mean(), large[name].mean()] for name in sorted(names)]
    sentences = [[min(inside), small[MAIN].shape[1], max(inside), large[MAIN].shape[1], len(large[MAIN]), falls]]
    for size, grids in inside.items():
        best = max(free, key=lambda name, grids=grids: grids[name].mean())
        pairs = [[titles[other], _compare(grids, MAIN, other, apart[1, size])] for other in (TWIN, best)]
        sentences.append([size, titles[MAIN], pairs])
    gains = outside[max(outside)] if outside else {}
    bounded = bool(gains) and apart[0, max(outside)]
    lines: list[Text] = [["Method", *inside, *["Left out"] * bool(gains)]]
    for name in names:
        means = [grids[name].mean() for grids in inside.values()]
        lines.append([titles[name], means, describe(gains[name], bounded=bounded)[:3] if gains else []])
    if gains:
        each = [[titles[name], describe(gains[name], bounded=bounded), *gains[name].shape] for name in names]
        sentences.append([max(outside), each])
        sentences.append([titles[MAIN], titles[TWIN], _compare(gains, MAIN, TWIN, bounded)])
    return lines, sentences


def _state_robustness(tables: Tables, titles: Mapping[str, str], suite: AuditedSuite) -> Stated:
    rows = tables["rows"]
    kinds = {
        str(kind).replace("_", " "): tabulate(part, "method", "task", "accuracy")
        for kind, part in rows.groupby("corruption", sort=False)
    }
    clean = kinds.pop("clean")
    every = {name: np.mean([grids[name] for grids in kinds.values()], axis=0) for name in clean}
    drop = _subtract(clean, every)
    lines: list[Text] = [["Method", "Clean", *kinds, "Corrupted", "Drop"]]
    for name in dict.fromkeys(rows["method"]):
        averages = [grids[name].mean(1) for grids in (clean, *kinds.values(), every, drop)]
        lines.append([titles[name], [_spread(values if np.ptp(values) > 1e-9 else values[:1]) for values in averages]])
    losses = [[titles[name], describe(drop[name])[:3]] for name in (MAIN, TWIN, CEILING, FLOOR)]
    best = max(every.keys() - {FLOOR, CEILING}, key=lambda name: every[name].mean())
    hardest = min(kinds, key=lambda kind: kinds[kind][MAIN].mean())
    gains = {kind: grids[MAIN] - grids[TWIN] for kind, grids in kinds.items()}
    clear = [[kind, gain.mean()] for kind, gain in gains.items() if CLEAR in describe(gain)]
    pair, size = [titles[MAIN], titles[TWIN]], [*clean[MAIN].shape]
    averages = [every[name].mean() for name in (best, CEILING, FLOOR)]
    sentences = [
        [len(kinds), losses, size],
        [titles[best], averages, size, titles[MAIN], hardest],
        [pair, _compare(every, MAIN, TWIN), _compare(clean, MAIN, TWIN)],
        [_compare(drop, TWIN, MAIN), pair, len(clear), len(kinds), clear],
    ]
    return lines, sentences


def _state_landscape(tables: Tables, titles: Mapping[str, str], suite: AuditedSuite) -> Stated:
    def total(rows: pd.DataFrame, value: str) -> Grids:
        """Return T times the part of every task: the mean over tasks is the whole."""
        parts = rows.assign(part=len(suite.tasks) * rows[value].astype(float))
        return tabulate(parts, "method", "place", "part")

    solutions, curvature, rises = (tables[name] for name in ("solutions", "curvature", "rises"))
    held = solutions[solutions["split"] == solutions["split"].iloc[-1]]
    fitted = solutions[solutions["split"] == suite.repository.params["calibration_split"]]
    loss, kinds = total(held, "loss"), dict(iter(curvature.groupby("measure")))
    accuracy, flat, trace = "accuracy, %", "largest Hessian eigenvalue", "Hessian trace"
    measures = {
        accuracy: tabulate(held, "method", "place", "accuracy"),
        "loss": loss,
        "loss above that of calibration examples": _subtract(loss, total(fitted, "loss")),
        flat: total(kinds["eigenvalue"], "value"),
        trace: total(kinds["trace"], "value"),
    }
    for space, part in rises[rises["direction"] == "worst"].astype({"radius": float}).groupby("space"):
        (_, centre), *others = ((radius, total(rows, "loss")) for radius, rows in part.groupby("radius"))
        for radius, grids in others:
            measures[f"worst rise within {radius:g} in {SPACES[str(space)]}"] = _subtract(grids, centre)
    lines = [["method", *measures]]
    lines += [[titles[name], [_spread(grids[name].mean(1), 4, 2) for grids in measures.values()]] for name in loss]
    sentences = []
    for name, grids in measures.items():
        gain = grids[MAIN] - grids[TWIN]
        twin = (float(grids[TWIN].mean()), 4)
        sentences.append([name, titles[MAIN], titles[TWIN], twin, describe(gain, 3), *gain.shape])
    orders = [
        [[titles[name], (float(measures[measure][name].mean()), 4)]
         for name in sorted(loss, key=lambda name: sign * measures[measure][name].mean())]
        for measure, sign in ((flat, 1), (accuracy, -1))
    ]  # fmt: skip
    traces = np.concatenate([grid.mean(1) for grid in measures[trace].values()])
    error = kinds["error"]["value"].astype(float).max()
    sentences.append([flat, orders, len(loss)])
    sentences.append([[(float(value), 3) for value in (error, traces.min(), traces.max())], len(traces)])
    return lines, sentences


def _state_flatness(tables: Tables, titles: Mapping[str, str], suite: AuditedSuite) -> Stated:
    """State the rise of the loss, and the comparisons of answers as the study's contrasts have them."""
    path = f"reports/studies/{suite.name}/tables/flatness-contrasts.csv"
    contrasts = {row["name"]: row for row in suite.repository.rows(path) or ()}

    def gain(name: str, other: str, *columns: str) -> list[float]:
        return [float(contrasts[f"{name} minus {other}"][column]) for column in columns or ("mean", "low", "high")]

    rows = tables["rows"].astype({"loss": float, "rise": float})
    accuracies, losses, rises = (tabulate(rows, "setting", "place", value) for value in ("accuracy", "loss", "rise"))
    names = {name: name.replace("smoothed", "random direction") for name in dict.fromkeys(rows["setting"])}
    costs = rows.groupby("setting")[["passed", "merges"]].mean()
    costs /= costs.loc[PLAIN]
    passes, flatter = costs["passed"], {name: describe(rises[name] - rises[PLAIN]) for name in names}
    lines: list[Text] = [
        ["Rule", "Passes", "Merges", "Average", "Minus plain", "like these", "loss", "Rise", "Rise minus plain"]
    ]
    for name, word in names.items():
        average, *spreads = (_spread(grids[name].mean(1)) for grids in (accuracies, losses, rises))
        better = [gain(name, PLAIN), gain(name, PLAIN, "like low", "like high")] if name != PLAIN else []
        changed = flatter[name][:3] if name != PLAIN else []
        lines.append([word, *costs.loc[name], average, better, spreads, changed])
    cheaper = [
        [word, passes[name], flatter[name][:3]]
        for name, word in names.items()
        if name != PLAIN and passes[name] < passes[SAM]
    ]
    others = {word: gain(name, SAM) for name, word in names.items() if name not in (PLAIN, SAM)}
    clear = [[word, numbers] for word, numbers in others.items() if _judge(*numbers[1:]) == CLEAR]
    better, seeds = gain(SAM, PLAIN), len(rises[PLAIN])
    examples, size = int(rows.groupby("task")["total"].first().sum()), [len(suite.tasks), seeds]
    sentences = [
        [better, _judge(*better[1:]), rises[PLAIN].mean(), flatter[SAM], seeds],
        [passes[SAM], cheaper],
        [len(clear), len(others), clear, CHANCE * len(others)],
        [examples, size, size],
        [],
    ]
    return lines, sentences


def _state_theory(tables: Tables, titles: Mapping[str, str], suite: AuditedSuite) -> Stated:
    """State chain, bounds, expansions and gradients; the correlations over subsets are as the study wrote them."""
    chain, slopes, transfer = _numeric(tables["chain"]), _numeric(tables["slopes"]), _numeric(tables["transfer"])
    linear, steps = _numeric(tables["expansions"]), ["risk", "E TV", "E √(KL/2)", "√(E KL/2)"]
    parts = {
        name: tabulate(chain, "method", "task", name) for name in ("risk", "reference", "tv", "root", "kl", "entropy")
    }
    limits = {name: np.sqrt(grid / 2) for name, grid in parts["kl"].items()}
    terms = dict(
        zip(steps, (_subtract(parts["risk"], parts["reference"]), parts["tv"], parts["root"], limits), strict=True)
    )
    errors = {name: 100 - grid for name, grid in tabulate(chain, "method", "task", "accuracy").items()}
    gradients = tabulate(slopes, "method", "task", "slope")
    names, tasks = [*dict.fromkeys(chain["method"])], len(suite.tasks)
    lines: list[Text] = [["Method", *steps, "Times", "Error", "Entropy", "Gradient"]]
    gaps = []
    for name in names:
        risk, _, _, limit = means = [grids[name].mean() for grids in terms.values()]
        times = [limit / risk] * bool(risk > 0)
        others = [grids[name].mean() for grids in (errors, parts["entropy"], gradients)]
        lines.append([titles[name], means, times, others])
        gaps.append([titles[name], describe(terms["risk"][name])[:3], limit, times])
    stacked = [np.stack([grids[name] for name in names]) for grids in terms.values()]
    pairs = [*itertools.pairwise(stacked)]
    ordered = np.all([left <= right + 1e-5 for left, right in pairs], axis=0)
    ratios = [[step, right.sum() / left.sum()] for step, (left, right) in zip(steps, pairs, strict=False)]
    sentences: list[Text] = [["0-1 loss", steps[-1], gaps, tasks], [int(ordered.sum()), ordered.size, ratios]]
    sentences.append(_state_ranks([errors, parts["kl"], parts["entropy"]], names))
    bounds = _best_bounds(_numeric(tables["bounds"]))
    table: list[Text] = [
        ["Method", "k", "n", "s", "KL", "Drawn", "Limit", "Bound", "Whole split", "Validation", "Prior"]
    ]
    for name, cases in bounds.items():
        table += [[titles[name], case] for case in cases]
        stated = [[case[0], case[6], case[7], case[8]] for case in cases]
        useful, better = sum(case[6] < 1 - 1e-5 for case in cases), sum(case[6] < case[9] for case in cases)
        certain = f"{1 - CHANCE:g}"
        sentences.append([titles[name], certain, stated, len(cases), useful, "below 1", better, "n = 1 seed"])
    missed = {
        float(str(share)): tabulate(part.assign(missed=part["residual"] / part["change"]), "method", "task", "missed")
        for share, part in linear.groupby("share", sort=False)
    }
    expansions = [["Method", *(f"s = {share:g}" for share in missed)]]
    expansions += [[titles[name], *(grids[name].mean() for grids in missed.values())] for name in names]
    whole = min(missed, key=lambda share: abs(share - 1))
    sentences.append([whole, [[titles[name], describe(missed[whole][name])[:3]] for name in names], tasks])
    gain = describe(gradients[MAIN] - gradients[TWIN])
    norms = [[titles[name], describe(gradients[name])[:3]] for name in names]
    sentences.append([norms, titles[MAIN], titles[TWIN], gain, tasks])
    accuracies = transfer.pivot_table("accuracy", "expert", "task").to_numpy()
    experts, others = accuracies.diagonal(), accuracies.mean(0)
    sentences.append([[describe((level - others)[None])[:3] for level in (experts, experts.mean())], tasks])
    correlations = tables["correlations"]
    if len(correlations := correlations[correlations["rho"] != ""]):
        numbers = correlations[["rho", "task_low", "task_high"]].to_numpy().tolist()
        words = [
            [method.replace("_", " "), [float(value) for value in row if value]]
            for method, row in zip(correlations["method"], numbers, strict=True)
        ]
        sentences.append([int(correlations["n"].iloc[0]), words])
    return lines, table, expansions, sentences


def _state_language(tables: Tables, titles: Mapping[str, str], suite: AuditedSuite) -> Stated:
    rows = tables["rows"]
    measures = ("nats", "agreement", "exact", "repeated", "original")
    rows = rows.assign(**{name: 100 * pd.to_numeric(rows[name]) for name in measures}, text=rows["text"].astype(int))
    rows["nats"] /= 100
    grids: dict[str, dict[str, Grids]] = {name: {} for name in measures}
    for (domain, method), part in rows.groupby(["domain", "method"], sort=False):
        for name in measures:
            wide = part.pivot(index="seed", columns="text", values=name).dropna(axis=1)
            grids[name].setdefault(str(domain), {})[str(method)] = wide.to_numpy()
    names, domains = [*dict.fromkeys(rows["method"])], [name for name in grids["nats"] if name != GENERAL]
    generated = [name for name in domains if name in GENERATED]
    real = [name for name in domains if name not in generated]

    def average(measure: str, among: Sequence[str], method: str) -> np.ndarray:
        return np.mean([grids[measure][domain][method].mean(1) for domain in among], axis=0)

    def differ(method: str, other: str, measure: str, among: Sequence[str], better: int) -> Text:
        parts = [grids[measure][domain][method] - grids[measure][domain][other] for domain in among]
        mean, (low, high, _) = np.mean([part.mean() for part in parts]), bound_grids(parts)
        verdict = "better" if better * mean > 0 else "worse"
        return [float(mean), float(low), float(high), verdict if _judge(low, high) == CLEAR else "no difference shown"]

    lines: list[Text] = [
        ["Method", *domains, GENERAL, "Agreement", ["Exact, generated"] * bool(generated),
         ["Exact, other"] * bool(real), "Repeats"]
    ]  # fmt: skip
    for name in names:
        cells = [_spread(np.exp(average("nats", [domain], name))) for domain in (*domains, GENERAL)]
        shares = ("agreement", domains), ("exact", generated), ("exact", real), ("repeated", domains)
        cells += [_spread(average(measure, among, name)) for measure, among in shares if among]
        lines.append([titles[name], cells])
    free = [name for name in names if (rows["seed"][rows["method"] == name] < 0).all() and name not in (FLOOR, CEILING)]
    best = min(free, key=lambda name: average("nats", domains, name).mean())
    others, seeds = ("adamerging", "expert_merging", best), len(grids["nats"][GENERAL][TWIN])
    pairs = [[titles[name], differ(TWIN, name, "nats", domains, -1)] for name in others]
    sentences: list[Text] = [[titles[TWIN], pairs, seeds, len(domains)]]
    sharp = [differ(MAIN, TWIN, "nats", domains, -1)]
    if generated:
        pairs = [[titles[name], differ(TWIN, name, "exact", generated, 1)] for name in others]
        sentences.append([generated, titles[TWIN], pairs])
        sharp.append(differ(MAIN, TWIN, "exact", generated, 1))
    sentences.append([titles[MAIN], titles[TWIN], sharp])
    kept = [TWIN, MAIN, *others, CEILING]
    above = [[titles[name], differ(name, FLOOR, "nats", [GENERAL], -1)] for name in kept]
    sentences.append([titles[FLOOR], above])
    repeats = [[titles[name], average("repeated", domains, name).mean()] for name in (FLOOR, *kept)]
    original = average("original", domains, FLOOR).mean()
    sentences.append([repeats, original, titles[TWIN], titles[CEILING], differ(TWIN, CEILING, "repeated", domains, -1)])
    return lines, sentences


def _numeric(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with numbers in every column but those of names."""
    return rows.astype({name: float for name in rows.columns if name not in ("method", "task", "expert")})


def _state_ranks(measures: Sequence[Grids], names: Sequence[str]) -> Text:
    """State the rank correlation over methods of two measures with the first, a value per task."""
    errors, *others = (np.concatenate([grids[name] for name in names]) for grids in measures)
    kept = [task for task in range(errors.shape[1]) if all(np.ptp(grid[:, task]) > 0 for grid in (errors, *others))]
    if not kept:
        return [len(names)]
    kl, entropy = (np.array([[_correlate_ranks(grid[:, task], errors[:, task]) for task in kept]]) for grid in others)
    gap = describe(kl - entropy)
    return [len(names), "top-1 error", "KL", describe(kl)[:3], "entropy", describe(entropy)[:3], gap, len(kept)]


def _best_bounds(rows: pd.DataFrame) -> dict[str, list[list[float]]]:
    """Return, per method and k, [k, n, s, KL, drawn, limit, bound, whole, held, prior] for the s of the least bound."""
    cases: dict[str, list[list[float]]] = {}
    scales = rows["scale"].nunique()
    for (method, k), part in rows.groupby(["method", "k"], sort=False):
        candidates: list[list[float]] = []
        for name, losses in part.groupby("scale", sort=False):
            scale = float(str(name))
            n, [distance, draws] = losses["samples"].sum(), losses[["distance", "draws"]].iloc[0]
            drawn, *others = (
                np.average(losses[name], weights=losses["samples"]) for name in ("drawn", "whole", "held", "prior")
            )
            divergence, certain = distance / 2 / scale**2, np.log(2 * scales / CHANCE)
            limit = _largest(drawn, certain / draws)
            bound = _largest(limit, (divergence + np.log(2) + np.log(n) / 2 + certain) / n)
            candidates.append([float(str(k)), n, scale, divergence, drawn, limit, bound, *others])
        cases.setdefault(str(method), []).append(min(candidates, key=lambda case: case[6]))
    return cases


def _correlate_ranks(values: np.ndarray, others: np.ndarray) -> float:
    """Return Spearman's correlation of two rows [n]."""
    return pd.Series(values).rank().corr(pd.Series(others).rank())


def _largest(share: float, budget: float) -> float:
    """Return the largest q with kl(share || q) <= budget, by bisection; share in (0, 1)."""
    low, high = share, 1 - 1e-15
    for _ in range(60):
        q = (low + high) / 2
        divergence = share * np.log(share / q) + (1 - share) * np.log((1 - share) / (1 - q))
        low, high = (q, high) if divergence <= budget else (low, q)
    return low


STUDIES: Mapping[str, tuple[str, Sequence[str], Callable[[Tables, Mapping[str, str], AuditedSuite], Stated]]] = {
    "flatness": ("Flatness", ("flatness",), _state_flatness),
    "language": ("Language", ("language",), _state_language),
    "landscape": ("Loss landscape", ("sharpness",), _state_landscape),
    "robustness": ("Robustness", ("robustness",), _state_robustness),
    "theory": ("Theory", ("chain", "bounds", "linear"), _state_theory),
    "tasks": ("Number of tasks", ("tasks",), _state_tasks),
}
"""{study: title of its sentences, names of its tables, what they must be}."""
