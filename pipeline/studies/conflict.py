"""Conflict: merge tasks that label the same images differently, and as many tasks that do not.

A task A_q has the images and the head of a task A of the suite, its source, but a share q of the classes is permuted:
of the drawn classes, each one means the next. Draws are nested: what is permuted at one q is permuted at every larger
one. q = 0 is the same task twice. The expert of A_q is fine-tuned from the suite's base by the suite's recipe, with the
same batches for every q and others than those of A's expert. Merged are the pairs (A, A_q), and pairs of A with other
tasks of the suite.

A merged model is one function of image and head. A and A_q have the same of both, so it answers both alike: where their
labels differ it is right for one of them at most. If they differ on a share c of the test images,

    (accuracy on A + accuracy on A_q) / 2 <= 1 - c / 2.

Perfect answers to A attain this bound; they are scored as BOUND. Only embedded suites train experts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
from pydantic import AfterValidator, Field

from pipeline import methods
from pipeline.calibration.objectives import distillation, entropy
from pipeline.embedded import training
from pipeline.merges import storage
from pipeline.merges.answers import Answers
from pipeline.models.examples import encode
from pipeline.models.suite import SuiteFolder
from pipeline.models.weights import Weights, to_device
from pipeline.runtime import store
from pipeline.runtime.device import device
from pipeline.runtime.errors import BenchmarkError
from pipeline.runtime.resumable import Resumable
from pipeline.runtime.schema import Parameters
from pipeline.steps.calibrate import Setting, calibrate, draw_indices, require_memory
from pipeline.steps.evaluate import open_split, predict_classes
from pipeline.steps.merge import merge_data_free
from pipeline.steps.teach import compute_teacher_logits
from pipeline.studies._constructed import (
    WEIGHTS,
    ConstructedTask,
    ascending,
    assemble_tasks,
    permute_classes,
    train_constructed,
)
from pipeline.studies._teachers import write_teachers
from pipeline.studies._trials import MARK_COLUMNS, mark_answers
from pipeline.suites import mini

COLUMNS = ("source", "partner", "degree", *MARK_COLUMNS, "loss", "entropy")
"""`degree`: q, empty where the partner is a task of the suite; `loss` (distillation) and `entropy`, in nats, on the
calibration examples, empty where nothing is merged."""
BOUND, EXPERT = "bound", "individual"
"""Rows that are no merge: perfect answers to the source, and the answers of each task's expert."""


class Params(Parameters):
    """The pairs."""

    sources: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=2), AfterValidator(ascending)]
    """Tasks of the suite that get conflicting ones, by position; positions beyond its last task are ignored."""
    degrees: Annotated[list[Annotated[float, Field(ge=0, le=1)]], Field(min_length=1), AfterValidator(ascending)]
    """Shares q of the classes that are permuted; above 0 at least two classes are."""
    partners: int = Field(ge=1)
    """The next tasks of the suite that each source is merged with; no more than there are."""
    seed: int = Field(ge=0)
    """Of permutations, trainings and calibrations."""


class TooFewSources(BenchmarkError):
    """The suite has fewer than two of the sources, and an interval over sources needs two."""


class TaskPair(NamedTuple):
    """Two tasks that are merged."""

    source: str
    partner: str
    degree: float | None
    """q; None for a partner without conflict."""


def conflicting_name(source: str, degree: float) -> str:
    """Return the name of the task A_q of a source A."""
    return f"{source}-{degree:g}"


def pair_tasks(tasks: Sequence[str], params: Params) -> list[TaskPair]:
    """List the pairs of every source: conflicting ones by ascending degree, then those without conflict.

    tasks: of the suite. Raises TooFewSources.
    """
    places = [place for place in params.sources if place < len(tasks)]
    if len(places) < 2:
        raise TooFewSources(
            f"study.conflict.sources = {params.sources}: expected at least two positions below {len(tasks)}, the "
            f"number of tasks of the suite ({', '.join(tasks)})"
        )
    pairs = []
    for place in places:
        source, others = tasks[place], [*tasks[place + 1 :], *tasks[:place]]
        pairs += [TaskPair(source, conflicting_name(source, degree), degree) for degree in params.degrees]
        pairs += [TaskPair(source, other, None) for other in others[: params.partners]]
    return pairs


def train_permuted(suite: Path, source: str, degree: float, recipe: mini.Recipe, seed: int) -> Weights:
    """Fine-tune the expert of A_q from the suite's base."""
    head = SuiteFolder(suite).heads()[source]
    permuted = permute_classes(len(head), degree, seed, source)
    return train_constructed(suite, source, head, permuted, recipe, training.draws("conflict", source, seed))


def train_conflicts(
    suite: Path, recipe: mini.Recipe, params: Params, split: str, scratch: Path, work: Resumable
) -> tuple[Path, Path]:
    """Train the experts of all conflicting tasks; return a suite that has these tasks too, and its teacher logits.

    Both are written into `scratch`; split: of the logits.
    """
    pairs = pair_tasks(SuiteFolder(suite).suite.task_names, params)
    conflicts = [pair for pair in pairs if pair.degree is not None]
    pieces = [(suite, pair.source, pair.degree, recipe, params.seed) for pair in conflicts]
    trained = work.run(train_permuted, pieces, "trainings", form=WEIGHTS)
    heads, tasks = SuiteFolder(suite).heads(), {}
    for (source, name, degree), expert in zip(conflicts, trained, strict=True):
        permuted = permute_classes(len(heads[source]), float(degree or 0), params.seed, source)
        tasks[name] = ConstructedTask(source, expert, heads[source], permuted)
    folder = scratch / f"conflicts-{params.seed}"  # kept results of other trainings have another path
    assemble_tasks(suite, tasks, folder)
    return folder, write_teachers(folder, split, scratch / "teachers", work)


def score_expert(folder: Path, task: str, split: str) -> tuple[int, int, str]:
    """Return (correct, total, right) of a task's expert on a split."""
    predicted = compute_teacher_logits(folder, task, split).argmax(1).numpy()
    return mark_answers(Answers({task: predicted[None]}, {task: SuiteFolder(folder).labels(split, task)}))[task]


def score_pair(setting: Setting, samples: int, seed: int, split: str, temperature: float) -> dict[str, list]:
    """Merge the setting's tasks; return {task: [examples used, correct, total, right, loss, entropy]}.

    split: that is scored; loss at `temperature` and entropy are means over the calibration examples of the seed.
    """
    suite, module, target = setting.folder(), methods.load(setting.method), device()
    tasks, draws = suite.suite.task_names, draw_indices(suite, setting.split, samples, seed)
    if hasattr(module, "merge"):
        solution = merge_data_free(module, suite.vectors(), setting.params, tasks).solutions[0]
        used = dict.fromkeys(tasks, 0)
    else:
        solution, used = calibrate(setting, samples, seed), {task: len(draws[task]) for task in tasks}
    (model,) = storage.serve(suite, solution)
    marks = mark_answers(predict_classes([model], open_split(suite, split), setting.method))
    weights, rows = to_device(model.weights, target), {}
    for task in tasks:
        indices = draws[task].numpy()
        logits = encode(model.encoder, weights, suite.examples(setting.split, task)[indices], target)
        logits = logits @ model.heads[task].to(target).T
        teacher = torch.from_numpy(store.read_array(setting.teachers / f"{task}.npy")[indices]).to(target)
        measures = (float(objective(logits, teacher)) for objective in (distillation(temperature), entropy))
        rows[task] = [used[task], *marks[task], *measures]
    return rows


def score_conflicts(
    settings: Sequence[Setting], params: Params, samples: int, split: str, temperature: float, work: Resumable
) -> list[tuple]:
    """Return the rows of all pairs, with the columns COLUMNS: bound, experts, then every method.

    settings: of the methods, on the suite and the logits that `train_conflicts` returns.
    """
    suite = settings[0].folder()
    order = {task: place for place, task in enumerate(suite.suite.task_names)}
    names = {conflicting_name(task, degree) for task in order for degree in params.degrees}
    pairs = pair_tasks([task for task in order if task not in names], params)
    merged = [
        replace(setting, tasks=tuple(sorted(pair[:2], key=order.__getitem__))) for pair in pairs for setting in settings
    ]
    memory = max(require_memory(setting, samples) for setting in merged)
    pieces = [(setting, samples, params.seed, split, temperature) for setting in merged]
    results = iter(work.run(score_pair, pieces, "pairs", memory))
    experts = dict(
        zip(order, work.run(score_expert, [(suite.folder, task, split) for task in order], "experts"), strict=True)
    )
    rows = []
    for pair in pairs:
        known, degree = pair[:2], "" if pair.degree is None else f"{pair.degree:g}"
        scores: list[tuple[str, Mapping[str, Sequence]]] = []
        if pair.degree is not None:
            truth = suite.labels(split, pair.source)
            labels = {task: suite.labels(split, task) for task in known}
            perfect = mark_answers(Answers(dict.fromkeys(known, truth[None]), labels))
            scores.append((BOUND, {task: [0, *marks, "", ""] for task, marks in perfect.items()}))
        scores.append((EXPERT, {task: [0, *experts[task], "", ""] for task in known}))
        scores += [(setting.method, next(results)) for setting in settings]
        for method, measured in scores:
            for task in known:
                used, *marks, loss, uncertainty = measured[task]
                seed = params.seed if used else None
                written = (value if value == "" else f"{value:.6g}" for value in (loss, uncertainty))
                rows.append((*known, degree, suite.suite.name, method, task, seed, used, *marks, *written))
    return rows
