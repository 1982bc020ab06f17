"""The model card: what a model is, how to load it, how it was made and how good it is."""

import hashlib
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Template
from scipy.stats import binomtest

from pipeline.export.origins import Source
from pipeline.export.portable import Portable
from pipeline.export.selection import Selection
from pipeline.runtime import store
from pipeline.runtime.errors import BenchmarkError
from pipeline.statistics.accuracy import check_scores, parse_scores

TEMPLATE = Path(__file__).with_name("card.md")
CODE = ("pipeline", "stages", "params.yaml", "dvc.yaml", "dvc.lock")
"""What decides the numbers; a new file among it counts as a change."""


@dataclass(frozen=True)
class Accuracy:
    """Right answers on the examples of a task, in per cent with a 95 % interval (Wilson, 1927)."""

    task: str
    samples: int
    """Unlabelled examples of the task that the method saw."""
    correct: int
    total: int
    percent: float
    low: float
    high: float


@dataclass(frozen=True)
class Guide:
    """What a card says of a kind of encoder."""

    things: Literal["images", "texts"]
    """What it encodes; `<things>.md` lists the files, and shows how to use them."""
    pipeline: str
    """The task that the hub files the model under."""
    tags: tuple[str, ...]
    facts: Mapping[str, Any]
    """What `<things>.md` needs beside the suite."""


@dataclass(frozen=True)
class Facts:
    """What is known of a merge before it is merged."""

    accuracies: Sequence[Accuracy]
    params: Mapping[str, Any]
    """The parameters of all stages behind it."""


def read_facts(selection: Selection) -> Facts:
    """Read the counts of the selected seed and tasks, and the parameters; BenchmarkError if they are incomplete."""
    frame = parse_scores(store.read_text(selection.scores), selection.scores)
    check_scores(frame, selection.suite.suite.task_names)
    rows = frame[frame.seed.isna() if selection.seed is None else frame.seed == selection.seed]
    columns = (rows[name].tolist() for name in ("samples", "correct", "total"))
    counts = dict(zip(rows.task, zip(*columns, strict=True), strict=True))
    if missing := sorted({*selection.tasks} - {*counts}):
        raise BenchmarkError(
            f"{selection.scores}: no {missing[0]} of seed {selection.seed}; evaluate again: {selection.lineage.cure}"
        )
    measured = [_measure(task, *counts[task]) for task in selection.tasks]
    return Facts(measured, selection.lineage.read_params())


def _measure(task: str, samples: int, correct: int, total: int) -> Accuracy:
    interval = binomtest(correct, total).proportion_ci(0.95, "wilson")
    return Accuracy(task, samples, correct, total, 100 * correct / total, 100 * interval.low, 100 * interval.high)


def write_card(selection: Selection, facts: Facts, portable: Portable, sources: Sequence[Source], guide: Guide) -> str:
    """Return the text of the card."""
    suite, lineage, title = selection.suite.suite, selection.lineage, selection.lineage.title()
    accuracies, params = facts.accuracies, facts.params
    split, embedded = params["evaluation_split"], bool(suite.provenance.get("embedded"))
    unlabelled = suite.provenance.get("unlabelled", {})
    agreeing = [row.task for row in accuracies if split in unlabelled.get(row.task, ())]
    clustered = [row.task for row in accuracies if selection.suite.clusters(split, row.task) is not None]
    results = [_result(suite.name, guide.pipeline, split, row) for row in accuracies if row.task not in agreeing]
    tasks = [task for task in suite.tasks if task.name in selection.tasks]
    usage = Template(TEMPLATE.with_name(f"{guide.things}.md").read_text("utf-8")).render(
        suite=suite, task=tasks[0].name, extras=bool(portable.extras), sources=sources, embedded=embedded, **guide.facts
    )
    public = dict.fromkeys(source.repo for source in sources if source.commit)
    data = ModelCardData(
        model_name=f"{title} on {suite.name}",
        library_name="transformers",
        license="mit" if embedded else None,
        pipeline_tag=guide.pipeline,
        tags=[*guide.tags, "model-merging", "merge", lineage.method, suite.name],
        base_model=[*public] or None,
        base_model_relation="merge" if public else None,
        metrics=["accuracy"],
        eval_results=None if portable.extras else results or None,
    )
    card = ModelCard.from_template(
        data,
        str(TEMPLATE),
        title=title,
        paper=lineage.paper(),
        suite=suite,
        tasks=tasks,
        note=portable.note,
        usage=usage,
        things=guide.things,
        sources=sources,
        source=suite.provenance.get("source", "not recorded"),
        fetched=suite.provenance.get("fetched", ()),
        seed=selection.seed,
        split=split,
        accuracies=accuracies,
        agreeing=agreeing,
        clustered=clustered,
        calibrated=any(row.samples for row in accuracies),
        params=params,
        commit=read_commit(),
        lock=hash_lock(),
    )
    return f"{card.content.rstrip()}\n"


def _result(suite: str, pipeline: str, split: str, row: Accuracy) -> EvalResult:
    return EvalResult(
        task_type=pipeline,
        dataset_type=f"{suite}/{row.task}",
        dataset_name=f"{row.task} of {suite}",
        dataset_split=split,
        metric_type="accuracy",
        metric_name="Accuracy (%)",
        metric_value=round(row.percent, 2),
    )


def read_commit(root: Path = Path()) -> str:
    """Return the commit of a checkout, and whether code, parameters and lock are those of the commit."""
    try:
        commit = _git(root, "rev-parse", "HEAD")
        changed = _git(root, "status", "--porcelain", "--", *CODE)
    except (OSError, subprocess.CalledProcessError):
        return "unknown (no Git checkout)"
    return f"{commit}, with uncommitted changes" if changed else commit


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout.strip()


def hash_lock(path: Path = Path("dvc.lock")) -> str:
    """Return the SHA-256 of dvc.lock, the hashes of all behind the numbers."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "unknown (no dvc.lock)"
