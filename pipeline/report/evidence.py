"""The measurements of a suite, as committed files that need neither torch nor data/ to be read.

    reports/evidence/suites/<suite>/
        scores.csv          counts of right answers: methods in the order of the tables, then `<method>-rescaled`
        answers.npz         which test examples every run got right, a bit per example (`numpy.packbits`)
        methods.json        the methods: their places in the tables, titles, papers and doubts
        measures.csv, prediction.csv, measures.json     the diagnosis, and the names of its measures
        losses.csv          the loss of every step of the methods that take steps
        coefficients.csv    SAMerging's coefficients of the tensors that have a gradient
        previews.npz        the first test examples of every task: images, or texts
        clusters.npz        {split/task: strata and clusters}, as in `pipeline.models.suite`
        records.json        run records, origin and costs: {path in data/: its content}

`pipeline.report.collect` writes these files and `load` reads them. Everything that the report shows follows from them.
"""

import io
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar
from zipfile import BadZipFile

import numpy as np
import pandas as pd

from pipeline.runtime.errors import BenchmarkError
from pipeline.statistics import accuracy
from pipeline.statistics.accuracy import CEILING, FLOOR, MAIN
from pipeline.statistics.intervals import Marks, mark_methods

ORIGIN = ("source", "embedded", "fetched", "overlap", "anchors", "published")
"""The keys of data/origins/<suite>.json."""
RESCALED = "-rescaled"
"""Ends the name of a method whose scale was chosen on unlabelled examples."""
STUDIES = (
    "ablation", "efficiency", "protocol", "flatness", "sensitivity", "landscape", "tasks", "robustness", "replicates",
    "conventions", "theory", "conflict", "label_spaces", "language",
)  # fmt: skip
"""In the order of the page."""
AGAIN = "run dvc repro"
MARK = "†"
"""Ends the title of a method of which something could not be checked against its source."""
Content = TypeVar("Content")


class EvidenceError(BenchmarkError):
    """Evidence that is missing, damaged or does not fit together; the message names the file."""


@dataclass(frozen=True)
class Reference:
    """A method's entry in the tables and the list of methods."""

    title: str
    paper: str
    unverified: str
    """What could not be checked against the paper; empty if everything was."""
    settings: Sequence[str]
    """Names of its parameters."""


@dataclass(frozen=True)
class Chosen:
    """The methods of a report; SAMerging is always the last of the calibrated ones."""

    data_free: tuple[str, ...]
    calibrated: tuple[str, ...]
    operated: tuple[str, ...] = ()
    """Merges that Representation Surgery was applied to."""
    rescaled: tuple[str, ...] = ()
    """Methods whose scale was chosen on unlabelled examples as well."""
    svc: tuple[str, ...] = ()
    """Data-free methods whose singular values were calibrated as well."""

    @property
    def names(self) -> tuple[str, ...]:
        """Every method, in the order of the tables."""
        return (*self.data_free, *map(svc_name, self.svc), *self.calibrated, *map(surgery_name, self.operated))

    def sections(self, several: Collection[str]) -> dict[str, list[str]]:
        """Return the sections of a table; `several`: methods with more than one model at inference."""
        fixed = [name for name in (FLOOR, CEILING) if name in self.data_free]
        free = [name for name in self.data_free if name not in (*fixed, *several)] + [*map(svc_name, self.svc)]
        learned = [name for name in self.calibrated if name not in several]
        more = [name for name in self.names if name in several and name not in fixed]
        sections = {"Floor and ceiling, not merged": fixed, "Data-free": free, "Calibrated": learned}
        return {**sections, "More than one model at inference": more}


def surgery_name(name: str) -> str:
    """Return the name of surgery on top of a method."""
    return f"surgery-{name}"


def svc_name(name: str) -> str:
    """Return the name of SVC on top of a method."""
    return f"{name}-svc"


def choose_methods(methods: Mapping[str, Sequence[str]]) -> Chosen:
    """Choose the methods that params.yaml names, and SAMerging."""
    lists = {key: tuple(names) for key, names in methods.items()}
    return Chosen(lists["merge"], (*lists["calibrate"], MAIN), lists["surgery"], lists["rescale"], lists["svc"])


@dataclass(frozen=True)
class Protocol:
    """The splits, examples and seeds that the numbers of a suite were measured with."""

    suite: str
    calibration_split: str
    evaluation_split: str
    requested: int
    """Unlabelled examples requested per task."""
    used: Mapping[str, int]
    """Unlabelled examples that each task gave to SAMerging."""
    seeds: Sequence[int]
    embedded: bool
    """Whether the suite is made from installed packages."""
    unlabelled: Sequence[str] = ()
    """Tasks whose scored examples have no labels: the expert's answers stand for them."""

    def sentence(self) -> str:
        """State splits, examples and seeds, for captions."""
        few = ", ".join(f"{task} {count:,}" for task, count in self.used.items() if count < self.requested)
        same = self.calibration_split == self.evaluation_split
        return (
            f"Scored on the {self.evaluation_split} split. Calibrated methods draw from up to {self.requested:,} "
            f"unlabelled examples per task{f' (k capped at the pool: {few})' * bool(few)} of the "
            f"{self.calibration_split} split"
            f"{', TRANSDUCTIVE: the split they are scored on' * same}; "
            f"{len(self.seeds)} seed{'s' * (len(self.seeds) != 1)} ({', '.join(map(str, self.seeds))})."
        )

    def sees(self, examples: int) -> str:
        """Describe the data of a calibrated method that took at most `examples` of a task, as a cell of a table."""
        split = {"train": "training"}.get(self.calibration_split, self.calibration_split)
        few = "up to " * (min(self.used.values()) < examples)
        seeds = f"; mean over {len(self.seeds)} seeds" * (len(self.seeds) > 1)
        return f"{split} examples without labels, {few}{examples:,} per task{seeds}"

    def caption(self, more: str = "") -> str:
        """Return the caption of the suite's table; `more` is its last sentence."""
        kind = " (embedded: made from installed packages, not the paper's benchmark)" * self.embedded
        agreement = (
            f" NO LABELS: accuracy on {', '.join(self.unlabelled)} is the agreement with the expert."
            if self.unlabelled
            else ""
        )
        return (
            f"Suite {self.suite}{kind}: accuracy in %. {self.sentence()} "
            f"{'Mean ± sample standard deviation over seeds; ' * (len(self.seeds) > 1)}"
            "methods without randomness ran once. Bold: best, underlined: second best of the merged models."
            f"{agreement}{' ' * bool(more)}{more}"
        )


@dataclass(frozen=True)
class Evidence:
    """The measurements of a suite."""

    suite: str
    tasks: tuple[str, ...]
    chosen: Chosen
    references: Mapping[str, Reference]
    """Of the methods, in the order of the tables."""
    several: frozenset[str]
    """Methods that need more than one model's weights or computation at inference."""
    scored: pd.DataFrame
    """All counts, in the order of scores.csv."""
    correct: Mapping[str, Mapping[str, np.ndarray]]
    """{method: {task: bool [S, n]}} for the methods of `scored`: whether each test example was classified correctly."""
    measures: pd.DataFrame
    """Measures taken before merging; columns as in `pipeline.steps.diagnose`."""
    predictions: pd.DataFrame
    """How well those measures predict what merging costs."""
    names: Mapping[str, Mapping[str, str]]
    """Words of the diagnosis: titles of `measures` and `merges`, and what of them is `unverified`."""
    losses: Mapping[str, pd.DataFrame]
    """Per method that takes steps: a row per seed, ascending, and a column per step."""
    coefficients: np.ndarray
    """[T, G], SAMerging's mean over seeds."""
    groups: tuple[str, ...]
    """The tensors of `coefficients`."""
    clusters: Mapping[str, np.ndarray]
    """{split/task: int64 [n, 1 + C]}; without a task whose examples are independent."""
    previews: Mapping[str, np.ndarray]
    """Per task uint8 [n, H, W, 3], or str [n]."""
    records: tuple[Mapping[str, Any], ...]
    """The run record of every stage, in the order of the pipeline."""
    costs: Mapping[str, Mapping[str, Any]]
    """{method: its costs}, see `pipeline.merges.costs`."""
    origin: Mapping[str, Any]
    """The origin of the suite, see ORIGIN."""

    @cached_property
    def runs(self) -> pd.DataFrame:
        """Accuracies and what follows from them, a row per run of a method; see `accuracy.tabulate_runs`."""
        return accuracy.tabulate_runs(self.scored[self.scored.method.isin(self.chosen.names)], self.tasks)

    @cached_property
    def rescaled(self) -> pd.DataFrame:
        """`runs` of the methods with the scale that unlabelled examples chose, under the method's own name."""
        scores = self.scored[self.scored.method.str.endswith(RESCALED)]
        if scores.empty:
            return self.runs.iloc[:0]
        named = scores.assign(method=scores.method.str.removesuffix(RESCALED))
        return accuracy.tabulate_runs(named, self.tasks, self.runs)

    @cached_property
    def marks(self) -> Marks[str]:
        """Which test examples all methods of `scored` answer rightly."""
        scored = self.scored.assign(seed=self.scored.seed.fillna(-1).astype("int64"))
        seeds = scored.groupby("method").seed.unique().map(tuple).to_dict()
        clusters = clusters_of(self.clusters, self.parameters["evaluation_split"])
        return mark_methods(self.correct, seeds, clusters=clusters)

    @cached_property
    def samples(self) -> dict[str, int]:
        """{method: most unlabelled examples that it used of a task}."""
        return self.scored.groupby("method").samples.max().to_dict()

    @cached_property
    def parameters(self) -> dict[str, Any]:
        """The parameters of all stages."""
        return merge_parameters(self.suite, self.records)

    @cached_property
    def protocol(self) -> Protocol:
        """The splits, examples and seeds that the numbers were measured with."""
        used = self.scored[self.scored.method == MAIN].groupby("task").samples.min()
        names = ("calibration_split", "evaluation_split", "samples_per_task")
        calibration, scored, requested = (self.parameters[name] for name in names)
        counts, seeds = {task: int(used[task]) for task in self.tasks}, self.parameters["seeds"]
        unlabelled = [task for task, splits in self.origin.get("unlabelled", {}).items() if scored in splits]
        return Protocol(self.suite, calibration, scored, requested, counts, seeds, self.origin["embedded"], unlabelled)

    @property
    def titles(self) -> dict[str, str]:
        """{method: its title}, in the order of the tables."""
        return {name: reference.title for name, reference in self.references.items()}

    @property
    def sections(self) -> dict[str, list[str]]:
        """{section of the tables: its methods}."""
        return self.chosen.sections(self.several)

    @property
    def seconds(self) -> dict[str, float]:
        """{method: duration of the stage that made its merge}."""
        records = dict(zip(record_names(self.suite, self.chosen), self.records, strict=True))
        return {name: records[record]["seconds"] for name, record in merge_records(self.suite, self.chosen)}


def load(folder: Path) -> Evidence:
    """Load the evidence of a suite; EvidenceError names a file that is missing, damaged or does not fit the others."""
    suite, methods, records = folder.name, load_json(folder / "methods.json"), load_json(folder / "records.json")
    chosen = Chosen(**{name: tuple(values) for name, values in methods["chosen"].items()})
    previews = load_arrays(folder / "previews.npz")
    tasks = tuple(previews)
    scored = accuracy.parse_scores(load_text(folder / "scores.csv"), folder / "scores.csv")
    measures = load_table(folder / "measures.csv", ("suite", "measure"))
    coefficients, groups = _coefficients(folder / "coefficients.csv", tasks)
    return Evidence(
        suite=suite,
        tasks=tasks,
        chosen=chosen,
        references={name: Reference(**methods["references"][name]) for name in chosen.names},
        several=frozenset(methods["several"]),
        scored=scored,
        correct=_correct(folder / "answers.npz", scored, tasks),
        measures=measures.fillna(dict.fromkeys(("layer", "task", "other"), "")),
        predictions=load_table(folder / "prediction.csv", ("suite", "measure")),
        names=load_json(folder / "measures.json"),
        losses=_losses(folder / "losses.csv"),
        coefficients=coefficients,
        groups=groups,
        clusters=load_arrays(folder / "clusters.npz"),
        previews=previews,
        records=tuple(_record(records, f"data/runs/{name}.json", folder) for name in record_names(suite, chosen)),
        costs={name: _record(records, f"data/costs/{suite}/{name}.json", folder) for name in chosen.names},
        origin=_record(records, f"data/origins/{suite}.json", folder),
    )


def merge_records(suite: str, chosen: Chosen) -> list[tuple[str, str]]:
    """List (method, name of the run record of the stage that made its merge)."""
    return [
        *((name, f"merge-{suite}-{name}") for name in chosen.data_free),
        *((svc_name(name), f"svc-{suite}-{name}") for name in chosen.svc),
        *((name, f"calibrate-{suite}-{name}") for name in chosen.calibrated[:-1]),
        (MAIN, f"{MAIN}-{suite}"),
        *((surgery_name(name), f"surgery-{suite}-{name}") for name in chosen.operated),
    ]


def record_names(suite: str, chosen: Chosen) -> list[str]:
    """List the names of the run records, in the order of the pipeline."""
    scaled = [f"{name}{RESCALED}" for name in chosen.rescaled]
    return [
        *(f"{stage}-{suite}" for stage in ("train", "prepare", "teach", "diagnose")),
        *(record for _, record in merge_records(suite, chosen)),
        *(f"rescale-{suite}-{name}" for name in chosen.rescaled),
        *(f"evaluate-{suite}-{name}" for name in (*chosen.names, *scaled)),
    ]


def merge_parameters(suite: str, records: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Merge the parameters of all stages; EvidenceError if two stages ran with different values of one."""
    values: dict[str, Any] = {}
    for record in records:
        for key, value in record["params"].items():
            if values.setdefault(key, value) != value:
                raise EvidenceError(f"{suite}: stages ran with {key} = {values[key]} and {value}; {AGAIN}")
    return values


def load_text(path: Path) -> str:
    """Load the text of a file; EvidenceError if it cannot be read."""
    return _read(path, lambda content: content.decode("utf-8"))


def load_json(path: Path) -> Any:
    """Load the content of a JSON file; EvidenceError if it cannot be read."""
    return _read(path, json.loads)


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """Load the arrays of a .npz file; EvidenceError if it cannot be read."""
    return _read(path, lambda content: dict(np.load(io.BytesIO(content), allow_pickle=False)))


def clusters_of(clusters: Mapping[str, np.ndarray], split: str) -> dict[str, np.ndarray]:
    """Return {task: its clusters} of a split; clusters: {split/task: int64 [n, 1 + C]}."""
    prefix = f"{split}/"
    return {name.removeprefix(prefix): part for name, part in clusters.items() if name.startswith(prefix)}


def load_table(path: Path, columns: Collection[str], **options: Any) -> pd.DataFrame:
    """Load a CSV file; EvidenceError unless it has these columns and ends with a whole line.

    options: of `pandas.read_csv`.
    """
    text = load_text(path)
    frame = _read(path, lambda _: pd.read_csv(io.StringIO(text), **options))
    if missing := sorted({*columns} - {*frame.columns}):
        raise EvidenceError(f"{path}: no column {', '.join(missing)}; {AGAIN}")
    if not text.endswith("\n"):
        raise EvidenceError(f"{path}: ends in the middle of a line; {AGAIN}")
    return frame


def _read(path: Path, parse: Callable[[bytes], Content]) -> Content:
    try:
        return parse(path.read_bytes())
    except FileNotFoundError as error:
        raise EvidenceError(f"{path}: no such file; {AGAIN}") from error
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise EvidenceError(f"{path}: cannot be read ({' '.join(str(error).split())}); {AGAIN}") from error


def _record(records: Mapping[str, Any], path: str, folder: Path) -> Any:
    if path not in records:
        raise EvidenceError(f"{folder / 'records.json'}: no {path}; {AGAIN}")
    return records[path]


def _correct(path: Path, scored: pd.DataFrame, tasks: Sequence[str]) -> dict[str, dict[str, np.ndarray]]:
    """Unpack right or wrong, example by example; EvidenceError unless it agrees with the counts."""
    packed = load_arrays(path)
    correct: dict[str, dict[str, np.ndarray]] = {}
    for (method, task), rows in scored.groupby(["method", "task"], sort=False):
        if (name := f"{method}/{task}") not in packed:
            raise EvidenceError(f"{path}: no {name}; {AGAIN}")
        right = np.unpackbits(packed[name], axis=1)[:, : rows.total.iloc[0]].astype(bool)
        if right.sum(axis=1).tolist() != rows.correct.tolist() or rows.total.nunique() > 1:
            raise EvidenceError(f"{path}: right answers of {name} are not those counted in scores.csv; {AGAIN}")
        correct.setdefault(method, {})[task] = right
    return {method: {task: by_task[task] for task in tasks} for method, by_task in correct.items()}


def _coefficients(path: Path, tasks: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Load float32 [T, G], the mean over seeds, and the names of the G tensors."""
    rows = load_table(path, ("seed", "task", "tensor", "coefficient"))
    groups = tuple(rows.tensor.unique())
    if len(rows) != rows.seed.nunique() * len(tasks) * len(groups):
        raise EvidenceError(f"{path}: {len(rows)} coefficients, expected one per seed, task and tensor; {AGAIN}")
    return rows.coefficient.to_numpy(np.float32).reshape(-1, len(tasks), len(groups)).mean(axis=0), groups


def _losses(path: Path) -> dict[str, pd.DataFrame]:
    """Read the losses of every method: a row per seed, a column per step."""
    rows, curves = load_table(path, ("method", "seed", "step", "loss")), {}
    for method, part in rows.groupby("method", sort=False):
        curves[str(method)] = part.pivot(index="seed", columns="step", values="loss")
        if curves[str(method)].isna().any(axis=None):
            raise EvidenceError(f"{path}: steps of {method} are missing, expected a loss per seed and step; {AGAIN}")
    return curves


def format_csv(frame: pd.DataFrame, float_format: str | None = "%.6g") -> str:
    """Return the rows as CSV, empty where undefined; float_format: None for all digits."""
    return frame.to_csv(index=False, float_format=float_format, lineterminator="\n")
