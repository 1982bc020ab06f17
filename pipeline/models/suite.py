"""A suite: tasks on one backbone, in one on-disk layout for all families.

    suite.json                          name, model, tasks with their classes, tensor order, provenance
    base.safetensors                    theta_0, the image tower with q, k, v apart, frozen tensors included
    experts/<task>.safetensors          theta_t, the same tensors without the frozen ones
    heads.safetensors                   <task>: zero-shot head [classes, D], rows of unit length times the logit scale
    images/<split>/<task>.npy           uint8 [N, H, W, 3]
    labels/<split>/<task>.npy           int64 [N]

Only this module knows where these files are. `SuiteFolder` checks all that can be checked without reading tensors and
images, so that a broken folder is reported before any work starts.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from pipeline.models.encoder import Tower
from pipeline.models.task_vectors import TaskVectors
from pipeline.models.weights import FROZEN
from pipeline.runtime import store
from pipeline.runtime.errors import BenchmarkError

SPLITS = ("train", "validation", "test")
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.-]*$", max_length=80)]
Deviation = Annotated[float, Field(gt=0)]
VISION = ("image_size", "layers", "width", "head_width", "patch_size")
"""Keys of a model's vision_cfg that fix the shape of the image tower: positive whole numbers."""


def _with_tower(model: dict[str, Any]) -> dict[str, Any]:
    content = model.get("vision_cfg")
    vision = content if isinstance(content, dict) else {}
    for key in VISION:
        value = vision.get(key)
        if type(value) is not int or value < 1:
            raise ValueError(f"vision_cfg: {key} is {value!r}, expected a positive whole number")
    if vision["width"] % vision["head_width"]:
        raise ValueError(f"vision_cfg: width {vision['width']} is no multiple of head_width {vision['head_width']}")
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
    model: Annotated[dict[str, Any], AfterValidator(_with_tower)]
    """Arguments of `open_clip.CLIP`."""
    mean: tuple[float, float, float]
    std: tuple[Deviation, Deviation, Deviation]
    groups: tuple[str, ...]
    """The tensors that are merged, in the model's order: one coefficient per task and group."""
    provenance: dict[str, Any] = {}
    """Where weights and data came from: sources, revisions, licences, overlap between splits."""

    @property
    def task_names(self) -> tuple[str, ...]:
        """Task names in order: the first axis of every coefficient tensor."""
        return tuple(task.name for task in self.tasks)

    def encoder(self) -> Tower:
        """Return the image encoder as a function of its weights."""
        return Tower(self.model, self.mean, self.std)

    def only(self, tasks: Collection[str]) -> "Suite":
        """Return the suite with these tasks only, in its own order; SuiteError if it lacks one."""
        if unknown := sorted({*tasks} - {*self.task_names}):
            raise SuiteError(f"{self.name}: no task {unknown[0]!r}; expected some of {', '.join(self.task_names)}")
        return self.model_copy(update={"tasks": tuple(task for task in self.tasks if task.name in tasks)})

    def save(self, folder: Path) -> None:
        """Write suite.json; the other files are written by the family that prepares the suite."""
        store.write_json(folder / "suite.json", self.model_dump(mode="json"))


class SuiteFolder:
    """A suite on disk: its `suite`, and lazy access to its tensors and images."""

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
        self._check()

    def base(self) -> store.TensorFile:
        """Return theta_0: every tensor of the image tower, the frozen ones included."""
        return store.TensorFile(self.folder / "base.safetensors")

    def heads(self) -> store.TensorFile:
        """Return the zero-shot heads: {task: [classes, D]}."""
        return store.TensorFile(self.folder / "heads.safetensors")

    def expert(self, task: str) -> store.TensorFile:
        """Return theta_t: the tensors that are merged."""
        return store.TensorFile(self.folder / "experts" / f"{task}.safetensors")

    def vectors(self, dtype: torch.dtype = torch.float32, target: torch.device | str = "cpu") -> TaskVectors:
        """Return the task vectors, read from disk and formed on `target` tensor by tensor."""
        experts = [self.expert(task) for task in self.suite.task_names]
        return TaskVectors(self.base(), experts, self.suite.groups, dtype, self.suite.task_names, target)

    def images(self, split: str, task: str) -> np.ndarray:
        """Return the images of a split, uint8 [N, H, W, 3], memory-mapped."""
        return store.read_array(self.folder / "images" / split / f"{task}.npy")

    def labels(self, split: str, task: str) -> np.ndarray:
        """Return the labels of a split, int64 [N], memory-mapped."""
        return store.read_array(self._labels(split, task))

    def _labels(self, split: str, task: str) -> Path:
        return self.folder / "labels" / split / f"{task}.npy"

    def _check(self) -> None:
        suite = self.suite
        if len(set(suite.task_names)) != len(suite.tasks):
            raise SuiteError(f"{self.folder}: task names must differ, got {', '.join(suite.task_names)}")
        base = self.base().shapes()
        _same_shapes(self.folder / "base.safetensors", base, base, {*suite.groups, *FROZEN})
        for task in suite.task_names:
            path = self.folder / "experts" / f"{task}.safetensors"
            _same_shapes(path, self.expert(task).shapes(), base, set(suite.groups))
        heads = self.heads().shapes()
        for task in suite.tasks:
            shape = heads.get(task.name, ())
            if len(shape) != 2 or shape[0] != len(task.classes):
                raise SuiteError(
                    f"{self.folder / 'heads.safetensors'}: head of {task.name} has shape {list(shape)}, expected "
                    f"[{len(task.classes)}, D], a row per class of suite.json"
                )
            for split in SPLITS:
                self._check_split(split, task)

    def _check_split(self, split: str, task: Task) -> None:
        images, labels = self.images(split, task.name), self.labels(split, task.name)
        path = self.folder / "images" / split / f"{task.name}.npy"
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
            raise SuiteError(f"{path}: {images.dtype} {list(images.shape)}, expected uint8 [N, H, W, 3]")
        if labels.dtype != np.int64:
            raise SuiteError(f"{self._labels(split, task.name)}: {labels.dtype}, expected int64")
        if labels.shape != (len(images),):
            raise SuiteError(f"{path}: {len(images)} images but labels of shape {list(labels.shape)}")
        if len(labels) and not (labels.min() >= 0 and labels.max() < len(task.classes)):
            raise SuiteError(
                f"{self._labels(split, task.name)}: labels from {labels.min()} to {labels.max()}, "
                f"expected 0 to {len(task.classes) - 1} ({len(task.classes)} classes in suite.json)"
            )


def _same_shapes(
    path: Path, shapes: Mapping[str, tuple[int, ...]], base: Mapping[str, tuple[int, ...]], expected: set[str]
) -> None:
    """Raise SuiteError unless `shapes` has exactly the `expected` tensors, each of its shape in `base`."""
    if missing := sorted(expected - shapes.keys()):
        raise SuiteError(f"{path}: {len(missing)} tensors are missing, the first is {missing[0]!r}")
    if extra := sorted(shapes.keys() - expected):
        raise SuiteError(f"{path}: {len(extra)} tensors do not belong to the suite, the first is {extra[0]!r}")
    for name in sorted(expected):
        if shapes[name] != base[name]:
            raise SuiteError(f"{path}: {name} has shape {list(shapes[name])}, the base has {list(base[name])}")
