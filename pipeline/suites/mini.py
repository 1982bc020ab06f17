"""The embedded suites: up to eight small tasks at 28x28 and a small CLIP; no network, minutes on a CPU.

They show the phenomena of the paper's suites at a thousandth of the cost; they are not the paper's benchmark. Images
are drawn wherever a suite is prepared. Weights are not trained there but read from data/checkpoints/<suite>: stage
`train` wrote them once and they are committed to git, so that every machine starts from the same weights.

    base.safetensors, experts/<task>.safetensors    the image towers, float16, under open_clip's names
    heads.safetensors                               {task: zero-shot head [classes, D]}, float32
    images.json                                     SHA-256 of all arrays of the suite, and versions of packages
    sketches.npz                                    coarse versions of the images: `pipeline.embedded.images.sketch`
"""

import hashlib
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

import numpy as np
from pydantic import Field
from tqdm import tqdm

from pipeline.embedded import images, training
from pipeline.embedded.training import ExpertRecipe, Recipe
from pipeline.models.suite import SPLITS, Suite, SuiteFolder, Task, write_clusters
from pipeline.models.weights import FROZEN, Weights, split_qkv
from pipeline.runtime import store
from pipeline.runtime.errors import BenchmarkError
from pipeline.runtime.parallel import run_all
from pipeline.runtime.schema import Parameters

__all__ = ["Definition", "Recipe", "assemble_suite", "prepare", "sizes", "train"]
SuiteImages = Mapping[str, Mapping[str, images.Drawn]]
"""{task: {split: images}}."""
ROUNDING = 0.1
"""Largest change of the mean grey level of a sketch's cell that counts as rounding."""


class Definition(Parameters):
    """The content of an embedded suite's YAML file."""

    tasks: list[images.TaskName] = Field(min_length=2)


def sizes(definition: Definition, recipe: ExpertRecipe) -> dict[str, dict[str, int]]:
    """{task: {split: number of images}}, known before anything is prepared."""
    return {task: images.capped(task, recipe.sizes()) for task in definition.tasks}


def train(definition: Definition, recipe: Recipe, folder: Path) -> None:
    """Train the suite's weights and write the files that the module describes into `folder`.

    Raises BenchmarkError if the training diverges.
    """
    drawn = _draw(definition.tasks, recipe)
    examples = {task: splits["train"][:2] for task, splits in drawn.items()}
    try:
        trained = training.train(definition.tasks, examples, recipe, recipe.seed)
    except training.Diverged as error:
        raise BenchmarkError(f"{error}; lower pretrain_lr of the recipe") from error
    for name, tensors in trained.items():
        store.write_tensors(folder / f"{name}.safetensors", tensors)
    packages = sorted({package for task in definition.tasks for package in images.TASKS[task].packages})
    record = {"packages": {package: metadata.version(package) for package in packages}, "arrays": _hashes(drawn)}
    store.write_json(folder / "images.json", record)
    store.write_arrays(folder / "sketches.npz", _sketches(drawn), compress=True)


def prepare(name: str, definition: Definition, recipe: Recipe, checkpoints: Path, folder: Path) -> None:
    """Write the suite `name` into `folder`: draw its images and read its weights from `checkpoints`.

    Raises BenchmarkError if the images are not those that the weights were trained for (`draw_images`).
    """
    write_drawn(draw_images(definition.tasks, recipe, checkpoints), folder)
    files = ("base", "heads", *(f"experts/{task}" for task in definition.tasks))
    trained = {file: dict(store.TensorFile(checkpoints / f"{file}.safetensors")) for file in files}
    assemble_suite(name, definition.tasks, recipe, trained, folder)


def draw_images(tasks: Sequence[str], recipe: ExpertRecipe, checkpoints: Path) -> SuiteImages:
    """Draw the images that the weights in `checkpoints` were trained for.

    Raises BenchmarkError if these are other images. If only rounding differs, it warns and names the number of images.
    """
    drawn = _draw(tasks, recipe)
    _compare(drawn, checkpoints)
    return drawn


def write_drawn(drawn: SuiteImages, folder: Path) -> None:
    """Write images, labels and clusters of a suite into `folder`."""
    for task, splits in drawn.items():
        for split, (pixels, labels, clusters) in splits.items():
            store.write_array(folder / "images" / split / f"{task}.npy", pixels)
            store.write_array(folder / "labels" / split / f"{task}.npy", labels)
            write_clusters(folder, split, task, clusters)


def assemble_suite(
    name: str, tasks: Sequence[str], recipe: ExpertRecipe, trained: Mapping[str, Weights], folder: Path
) -> SuiteFolder:
    """Write weights and suite.json into `folder`, which holds the images already.

    trained: the result of `training.train`.
    """
    towers = {
        file: split_qkv({key: tensor.float() for key, tensor in tensors.items()})
        for file, tensors in trained.items()
        if file != "heads"
    }
    for file, tensors in {"heads": trained["heads"], **towers}.items():
        store.write_tensors(folder / f"{file}.safetensors", tensors)
    Suite(
        name=name,
        tasks=tuple(Task(name=task, classes=images.TASKS[task].classes) for task in tasks),
        model=training.config(recipe),
        mean=training.MEAN,
        std=training.STD,
        groups=tuple(key for key in towers["base"] if key not in FROZEN),
        provenance={
            "source": "embedded: made from installed packages, see data/README.md",
            "embedded": True,
            "fetched": [],
            "overlap": {task: _overlap(folder, task) for task in tasks},
            "anchors": {},
            "published": [],
        },
    ).save(folder)
    return SuiteFolder(folder)


def _draw(tasks: Sequence[str], recipe: ExpertRecipe) -> SuiteImages:
    drawn = run_all(images.draw, [(task, recipe.sizes(), recipe.seed) for task in tasks], "images")
    return dict(zip(tasks, drawn, strict=True))


def _hashes(drawn: SuiteImages) -> dict[str, dict[str, dict[str, str]]]:
    """{task: {split: {"images": SHA-256, "labels": SHA-256}}}."""
    return {
        task: {
            split: {"images": _sha256(pixels), "labels": _sha256(labels)}
            for split, (pixels, labels, _) in splits.items()
        }
        for task, splits in drawn.items()
    }


def _sha256(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def _sketches(drawn: SuiteImages) -> dict[str, np.ndarray]:
    return {
        f"{task}/{split}": images.sketch(pixels)
        for task, splits in drawn.items()
        for split, (pixels, _, _) in splits.items()
    }


def _compare(drawn: SuiteImages, checkpoints: Path) -> None:
    """Compare the drawn images with those that the weights were trained for: warn about rounding, raise otherwise."""
    record = store.read_json(checkpoints / "images.json")
    recorded = store.read_arrays(checkpoints / "sketches.npz")
    hashes, sketches = _hashes(drawn), _sketches(drawn)
    for task, split in ((task, split) for task in drawn for split in SPLITS):
        expected = record["arrays"][task][split]
        if hashes[task][split] == expected:
            continue
        versions = ", ".join(
            f"{package} {metadata.version(package)} (there {record['packages'][package]})"
            for package in images.TASKS[task].packages
        )
        title = f"{task}: its {split} images are not those that {checkpoints} was trained for; made here by {versions}"
        current, earlier = sketches[f"{task}/{split}"], recorded[f"{task}/{split}"]
        if hashes[task][split]["labels"] != expected["labels"] or current.shape != earlier.shape:
            raise BenchmarkError(f"{title}; install the versions of requirements.lock (make env)")
        differing, change = images.shift(current, earlier)
        if change > ROUNDING:
            raise BenchmarkError(
                f"{title}: {differing} of {len(current)} differ, by up to {change:.1f} grey levels on average over a "
                "sixteenth of an image; install the versions of requirements.lock (make env)"
            )
        tqdm.write(
            f"warning: {title}: {differing} of {len(current)} differ, by no more than rounding; so can accuracies"
        )


def _overlap(folder: Path, task: str) -> dict[str, int]:
    """Count the training and validation images that occur among the test images, by content."""
    splits = {split: store.read_array(folder / "images" / split / f"{task}.npy") for split in SPLITS}
    contents = {split: [image.tobytes() for image in pixels] for split, pixels in splits.items()}
    tested = {*contents["test"]}
    return {split: sum(image in tested for image in contents[split]) for split in ("train", "validation")}
