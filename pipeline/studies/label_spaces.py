"""Label spaces: merge two tasks on one domain that ask for different labels, and tasks of two domains.

A suite may have two such tasks, `related`. On embedded suites that train all weights they are constructed: the
multi-label task A_m of a task A, its source, has the images and the head of A. An image has m labels: its class and the
m - 1 that follow on a circle of all classes. With a logit z it has a label with probability sigmoid(z - b), where the
bias b lets the base see m labels of an image on average. The expert is fine-tuned from the base by the suite's recipe,
with binary cross-entropy. With m = 1 both tasks have the same labels, and only their losses differ.

The labels of an example are independent Bernoulli variables. Softmax of the pair (z, b) is sigmoid(z - b), so that an
objective of AdaMerging or SAMerging extends to labels: it is the sum over the labels, each a choice between two.

A merge can serve both tasks of a pair: a class is the label with the largest logit, and its labels are the m largest.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Annotated, NamedTuple, Self

import numpy as np
import torch
from pydantic import AfterValidator, Field, model_validator
from sklearn.metrics import average_precision_score
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from pipeline import methods
from pipeline.calibration.descent import descend
from pipeline.calibration.objectives import Objective, distillation, entropy
from pipeline.embedded import training
from pipeline.merges import storage
from pipeline.merges.solution import Solution
from pipeline.models.examples import encode
from pipeline.models.suite import Name, SuiteFolder
from pipeline.models.weights import Weights, to_device
from pipeline.runtime.device import device
from pipeline.runtime.errors import BenchmarkError
from pipeline.runtime.resumable import Resumable
from pipeline.runtime.schema import Parameters
from pipeline.steps.calibrate import Setting, calibrate, draw_indices, load_problem, require_memory
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
from pipeline.studies._trials import MARK_COLUMNS
from pipeline.suites import mini

COLUMNS = ("setting", "partner", "side", *MARK_COLUMNS, "average_precision")
"""`setting`: labels-<m>, related or other-<n>; `side`: what is scored on the images of `task`, the source: its classes,
or the label sets of its multi-label partner. Right: the class with the largest logit, or the label set with the m
largest. `average_precision`: in %, mean over the labels that occur, of label sets."""
SOURCE, LABELS = "source", "labels"
EXPERT, ENTROPY = "individual", "adamerging"


class Params(Parameters):
    """The pairs."""

    others: dict[Name, Annotated[list[Name], Field(min_length=1)]]
    """{source: tasks of other domains that it is merged with}; a source that the suite lacks, or some of whose tasks it
    lacks, is ignored."""
    related: list[Annotated[list[Name], Field(min_length=2, max_length=2)]]
    """Tasks on one domain. On embedded suites, a source without one gets multi-label tasks."""
    labels: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1), AfterValidator(ascending)]
    """Numbers m of labels of an image."""
    seed: int = Field(ge=0)
    """Of circles, trainings and calibrations."""

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len({len(names) for names in self.others.values()}) > 1:
            raise ValueError("expected as many tasks of other domains for every source")
        for names in (*self.related, *([source, *names] for source, names in self.others.items())):
            if len({*names}) < len(names):
                raise ValueError(f"expected different tasks, got {', '.join(names)}")
        return self


class DomainPair(NamedTuple):
    """Two tasks that are merged."""

    source: str
    partner: str
    setting: str
    """See COLUMNS."""
    labels: int
    """Of an image, of a multi-label partner; 0 for another one."""


class PairsError(BenchmarkError):
    """The sources of a suite cannot be compared."""


def pair_domains(tasks: Sequence[str], params: Params, constructs: bool) -> list[DomainPair]:
    """List the pairs of every source, those on one domain first; empty where no source has one.

    tasks: of the suite; constructs: whether multi-label ones are made. Raises PairsError for a single source, and for
    some with related tasks beside some with multi-label ones.
    """
    related = {source: partner for pair in params.related for source, partner in (pair, pair[::-1]) if partner in tasks}
    pairs, kinds = [], {}
    for source in (task for task in tasks if {*params.others.get(task, [""])} <= {*tasks}):
        if source in related:
            shared = [DomainPair(source, related[source], "related", 0)]
        elif constructs:
            shared = [DomainPair(source, f"{source}-{m}-labels", f"labels-{m}", m) for m in params.labels]
        else:
            continue
        kinds[source] = shared[0].labels > 0
        others = enumerate(params.others[source], start=1)
        pairs += [*shared, *(DomainPair(source, other, f"other-{n}", 0) for n, other in others)]
    if len(kinds) == 1 or len({*kinds.values()}) > 1:
        raise PairsError(
            f"study.label_spaces: of the suite's tasks ({', '.join(tasks)}) the sources are {', '.join(kinds)}; "
            f"expected at least two, either all with a related task or all without"
        )
    return pairs


def list_labels(classes: int, labels: int, seed: int, source: str) -> np.ndarray:
    """Return which labels the images of every class have, bool [classes, classes]."""
    following, member = permute_classes(classes, 1.0, seed, source), np.arange(classes)
    sets = np.zeros((classes, classes), dtype=bool)
    for _ in range(labels):
        sets[np.arange(classes), member] = True
        member = following[member]
    return sets


def find_bias(suite: SuiteFolder, source: str, labels: int) -> float:
    """Return the bias b of A_m: of the base's logits on the training images, a share labels / classes is above it."""
    head = suite.heads()[source]
    features = encode(suite.suite.encoder(), {**suite.base()}, suite.examples("train", source), torch.device("cpu"))
    return float(np.quantile((features @ head.T).numpy(), 1 - labels / len(head)))


def split_labels(logits: Tensor, bias: float) -> Tensor:
    """Return logits [..., 2] of the choice between having a label and not having it, from the label's logit."""
    return torch.stack((logits, torch.full_like(logits, bias)), dim=-1)


def extend_objective(objective: Objective, bias: float) -> Objective:
    """Extend an objective to multi-label tasks: the sum over labels, for teacher logits [B, labels, 2]."""

    def extended(logits: Tensor, teacher: Tensor) -> Tensor:
        if teacher.ndim == 2:
            return objective(logits, teacher)
        return logits.shape[1] * objective(split_labels(logits, bias).flatten(0, 1), teacher.flatten(0, 1))

    return extended


def train_labels(suite: Path, source: str, labels: int, recipe: mini.Recipe, seed: int) -> Weights:
    """Fine-tune the expert of A_m from the suite's base."""
    folder = SuiteFolder(suite)
    head, bias = folder.heads()[source], find_bias(folder, source, labels)
    targets = list_labels(len(head), labels, seed, source).astype(np.float32)
    rng = training.draws("label spaces", source, seed)

    def cross_entropy(logits: Tensor, truth: Tensor) -> Tensor:
        return binary_cross_entropy_with_logits(logits - bias, truth)

    return train_constructed(suite, source, head, targets, recipe, rng, cross_entropy)


def construct_tasks(
    suite: Path, recipe: mini.Recipe, pairs: Sequence[DomainPair], seed: int, split: str, scratch: Path, work: Resumable
) -> tuple[Path, Path]:
    """Train the experts of all multi-label tasks; return a suite that has these tasks too, and its teacher logits.

    Both are written into `scratch`; split: of the logits. Raises PairsError for as many labels as classes.
    """
    heads, made = SuiteFolder(suite).heads(), [pair for pair in pairs if pair.labels]
    for pair in made:
        if pair.labels >= (classes := len(heads[pair.source])):
            raise PairsError(
                f"study.label_spaces.labels: {pair.labels} labels for an image of {pair.source}, which has {classes} "
                f"classes; expected fewer than that"
            )
    pieces = [(suite, pair.source, pair.labels, recipe, seed) for pair in made]
    trained = work.run(train_labels, pieces, "trainings", form=WEIGHTS)
    tasks = {}
    for pair, expert in zip(made, trained, strict=True):
        head = heads[pair.source]
        tasks[pair.partner] = ConstructedTask(pair.source, expert, head, np.arange(len(head)))
    if tasks:
        folder = scratch / f"label-spaces-{seed}"  # kept results of other trainings have another path
        assemble_tasks(suite, tasks, folder)
        suite = folder
    return suite, write_teachers(suite, split, scratch / "teachers", work)


def solve_pair(setting: Setting, labels: int, samples: int, seed: int) -> Solution:
    """Merge the two tasks of the setting; the second is a multi-label task if `labels` is not 0."""
    suite, module = setting.folder(), methods.load(setting.method)
    if hasattr(module, "merge"):
        return merge_data_free(module, suite.vectors(), setting.params, suite.suite.task_names).solutions[0]
    if not labels:
        return calibrate(setting, samples, seed)
    problem = load_problem(setting, draw_indices(suite, setting.split, samples, seed))
    bias, (source, partner) = find_bias(suite, suite.suite.task_names[0], labels), problem.teachers
    problem = replace(problem, teachers=(source, split_labels(partner, bias)))
    settings = setting.params.model_dump()
    objective = entropy if setting.method == ENTROPY else distillation(settings.pop("temperature"))
    return descend(problem, extend_objective(objective, bias), setting.schedule, seed, **settings).cpu()


def mark_logits(logits: Tensor, classes: np.ndarray, sets: np.ndarray | None, title: str) -> tuple[int, int, str, str]:
    """Return the last four of COLUMNS from logits [n, classes] and the classes [n].

    sets: labels of every class, see `list_labels`; None for a task with one. Raises BenchmarkError, in which `title`
    names the model, for logits that are not finite.
    """
    if not bool(torch.isfinite(logits).all()):
        raise BenchmarkError(f"{title}: the logits are not finite; nothing was scored")
    values = logits.cpu().numpy()
    truth = (np.eye(values.shape[1], dtype=bool) if sets is None else sets)[classes]
    order = np.argsort(-values, axis=1, kind="stable")
    ranked = np.take_along_axis(truth, order, axis=1)
    right = np.array([row[:number].all() for row, number in zip(ranked, truth.sum(1), strict=True)])
    known = truth.any(0)
    precision = "" if sets is None else f"{100 * average_precision_score(truth[:, known], values[:, known]):.6g}"
    return int(right.sum()), len(right), np.packbits(right).tobytes().hex(), precision


def score_merge(setting: Setting, labels: int, samples: int, seed: int, split: str) -> dict[str, list]:
    """Merge the setting's two tasks; return {task: [examples used, *mark_logits]}."""
    suite, target = setting.folder(), device()
    (model,) = storage.serve(suite, solve_pair(setting, labels, samples, seed))
    weights, tasks = to_device(model.weights, target), suite.suite.task_names
    learned = not hasattr(methods.load(setting.method), "merge")
    rows = {}
    for task, draws in draw_indices(suite, setting.split, samples, seed).items():
        head = model.heads[task].to(target)
        logits = encode(model.encoder, weights, suite.examples(split, task), target) @ head.T
        sets = list_labels(len(head), labels, seed, tasks[0]) if labels and task == tasks[1] else None
        title = f"{setting.method} of {' and '.join(tasks)}, {task}"
        rows[task] = [len(draws) * learned, *mark_logits(logits, suite.labels(split, task), sets, title)]
    return rows


def score_alone(folder: Path, task: str, source: str, labels: int, seed: int, split: str) -> list:
    """Return [0, *mark_logits] of a task's expert; `labels` of a multi-label task of `source`, otherwise 0."""
    logits, classes = compute_teacher_logits(folder, task, split), SuiteFolder(folder).labels(split, task)
    sets = list_labels(logits.shape[1], labels, seed, source) if labels else None
    return [0, *mark_logits(logits, classes, sets, f"the expert of {task}")]


def score_pairs(
    settings: Sequence[Setting], pairs: Sequence[DomainPair], samples: int, seed: int, split: str, work: Resumable
) -> list[tuple]:
    """Return the rows of all pairs, with the columns COLUMNS: the experts', then every method's.

    settings: of the methods, on a suite that has all tasks of the pairs.
    """
    suite = settings[0].folder()
    order = {task: place for place, task in enumerate(suite.suite.task_names)}
    merges = {}
    for pair, setting in product(pairs, settings):
        tasks = tuple(sorted(pair[:2], key=order.__getitem__))
        merges[tasks, setting.method] = (replace(setting, tasks=tasks), pair.labels, samples, seed, split)
    memory = max(require_memory(piece[0], samples) for piece in merges.values())
    scores = dict(zip(merges, work.run(score_merge, [*merges.values()], "pairs", memory), strict=True))
    sides = {pair.partner: pair for pair in pairs if pair.labels} | {pair.source: None for pair in pairs}
    experts = [
        (suite.folder, task, pair.source if pair else task, pair.labels if pair else 0, seed, split)
        for task, pair in sides.items()
    ]
    alone = dict(zip(sides, work.run(score_alone, experts, "experts"), strict=True))
    rows = []
    for pair in pairs:
        tasks = tuple(sorted(pair[:2], key=order.__getitem__))
        scored: list[tuple[str, Mapping[str, Sequence]]] = [(EXPERT, alone)]
        scored += [(setting.method, scores[tasks, setting.method]) for setting in settings]
        for (method, marks), (side, task) in product(scored, ((SOURCE, pair.source), (LABELS, pair.partner))):
            if side == SOURCE or pair.labels:
                used, *measured = marks[task]
                run = (method, pair.source, seed if used else None, used)
                rows.append((pair.setting, pair.partner, side, suite.suite.name, *run, *measured))
    return rows
