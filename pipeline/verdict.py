"""What the correlations of a diagnosis say, in one paragraph made of its numbers."""

from collections.abc import Iterator
from typing import Any

import pandas as pd

from pipeline.diagnostics import MEASURES, METHODS, SIZE, UNVERIFIED

SCOPES = {
    "tasks": ("Over the {n} tasks, each with its own loss in the merge of all,", ("low", "high"), 0.05),
    "subsets of one size": (
        "Over {n} random subsets of the tasks, each compared with others of its size,",
        ("task_low", "task_high"),
        0.12,
    ),
}
"""How a scope is introduced, which interval covers other tasks, and how often that one excludes zero by chance (see
`pipeline.diagnostics.prediction`)."""
FOCUS = ("mloss", "mloss_normalised")
"""The measures that are always spoken of."""


def paragraph(predictions: pd.DataFrame) -> str:
    """What predicts what, and which intervals exclude zero; `predictions`: the rows of a suite's prediction.csv."""
    said = [sentence for scope in SCOPES for sentence in _scope(predictions[predictions.scope == scope], scope)]
    sizes = predictions[(predictions.measure == SIZE) & predictions.rho.notna()]
    if len(sizes):
        found = ", of ".join(f"{METHODS[row.method]} {_rho(row.rho)}" for row in sizes.itertuples())
        said.append(f"Where sizes are mixed, the number of tasks alone has with the mean loss of {found}.")
    doubts = [f"{MEASURES[name]} ({UNVERIFIED[name]})" for name in UNVERIFIED if name in {*predictions.measure}]
    if said and doubts:
        said.append(f"Our reading: {', '.join(doubts)}.")
    return " ".join(said)


def _scope(rows: pd.DataFrame, scope: str) -> Iterator[str]:
    opening, edges, chance = SCOPES[scope]
    found = rows.assign(lower=rows[edges[0]], upper=rows[edges[1]]).dropna(subset=["rho", "lower", "upper"])
    if found.empty:
        return
    clear = found[(found.lower > 0) | (found.upper < 0)]
    yield (
        f"{opening.format(n=int(found.n.iloc[0]))} {len(found)} rank correlations between a measure taken before "
        f"merging and the loss of accuracy were computed: {len(clear)} of their 95 % intervals exclude zero, where "
        f"chance alone would give about {chance * len(found):.0f}."
    )
    strongest = found.loc[found.rho.abs().idxmax()]
    if strongest.measure not in FOCUS:
        yield f"The strongest is that of {_named(strongest.measure)} with {_correlation(strongest)}."
    for measure in FOCUS:
        spoken = [_correlation(row) for row in found[found.measure == measure].itertuples()]
        if spoken:
            yield f"{MEASURES[measure][0].upper()}{MEASURES[measure][1:]} has with {'; with '.join(spoken)}."


def _named(measure: str) -> str:
    """What a measure is called, with a mark where its definition could not be checked."""
    return MEASURES[measure] + " (our reading)" * (measure in UNVERIFIED)


def _correlation(row: Any) -> str:
    """The method, the correlation, its interval and the verdict."""
    verdict = "excludes zero" if row.lower > 0 or row.upper < 0 else "includes zero"
    return f"the loss of {METHODS[row.method]} {_rho(row.rho)} [{row.lower:+.2f}, {row.upper:+.2f}], which {verdict}"


def _rho(value: float) -> str:
    return f"ρ = {value:+.2f}"
