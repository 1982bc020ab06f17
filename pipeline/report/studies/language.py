"""Language in the report: perplexity, answers and repetition of merged language models, domain by domain."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from pipeline.report.studies import Context
from pipeline.report.view import Frame, View
from pipeline.report.words import count, excludes_zero, interval, listed, spread
from pipeline.statistics.accuracy import CEILING, FLOOR, MAIN, TWIN
from pipeline.statistics.contrasts import PairedDifference
from pipeline.statistics.intervals import t_interval

GENERAL = "general"
GENERATED = ("arithmetic", "dates")
ENTROPY, MATCHED = "adamerging", "expert_merging"
NATS = 3
"""Decimals of a difference in nats."""
Grids = Mapping[str, np.ndarray]
"""{domain: [S, n]}, a number for every seed and text."""


def view(rows: pd.DataFrame, context: Context) -> View:
    """`rows`: columns as in `pipeline.studies.language`."""
    frame = rows.assign(seed=rows.seed.fillna(-1).astype("int64"))
    domains = [domain for domain in dict.fromkeys(frame.domain) if domain != GENERAL]
    generated = [domain for domain in domains if domain in GENERATED]
    real = [domain for domain in domains if domain not in GENERATED]
    texts = frame.groupby("domain").text.nunique()
    scope = (
        f"{count(int(texts.sum()), 'text')} of {count(len(domains), 'domain')} and of general text; "
        f"{count(frame[frame.seed >= 0].seed.nunique(), 'seed')} of the calibrated methods"
    )
    cells = {domain: ("nats", (domain,), 2) for domain in (*domains, GENERAL)}
    cells |= {"Agreement": ("agreement", domains, context.decimals)}
    cells |= {"Exact, generated": ("exact", generated, context.decimals)} if generated else {}
    cells |= {"Exact, other": ("exact", real, context.decimals)} if real else {}
    cells |= {"Repeats": ("repeated", domains, context.decimals)}
    return View(
        title="Language",
        question=(
            "What does merging do to a language model: to its perplexity, to what it writes when it goes on with a "
            "text, and to general text that no expert was trained on?"
        ),
        sentences=_describe(frame, domains, generated, context),
        tables={
            "language": Frame(
                pd.DataFrame(
                    {"Method": context.titles[name]}
                    | {
                        title: _cell(frame[frame.method == name], measure, among, decimals)
                        for title, (measure, among, decimals) in cells.items()
                    }
                    for name in dict.fromkeys(frame.method)
                ),
                "Perplexity per domain (exp of the mean nats per token) and on general text. Agreement: % of tokens "
                "whose most likely token is the expert's. Exact: % of texts that greedy decoding continues exactly, to "
                f"the end of a generated line or by the next tokens of {listed(real) or 'no'} text. Repeats: % of "
                f"longer completions that repeat themselves. Means over domains; ±: standard deviation over seeds. "
                f"Over {scope}.",
            )
        },
    )


def measure_difference(grids: Grids) -> PairedDifference:
    """Estimate the mean over domains of differences {domain: [S, n]}; the interval is over seeds and texts."""
    texts = [grid.mean(axis=0) / len(grids) for grid in grids.values()]
    seeds = np.mean([grid.mean(axis=1) for grid in grids.values()], axis=0)
    result = t_interval(seeds.mean(), [seeds, *texts])
    return PairedDifference(float(result.value), float(result.low), float(result.high), len(seeds), len(grids))


def subtract(frame: pd.DataFrame, measure: str, domains: Sequence[str], method: str, other: str) -> Grids:
    """Return `method` minus `other` on the same texts; the only run of one without randomness meets every seed."""
    return {domain: _grid(frame, measure, domain, method) - _grid(frame, measure, domain, other) for domain in domains}


def _grid(frame: pd.DataFrame, measure: str, domain: str, method: str) -> np.ndarray:
    part = frame[(frame.domain == domain) & (frame.method == method)].dropna(subset=[measure])
    return part.pivot(index="seed", columns="text", values=measure).to_numpy(float)


def _describe(
    frame: pd.DataFrame, domains: Sequence[str], generated: Sequence[str], context: Context
) -> tuple[str, ...]:
    titles, points = context.titles, context.digits
    losses = frame[frame.domain != GENERAL].groupby("method").nats.mean()
    seeded = {*frame[frame.seed >= 0].method}
    free = str(losses.drop([FLOOR, CEILING, *seeded]).idxmin())

    def differ(method: str, other: str, measure: str = "nats", among: Sequence[str] = domains) -> PairedDifference:
        factor = 1 if measure == "nats" else 100
        grids = subtract(frame, measure, among, method, other)
        return measure_difference({domain: factor * grid for domain, grid in grids.items()})

    def judged(difference: PairedDifference, digits: int, better: int) -> str:
        verdict = "better" if better * difference.mean > 0 else "worse"
        return f"{interval(difference, digits)} ({verdict if excludes_zero(difference) else 'no difference shown'})"

    others = {ENTROPY: titles[ENTROPY], MATCHED: titles[MATCHED], free: f"{titles[free]}, the best without data,"}
    first = differ(TWIN, ENTROPY)
    sample = f"n = {count(first.seeds, 'seed')}, {count(len(domains), 'domain')}, over texts and seeds"
    parts = [f"minus {name} {judged(differ(TWIN, other), NATS, -1)}" for other, name in others.items()]
    sentences = [f"Loss in nats per token, mean over the domains: {titles[TWIN]} {', '.join(parts)} ({sample})."]
    sam = [f"{judged(differ(MAIN, TWIN), NATS, -1)} nats per token"]
    if generated:
        parts = [
            f"minus {name} {judged(differ(TWIN, other, 'exact', generated), points, 1)}"
            for other, name in others.items()
        ]
        sentences.append(f"Exact answers on {listed(generated)}, in points: {titles[TWIN]} {', '.join(parts)}.")
        sam.append(f"{judged(differ(MAIN, TWIN, 'exact', generated), points, 1)} points of exact answers")
    sentences.append(f"Sharpness: {context.minus(MAIN, TWIN)} is {listed(sam)}.")
    kept = dict.fromkeys((TWIN, MAIN, ENTROPY, MATCHED, free, CEILING))
    parts = [f"{titles[name]} {judged(differ(name, FLOOR, 'nats', (GENERAL,)), NATS, -1)}" for name in kept]
    sentences.append(f"General text, loss in nats per token above that of {titles[FLOOR]}: {', '.join(parts)}.")
    shares = 100 * frame[frame.domain != GENERAL].groupby(["method", "domain"])[["repeated", "original"]].mean()
    shares = shares.groupby("method").mean()
    parts = [f"{titles[name]} {shares.repeated[name]:.{context.decimals}f} %" for name in dict.fromkeys((FLOOR, *kept))]
    sentences.append(
        f"Completions that repeat themselves, mean over the domains: {', '.join(parts)}; of the texts' own "
        f"continuations {shares.original[FLOOR]:.{context.decimals}f} %. {context.minus(TWIN, CEILING)}: "
        f"{judged(differ(TWIN, CEILING, 'repeated'), points, -1)} points."
    )
    return tuple(sentences)


def _cell(part: pd.DataFrame, measure: str, domains: Sequence[str], decimals: int) -> str:
    """Return the mean over domains, then over seeds with its deviation: a perplexity of nats, per cent otherwise."""
    means = part[part.domain.isin(domains)].groupby(["seed", "domain"])[measure].mean().groupby("seed").mean()
    return spread(means.map(np.exp) if measure == "nats" else 100 * means, decimals)
