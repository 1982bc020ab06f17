"""Counts of correct answers -> accuracies, what the tables show of them, and what can be said about differences.

Everything is in per cent. For accuracies a_t of T tasks in one run (a method and a seed):

    Average     mean_t a_t
    Normalised  mean_t a_t / a_t(expert of t)
    Gap closed  (Average - Average of zero-shot) / (Average of the experts - Average of zero-shot)
    Worst task  min_t a_t

A mean over seeds comes with its sample standard deviation and its number of seeds. Nothing is averaged over what
happens to be there: a quotient that is not defined makes the whole value undefined.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline.errors import BenchmarkError

FLOOR, CEILING = "zeroshot", "individual"
MAIN, TWIN = "samerging", "distillation"
AVERAGE, NORMALISED, GAP, WORST = "Average", "Normalised", "Gap closed", "Worst task"
COLUMNS = ("suite", "method", "task", "seed", "samples", "correct", "total")
TYPES = {"suite": "str", "method": "str", "task": "str", "seed": "Int64"} | dict.fromkeys(COLUMNS[4:], "int64")
RESAMPLES = 10_000


class ScoresError(BenchmarkError):
    """Scores that are not whole or do not fit together."""


def parse(text: str, source: object, extra: Sequence[str] = ()) -> pd.DataFrame:
    """The scores of one CSV file; `extra` integer columns come before COLUMNS. ScoresError names `source`."""
    types = TYPES | dict.fromkeys(extra, "int64")
    try:
        frame = pd.read_csv(io.StringIO(text), dtype=types, keep_default_na=False, na_values={"seed": [""]})
    except (ValueError, TypeError, OverflowError) as error:
        raise ScoresError(f"{source}: not a table of scores ({error}); `dvc repro` makes it anew") from error
    if list(frame) != [*extra, *COLUMNS]:
        raise ScoresError(f"{source}: columns {', '.join(frame)}, expected {', '.join((*extra, *COLUMNS))}")
    return frame


def check(frame: pd.DataFrame, tasks: Sequence[str]) -> None:
    """ScoresError unless every run has every task once, with possible counts and the same images for all methods."""
    for row in frame[(frame.total <= 0) | (frame.correct < 0) | (frame.correct > frame.total)].itertuples():
        raise ScoresError(f"{row.suite}/{row.method}: {row.correct} of {row.total} correct on {row.task}")
    for task, totals in frame.groupby("task").total:
        if totals.nunique() > 1:
            found = ", ".join(str(total) for total in sorted(totals.unique()))
            raise ScoresError(
                f"{frame.suite.iloc[0]}: methods were scored on different numbers of {task} images: {found}"
            )
    for run, rows in frame.groupby([*_budget(frame), "suite", "method", "seed"], dropna=False):
        if sorted(rows.task) != sorted(tasks):
            name = " ".join(str(part) for part in run)
            raise ScoresError(f"scores of {name}: tasks {', '.join(rows.task)}; expected {', '.join(tasks)}, each once")


def runs(frame: pd.DataFrame, tasks: Sequence[str], main: pd.DataFrame | None = None) -> pd.DataFrame:
    """A row per run, (k,) method, seed (-1 without randomness), and a column per task and derived value, in per cent.

    Floor and ceiling are those of `main`, or of the frame itself.
    """
    check(frame, tasks)
    named = frame.assign(seed=frame.seed.fillna(-1).astype("int64"), accuracy=100 * frame.correct / frame.total)
    wide = named.pivot(index=[*_budget(frame), "method", "seed"], columns="task", values="accuracy")[list(tasks)]
    wide.columns.name = None
    low, high = (_reference(wide if main is None else main, name, tasks) for name in (FLOOR, CEILING))
    span = high.mean(skipna=False) - low.mean(skipna=False)
    average = wide.mean(axis=1)
    return wide.assign(
        **{
            AVERAGE: average,
            NORMALISED: (100 * wide / high.where(high > 0)).mean(axis=1, skipna=False),
            GAP: 100 * (average - low.mean(skipna=False)) / (span if span > 0 else np.nan),
            WORST: wide.min(axis=1),
        }
    )


def _budget(frame: pd.DataFrame) -> list[str]:
    return [name for name in ("k",) if name in frame]


def _reference(wide: pd.DataFrame, method: str, tasks: Sequence[str]) -> pd.Series:
    """Accuracies of the floor or the ceiling; undefined if the method was not run."""
    if method not in wide.index.get_level_values("method"):
        return pd.Series(np.nan, index=list(tasks))
    return wide.xs(method, level="method")[list(tasks)].mean()


@dataclass(frozen=True)
class Difference:
    """`mean` of the paired differences of two methods' averages, in points, and its 95 % interval."""

    mean: float
    low: float
    high: float
    seeds: int
    tasks: int


def difference(table: pd.DataFrame, tasks: Sequence[str], method: str, other: str) -> Difference:
    """`method` minus `other` in the same seeds, with a 95 % interval from the pigeonhole bootstrap.

    Seeds and tasks are resampled independently, with replacement, and crossed (Owen 2007, arXiv 0712.1111): seeds
    of one task share its test images, so that seeds x tasks are not that many independent differences.
    """
    pairs = (table.loc[method, list(tasks)] - table.loc[other, list(tasks)]).to_numpy()
    if not np.isfinite(pairs).all():
        raise ScoresError(f"{method} and {other} ran with different seeds; run their stages again (dvc repro)")
    generator = np.random.default_rng(0)
    rows, columns = (generator.integers(size, size=(RESAMPLES, size)) for size in pairs.shape)
    means = pairs[rows[:, :, None], columns[:, None, :]].mean(axis=(1, 2))
    low, high = np.quantile(means, (0.025, 0.975))
    return Difference(float(pairs.mean()), float(low), float(high), *pairs.shape)


def sentences(
    table: pd.DataFrame, tasks: Sequence[str], data_free: Sequence[str], titles: Mapping[str, str], decimals: int
) -> list[str]:
    """What the scores say of SAMerging: the gap it closes, its lead without data, what sharpness adds."""
    own, said = table.loc[MAIN], []
    average, count = table.groupby("method")[AVERAGE].mean(), f"n = {len(own)} seed{'s' * (len(own) != 1)}"
    if np.isfinite(own[GAP]).all():
        spread = f" ± {own[GAP].std():.{decimals}f}" if len(own) > 1 else ""
        said.append(
            f"{titles[MAIN]} closes {own[GAP].mean():.{decimals}f}{spread} % of the gap between zero-shot "
            f"({average[FLOOR]:.{decimals}f} %) and "
            f"the individual experts ({average[CEILING]:.{decimals}f} %) ({count})."
        )
    if data_free:
        best = max(data_free, key=lambda name: average[name])
        lead = average[MAIN] - average[best]
        said.append(
            f"On average over {len(tasks)} tasks it {'leads' if lead >= 0 else 'trails'} the best data-free method, "
            f"{titles[best]}, by {abs(lead):.{decimals + 1}f} points: {average[MAIN]:.{decimals + 1}f} % ({count}) "
            f"against {average[best]:.{decimals + 1}f} % (no randomness, n = 1)."
        )
    if TWIN in average:
        said.append(_verdict(difference(table, tasks, MAIN, TWIN), titles, decimals + 1))
    return said


def _verdict(gain: Difference, titles: Mapping[str, str], decimals: int) -> str:
    excludes = gain.low > 0 or gain.high < 0
    verdict = "it excludes zero" if excludes else "it includes zero, so these runs show no difference"
    return (
        f"{titles[MAIN]} minus {titles[TWIN].lower()}: {gain.mean:+.{decimals}f} points, 95 % interval "
        f"[{gain.low:+.{decimals}f}, {gain.high:+.{decimals}f}]: {verdict}. The interval is a bootstrap of the paired "
        f"differences over {gain.seeds} seed{'s' * (gain.seeds != 1)} (draw of images, order of batches) and "
        f"{gain.tasks} tasks; it covers other seeds and other tasks like these, not other experts; it is rough."
    )
