"""A suite: tasks on one backbone, in one on-disk layout for all families.

    suite.json                          name, model, tasks with their classes, tensor order, provenance
    base.safetensors                    theta_0, the encoder with q, k, v apart, frozen tensors included
    experts/<task>.safetensors          theta_t, the same tensors without the frozen ones
    heads.safetensors                   <task>: head [classes, D]; a zero-shot one has rows of unit length times a scale
    images/<split>/<task>.npy           uint8 [N, H, W, 3], or instead
    texts/<split>/<task>.npy            int32 [N, L], token ids with padding (`pipeline.models.examples`)
    tokenizer.json                      what turned texts into token ids, as the tokenizers package reads it
    general.npy                         only of language models: int32 [N, L + 1], text of no task, held out from all
    labels/<split>/<task>.npy           int64 [N]
    clusters/<split>/<task>.npy         int64 [N, 1 + C], which examples depend on each other; absent if none do

Clusters: examples with equal numbers in one of the last C columns depend on each other, such as crops of one part of a
photograph, or letters in one font. The first column has strata: examples of each are drawn apart, as those of a class
that is one photograph. It is 0 where all are drawn alike.

Only this module knows where these files are. `SuiteFolder` checks all that can be checked without reading tensors and
images, so that a broken folder is reported before any work starts. Frozen are the tensors of the base that are not
merged.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from pipeline.models.bert import Bert
from pipeline.models.encoder import Transformer
from pipeline.models.gpt2 import Gpt2
from pipeline.models.task_vectors import TaskVectors
from pipeline.models.vit import VisionTransformer
from pipeline.runtime import store
from pipeline.runtime.errors import BenchmarkError, abbreviate

SPLITS = ("train", "validation", "test")
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.-]*$", max_length=80)]
Deviation = Annotated[float, Field(gt=0)]
TEXT_ENCODERS: dict[str, type[Bert] | type[Gpt2]] = {"bert": Bert, "gpt2": Gpt2}
"""By the `architecture` of a model; a model without one is a CLIP."""


def _supported(model: dict[str, Any]) -> dict[str, Any]:
    name = model.get("architecture")
    if name is None:
        VisionTransformer.check(model)
    elif name in [*TEXT_ENCODERS]:
        TEXT_ENCODERS[name].check(model)
    else:
        raise ValueError(f"architecture {abbreviate(name)}, expected {', '.join(TEXT_ENCODERS)} or, for a CLIP, none")
    return model


class SuiteError(BenchmarkError):
    """An incomplete or inconsistent suite folder; the message names the file and what was expected."""


class Task(BaseModel):
    """A classification task: its name, and the names of its classes in label order."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: Name
    classes: tuple[str, ...]


class Suite(BaseModel):
    """The content of suite.json, see the module's docstring."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    name: Name
    tasks: tuple[Task, ...]
    model: Annotated[dict[str, Any], AfterValidator(_supported)]
    """Arguments of `open_clip.CLIP`, or {"architecture": "bert" or "gpt2", ...} with the settings of that encoder."""
    mean: tuple[float, float, float] | None = Field(None, validate_default=True)
    std: tuple[Deviation, Deviation, Deviation] | None = Field(None, validate_default=True)
    """Of the pixels' channels; None for texts."""
    groups: tuple[str, ...]
    """The tensors that are merged, in the model's order: one coefficient per task and group."""
    provenance: dict[str, Any] = {}
    """Where weights and data came from: sources, revisions, licences, overlap between splits."""

    @field_validator("mean", "std")
    @classmethod
    def _of_pixels(cls, values: tuple[float, ...] | None, info: ValidationInfo) -> tuple[float, ...] | None:
        if "model" in info.data and (values is None) == (info.data["model"].get("architecture") is None):
            raise ValueError("expected three numbers for images, and none for texts")
        return values

    @property
    def task_names(self) -> tuple[str, ...]:
        """Task names in order: the first axis of every coefficient tensor."""
        return tuple(task.name for task in self.tasks)

    def encoder(self) -> Transformer:
        """Return the encoder as a function of its weights."""
        if self.mean is None or self.std is None:
            return TEXT_ENCODERS[self.model["architecture"]](self.model)
        return VisionTransformer(self.model, self.mean, self.std)

    def only(self, tasks: Collection[str]) -> "Suite":
        """Return the suite with these tasks only, in its own order; SuiteError if it lacks one."""
        if unknown := sorted({*tasks} - {*self.task_names}):
            raise SuiteError(f"{self.name}: no task {unknown[0]!r}; expected some of {', '.join(self.task_names)}")
        return self.model_copy(update={"tasks": tuple(task for task in self.tasks if task.name in tasks)})

    def save(self, folder: Path) -> None:
        """Write suite.json; the other files are written by the family that prepares the suite."""
        absent = {name for name in ("mean", "std") if getattr(self, name) is None}
        store.write_json(folder / "suite.json", self.model_dump(mode="json", exclude=absent))


class SuiteFolder:
    """A suite on disk: its `suite`, and lazy access to its tensors and examples."""

    def __init__(self, folder: Path, only: Collection[str] | None = None) -> None:
        """Open and check the folder; SuiteError or StoreError names the first file that is wrong.

        `only`: restrict the suite to these tasks, in its own order.
        """
        self.folder = folder
        try:
            self.suite = Suite.model_validate(store.read_json(folder / "suite.json"))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise SuiteError(f"{folder / 'suite.json'}: {where}: {first['msg']}; prepare the suite again") from error
        if only is not None:
            self.suite = self.suite.only(only)
        self._encoder = self.suite.encoder()
        self._check()

    def base(self) -> store.TensorFile:
        """Return theta_0: every tensor of the encoder, the frozen ones included."""
        return store.TensorFile(self.folder / "base.safetensors")

    def heads(self) -> store.TensorFile:
        """Return the heads: {task: [classes, D]}."""
        return store.TensorFile(self.folder / "heads.safetensors")

    def expert(self, task: str) -> store.TensorFile:
        """Return theta_t: the tensors that are merged."""
        return store.TensorFile(self.folder / "experts" / f"{task}.safetensors")

    def vectors(self, dtype: torch.dtype = torch.float32, target: torch.device | str = "cpu") -> TaskVectors:
        """Return the task vectors, read from disk and formed on `target` tensor by tensor."""
        experts = [self.expert(task) for task in self.suite.task_names]
        return TaskVectors(self.base(), experts, self.suite.groups, dtype, self.suite.task_names, target)

    def examples(self, split: str, task: str) -> np.ndarray:
        """Return the examples of a split, memory-mapped: images uint8 [N, H, W, 3] or texts int32 [N, L]."""
        return store.read_array(self._examples(split, task))

    def preview(self, task: str, count: int) -> np.ndarray:
        """Return the first test examples: images uint8 [n, H, W, 3], or texts as the encoder reads them, str [n]."""
        examples = np.array(self.examples("test", task)[:count])
        if self._encoder.kind == "images":
            return examples
        from tokenizers import Tokenizer  # only where texts are shown

        tokenizer = Tokenizer.from_file(str(self.folder / "tokenizer.json"))
        return np.array([tokenizer.decode(ids[ids >= 0].tolist()) for ids in examples])

    def blank(self) -> torch.Tensor:
        """Return one example of zeros: a black image, or a text without padding."""
        pool = self.examples(SPLITS[0], self.suite.task_names[0])
        return torch.from_numpy(np.zeros((1, *pool.shape[1:]), pool.dtype))

    def labels(self, split: str, task: str) -> np.ndarray:
        """Return the labels of a split, int64 [N], memory-mapped."""
        return store.read_array(self._labels(split, task))

    def clusters(self, split: str, task: str) -> np.ndarray | None:
        """Return stratum and clusters of every example of a split, int64 [N, 1 + C]; None if all are independent."""
        path = self._clusters(split, task)
        return store.read_array(path) if path.exists() else None

    def general(self) -> np.ndarray | None:
        """Return held-out general text int32 [N, L + 1] of a suite of language models; None of any other suite.

        The tasks of such a suite have one head, and the label of a text is the token that follows it.
        """
        path = self.folder / "general.npy"
        return store.read_array(path) if path.exists() else None

    def _examples(self, split: str, task: str) -> Path:
        return self.folder / self._encoder.kind / split / f"{task}.npy"

    def _labels(self, split: str, task: str) -> Path:
        return self.folder / "labels" / split / f"{task}.npy"

    def _clusters(self, split: str, task: str) -> Path:
        return self.folder / "clusters" / split / f"{task}.npy"

    def _check(self) -> None:
        suite = self.suite
        if len(set(suite.task_names)) != len(suite.tasks):
            raise SuiteError(f"{self.folder}: task names must differ, got {', '.join(suite.task_names)}")
        path, base, expected = self.folder / "base.safetensors", self.base().shapes(), self._encoder.shapes()
        _same_shapes(path, base, expected, "the model of suite.json asks for")
        if unknown := sorted({*suite.groups} - base.keys()):
            raise SuiteError(f"{self.folder / 'suite.json'}: groups: no tensor {unknown[0]!r} in {path.name}")
        merged = {name: base[name] for name in suite.groups}
        for task in suite.task_names:
            path = self.folder / "experts" / f"{task}.safetensors"
            _same_shapes(path, self.expert(task).shapes(), merged, "the base has")
        heads = self.heads().shapes()
        for task in suite.tasks:
            shape = heads.get(task.name, ())
            if shape != (len(task.classes), self._encoder.features):
                raise SuiteError(
                    f"{self.folder / 'heads.safetensors'}: head of {task.name} has shape {list(shape)}, expected "
                    f"{[len(task.classes), self._encoder.features]}, a row per class of suite.json and a column per "
                    "feature of the encoder"
                )
            for split in SPLITS:
                self._check_split(split, task)

    def _check_split(self, split: str, task: Task) -> None:
        examples, labels = self.examples(split, task.name), self.labels(split, task.name)
        path = self._examples(split, task.name)
        if fault := self._encoder.find_fault(examples):
            raise SuiteError(f"{path}: {fault}")
        if examples.shape[1:] != (first := self.blank().shape[1:]):
            raise SuiteError(
                f"{path}: {self._encoder.kind} of shape {list(examples.shape[1:])}, those of "
                f"{self.suite.task_names[0]} have {list(first)}; expected one shape for all tasks"
            )
        if labels.dtype != np.int64:
            raise SuiteError(f"{self._labels(split, task.name)}: {labels.dtype}, expected int64")
        if labels.shape != (len(examples),):
            raise SuiteError(f"{path}: {len(examples)} {self._encoder.kind} but labels of shape {list(labels.shape)}")
        if (clusters := self.clusters(split, task.name)) is not None:
            whole = clusters.ndim == 2 and len(clusters) == len(labels) and clusters.shape[1] > 1
            if clusters.dtype != np.int64 or not whole:
                raise SuiteError(
                    f"{self._clusters(split, task.name)}: {clusters.dtype} of shape {list(clusters.shape)}, expected "
                    f"int64 [{len(labels)}, 1 + C], a stratum and clusters for every example"
                )
        if len(labels) and not (labels.min() >= 0 and labels.max() < len(task.classes)):
            raise SuiteError(
                f"{self._labels(split, task.name)}: labels from {labels.min()} to {labels.max()}, "
                f"expected 0 to {len(task.classes) - 1} ({len(task.classes)} classes in suite.json)"
            )


def write_clusters(folder: Path, split: str, task: str, clusters: np.ndarray) -> None:
    """Write the clusters int64 [N, 1 + C] of a split's examples, unless all of them are independent."""
    if any(len(np.unique(column)) < len(clusters) for column in clusters[:, 1:].T):
        store.write_array(folder / "clusters" / split / f"{task}.npy", clusters)


def _same_shapes(
    path: Path, shapes: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]], source: str
) -> None:
    """Raise SuiteError unless `shapes` equals `expected`; `source` is what they come from."""
    if missing := sorted(expected.keys() - shapes.keys()):
        raise SuiteError(f"{path}: {len(missing)} tensors are missing, the first is {missing[0]!r}")
    if extra := sorted(shapes.keys() - expected.keys()):
        raise SuiteError(f"{path}: {len(extra)} tensors do not belong to the suite, the first is {extra[0]!r}")
    for name in sorted(expected):
        if shapes[name] != expected[name]:
            raise SuiteError(f"{path}: {name} has shape {list(shapes[name])}, {source} {list(expected[name])}")
