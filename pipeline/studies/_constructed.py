"""Tasks that studies construct from those of a suite: the same images, other labels, experts of their own."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from pipeline.embedded import training
from pipeline.models.suite import SPLITS, SuiteFolder, Task
from pipeline.models.weights import FROZEN, Weights, fuse_qkv, split_qkv
from pipeline.runtime import store
from pipeline.runtime.resumable import Form
from pipeline.statistics.sampling import sample_indices
from pipeline.suites import mini

WEIGHTS = Form(".safetensors", store.write_tensors, lambda path: dict(store.TensorFile(path)))
Number = TypeVar("Number", int, float)


def ascending(values: list[Number]) -> list[Number]:
    """Return the values; ValueError unless they ascend."""
    if sorted({*values}) != values:
        raise ValueError("expected different values in ascending order")
    return values


class ConstructedTask(NamedTuple):
    """A task with the images of another one."""

    source: str
    """The task of the suite."""
    expert: Weights
    head: Tensor
    """[classes, D]."""
    labels: np.ndarray
    """The label [classes] of every class of the source."""


def permute_classes(classes: int, degree: float, seed: int, source: str) -> np.ndarray:
    """Return the next class [classes] on a circle of a share `degree` of them, drawn; others are their own next one.

    Draws are nested: what is drawn for one degree is drawn for every larger one.
    """
    number = max(2, math.floor(degree * classes + 0.5)) if degree else 0
    drawn = sample_indices(classes, number, seed, f"classes of {source}").numpy()
    following = np.arange(classes)
    following[drawn] = np.roll(drawn, -1)
    return following


def train_constructed(
    suite: Path,
    source: str,
    head: Tensor,
    targets: np.ndarray,
    recipe: mini.Recipe,
    rng: torch.Generator,
    objective: Callable[[Tensor, Tensor], Tensor] = cross_entropy,
) -> Weights:
    """Fine-tune the suite's base to other labels of a task's images, on one thread; rounded to float16 as its experts.

    targets: of every class of the source, as `objective` takes them beside the logits.
    """
    from open_clip import CLIP

    folder = SuiteFolder(suite)
    with torch.random.fork_rng(devices=[]):
        tower = CLIP(**training.config(recipe)).visual.eval()
    tower.load_state_dict(fuse_qkv(folder.base()))
    tuned = {name: parameter for name, parameter in tower.named_parameters() if name not in FROZEN}
    drawn = np.array(folder.examples("train", source)), targets[folder.labels("train", source)]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        training.fit(tower, [*tuned.values()], head, drawn, recipe, rng, objective)
    finally:
        torch.set_num_threads(threads)
    return split_qkv({name: parameter.detach().half().float() for name, parameter in tuned.items()})


def assemble_tasks(suite: Path, tasks: Mapping[str, ConstructedTask], folder: Path) -> None:
    """Write a suite with the tasks of `suite` and, after them, the constructed ones; what they share is linked."""
    original = SuiteFolder(suite)
    places = [f"{kind}/{split}" for kind in ("images", "labels") for split in SPLITS]
    for place in ("experts", *places):
        (folder / place).mkdir(parents=True)
        for file in (suite / place).iterdir():
            (folder / place / file.name).symlink_to(file.resolve())
    (folder / "base.safetensors").symlink_to((suite / "base.safetensors").resolve())
    known = {task.name: task for task in original.suite.tasks}
    for name, (source, expert, _, relabelled) in tasks.items():
        known[name] = Task(name=name, classes=known[source].classes)
        store.write_tensors(folder / "experts" / f"{name}.safetensors", expert)
        for split in SPLITS:
            images = suite / "images" / split / f"{source}.npy"
            (folder / "images" / split / f"{name}.npy").symlink_to(images.resolve())
            labels = relabelled[original.labels(split, source)]
            store.write_array(folder / "labels" / split / f"{name}.npy", labels)
    heads = {**original.heads(), **{name: task.head.clone() for name, task in tasks.items()}}
    store.write_tensors(folder / "heads.safetensors", heads)
    original.suite.model_copy(update={"tasks": (*known.values(),)}).save(folder)
