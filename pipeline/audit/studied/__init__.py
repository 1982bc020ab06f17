"""What the rows of a study say, computed from integer counts by the audit's own code; one file per study, by its name.

Each file has TITLE, the heading of its sentences, and two functions:

    tables(study)      {name: Table}, what every cell of reports/studies/<suite>/<study>-table-<name>.* must say
    sentences(study)   [(pattern, function)]: what the groups of a sentence that matches the pattern must say
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple

import numpy as np
import pandas as pd

from pipeline.audit.claimed import Counted, Expected, Gain, Like, Never, Number, Won
from pipeline.audit.evidence import EvidenceError
from pipeline.audit.known import MAIN
from pipeline.audit.printed import bare
from pipeline.audit.recompute import CEILING, FLOOR
from pipeline.audit.resampled import ANSWERED

__all__ = ["CEILING", "FLOOR", "MAIN", "TWIN", "WON", "Forms", "Runs", "Says", "Study", "Table"]

TWIN = "distillation"
LIKE, WON = "Tasks like these", "Won : lost"

Says = list[tuple[str, Expected]]
"""Texts, and what each must say."""
Forms = Sequence[tuple[str, Callable[..., Says]]]
"""(pattern of a whole sentence, its groups -> what each of some texts must say)."""


class Table(NamedTuple):
    """What a table must say."""

    keys: tuple[str, ...]
    """The columns that tell its rows apart."""
    rows: Mapping[tuple[str, ...], Mapping[str, Expected]]
    """{their texts: {column: what the cell must say}}."""


@dataclass(frozen=True)
class Study:
    """The rows of a study and what they are told with."""

    name: str
    tables: Mapping[str, pd.DataFrame]
    """{"": its rows}; by name where it wrote several tables. Numbers are numbers, seed -1 stands for none."""
    tasks: tuple[str, ...]
    titles: Mapping[str, str]
    """{method: its title}."""

    @property
    def rows(self) -> pd.DataFrame:
        """The only table."""
        return self.tables[""]

    @property
    def methods(self) -> list[str]:
        """Every method, in the order of the rows."""
        return [*dict.fromkeys(name for rows in self.tables.values() if "method" in rows for name in rows.method)]

    def runs(self, **where: object) -> "Runs":
        """Accuracies, and answers where the study keeps them, of the rows with these values."""
        part = self.rows
        for column, value in where.items():
            part = part[part[column] == value]
        return runs(part, "accuracy", self.tasks)

    def counts(self, gain: Gain) -> Counted:
        """The numbers of seeds, tasks and images that a difference is over."""
        images = self.rows.groupby("task").total.first().sum() if "" in self.tables else 0
        return Counted({"seed": len(gain.values), "task": gain.values.shape[1], "image": int(images), "draw": ANSWERED})


@dataclass(frozen=True)
class Runs:
    """One number per seed and column, a task if nothing else is said."""

    values: np.ndarray
    """[S, T]."""
    seeds: tuple[int, ...]
    answers: tuple[np.ndarray, ...] | None = None
    """Of every task whether each image is answered rightly [S, n], a share after `average`."""

    def minus(self, other: "Runs", significant: int = 0) -> Gain:
        """The difference in the same runs; one without randomness is beside every seed of the other."""
        if self.seeds != other.seeds and (-1,) not in (self.seeds, other.seeds):
            raise EvidenceError(f"runs with seeds {self.seeds} and {other.seeds} cannot be paired")
        pairs = None
        if self.answers is not None and other.answers is not None:
            pairs = tuple(one - two for one, two in zip(self.answers, other.answers, strict=True))
        return Gain(self.values - other.values, pairs, significant)

    def plain(self) -> Gain:
        """The values as differences from zero."""
        return Gain(self.values)


def runs(part: pd.DataFrame, value: str, columns: Sequence[str], by: str = "task") -> Runs:
    """Means of `value` per seed and column; EvidenceError where one is missing."""
    if part.empty:
        raise EvidenceError("no rows of a setting that it compares")
    means, seeds = part.groupby(["seed", by])[value].mean().to_dict(), tuple(sorted({*part.seed}))
    try:
        values = np.array([[means[seed, name] for name in columns] for seed in seeds])
    except KeyError as error:
        raise EvidenceError(f"no row of seed and {by} {error}") from error
    if "answers" not in part or value != "accuracy":
        return Runs(values, seeds)
    found, totals = part.set_index(["task", "seed"]).answers, part.groupby("task").total.first()
    return Runs(
        values,
        seeds,
        tuple(np.stack([found[task, seed][: totals[task]] for seed in seeds]).astype(float) for task in columns),
    )


def average(parts: Sequence[Runs]) -> Runs:
    """The mean over settings, run by run."""
    values = np.mean([part.values for part in parts], axis=0)
    if any(part.answers is None for part in parts):
        return Runs(values, parts[0].seeds)
    tasks = zip(*(part.answers for part in parts), strict=True)
    return Runs(values, parts[0].seeds, tuple(reduce(np.add, each) / len(parts) for each in tasks))


def gained(column: str, gain: Gain) -> dict[str, Expected]:
    """The columns of a difference: with answers also its interval on tasks like these; where there is room, WON."""
    return {column: gain} | ({} if gain.answers is None else {LIKE: Like(gain), WON: Won(gain)})


def basis(study: Study, gain: Gain) -> Forms:
    """The sentence on what intervals are drawn from."""
    return [(r"(Intervals are of 95 %.*)", lambda said: [(said, study.counts(gain))])]


def by_images(text: str, gains: Mapping[int, Gain]) -> Says:
    """`k = 1: <difference>; k = 4: <difference>`: each number of images once."""
    shown = {int(bare(k)): said for k, said in re.findall(r"k = (\d[\d,]*): (.+?)(?:; (?=k = )|$)", text)}
    if [*shown] != [*gains]:
        return [(text, Never(f"its rows have k = {', '.join(map(str, gains))}"))]
    return [(shown[k], gain) for k, gain in gains.items()]


def chance(text: str, count: int) -> Says:
    """`... where chance alone would give about 0.4`, of `count` intervals."""
    return [(text.rsplit(maxsplit=1)[-1].rstrip("."), Number(0.05 * count))]


def listed(text: str | None) -> list[str]:
    """The parts of "a, b and c"."""
    return re.split(r", | and ", text) if text else []
