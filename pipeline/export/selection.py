"""Which merge to export; everything that can be wrong with the request is reported before any work starts."""

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from pipeline import methods, suites
from pipeline.export.lineage import Lineage, trace
from pipeline.merges import storage
from pipeline.models.suite import SuiteFolder
from pipeline.runtime.errors import BenchmarkError

DATA = Path("data")


class SelectionError(BenchmarkError):
    """A suite, method, seed or task that cannot be exported; the message says what can."""


@dataclass(frozen=True)
class Selection:
    """A model to export."""

    suite: SuiteFolder
    lineage: Lineage
    index: int
    """The place of `seed` in the merge."""
    seed: int | None
    """None for a method without randomness."""
    kind: str | None
    """The kind of the merge's extras, a module of `pipeline.merges.serving`."""
    task: str | None
    """The only task to serve; None for all."""

    @property
    def merge(self) -> Path:
        """The folder of the merge."""
        return DATA / "merges" / self.lineage.suite / self.lineage.name

    @property
    def scores(self) -> Path:
        """The counts of right answers."""
        return DATA / "scores" / self.lineage.suite / f"{self.lineage.name}.csv"

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that the exported model serves."""
        return (self.task,) if self.task else self.suite.suite.task_names


def select(suite: str, method: str, seed: int | None = None, task: str | None = None) -> Selection:
    """Select a merge in data/.

    seed: by default the first of the merge; task: by default all. Raises SelectionError for what does not exist, for a
    merge that is missing or not scored, and for one that plain weights cannot hold.
    """
    prepared = _parents("suites/*/suite.json")
    if suite not in prepared:
        _check_name("suite", suite, {*suites.names(), *prepared})
        raise SelectionError(
            f"{DATA / 'suites' / suite} is missing; list {suite} under suites in params.yaml and run `dvc repro`"
        )
    lineage, merged = trace(suite, method), _parents(f"merges/{suite}/*/merge.json")
    if lineage is None:
        _check_name("method", method, {*methods.names(), *merged})
        raise SelectionError(f"{method}: no stage makes this merge; export one of {', '.join(sorted(merged))}")
    if method not in merged:
        raise SelectionError(f"{DATA / 'merges' / suite / method} is missing; {lineage.cure}")
    content, coefficients = storage.load(DATA / "merges" / suite / method)
    folder = SuiteFolder(DATA / "suites" / suite)
    if task is not None:
        _check_name("task", task, folder.suite.task_names)
    several = content["extras"] in ("masks", "factors") or (coefficients is not None and coefficients.shape[1] > 1)
    if several and task is None:
        names = ", ".join(folder.suite.task_names)
        raise SelectionError(f"{method} is a model per task, and a folder holds one; add --task with one of {names}")
    if content["extras"] == "routed":
        raise SelectionError(
            f"{method} adds an expert to every matrix and routes each token to one, which no class of transformers "
            "or open_clip does; its weights alone are the pre-trained model. Export a method that merges weights"
        )
    if content["extras"] == "ensemble":
        raise SelectionError(
            f"{method} averages the features of several encoders, and a folder holds one. Export a method that merges "
            "weights"
        )
    index = _place(method, content["seeds"], seed)
    selection = Selection(folder, lineage, index, content["seeds"][index], content["extras"], task)
    if not selection.scores.exists():
        raise SelectionError(f"{selection.scores} is missing; {lineage.cure}")
    if outdated := lineage.find_outdated():
        raise SelectionError(f"{outdated} was made again after {method} was scored; {lineage.cure}")
    return selection


def _parents(pattern: str) -> set[str]:
    return {path.parent.name for path in DATA.glob(pattern)}


def _place(method: str, seeds: list[int | None], seed: int | None) -> int:
    if seed is None:
        return 0
    if seeds == [None]:
        raise SelectionError(f"{method} has no randomness, so there is no seed {seed}; leave out --seed")
    if seed not in seeds:
        raise SelectionError(f"{method}: no seed {seed}; expected one of {', '.join(map(str, seeds))}")
    return seeds.index(seed)


def _check_name(what: str, name: str, known: Iterable[str]) -> None:
    """Raise SelectionError, with the nearest name, unless `name` is one of `known`."""
    ordered = sorted(known)
    if name not in ordered:
        close = get_close_matches(name[:80], ordered, n=1, cutoff=0.5)
        nearest = f"; did you mean {close[0]!r}?" if close else ""
        raise SelectionError(f"no {what} {name!r}{nearest}; expected one of {', '.join(ordered)}")
