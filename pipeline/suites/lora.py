"""Embedded suites with low-rank experts: base, heads, images and tasks of a suite of family `mini`.

data/checkpoints/<suite> is complete: `train` copies what it takes from the checkpoints of the base's suite.

    base.safetensors, heads.safetensors, images.json, sketches.npz    as there: `pipeline.suites.mini`
    experts/<task>.safetensors    "<tensor>/A" [P, r, in], "<tensor>/B" [P, out, r], float16: `pipeline.embedded.lora`

A suite in data/suites holds whole experts: every method sees tensors, and none is told the factors.
"""

import hashlib
from pathlib import Path

from pydantic import Field
from tqdm import tqdm

from pipeline.embedded import images, lora
from pipeline.embedded.lora import Recipe
from pipeline.models.weights import Weights
from pipeline.runtime import store
from pipeline.runtime.errors import BenchmarkError
from pipeline.runtime.schema import Parameters
from pipeline.suites import mini

__all__ = ["Definition", "Recipe", "prepare", "sizes", "train"]
CHECKPOINTS = Path("data/checkpoints")
COPIED = ("base.safetensors", "heads.safetensors", "images.json", "sketches.npz")


class Definition(Parameters):
    """The content of the YAML file of such a suite."""

    base: str
    """The suite whose base, heads and images it has."""
    base_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    """Hash of its base.safetensors, so that this file changes with the base and `train` runs again."""
    tasks: list[images.TaskName] = Field(min_length=2)


def sizes(definition: Definition, recipe: Recipe) -> dict[str, dict[str, int]]:
    """{task: {split: number of images}}, known before anything is prepared."""
    return mini.sizes(mini.Definition(tasks=definition.tasks), recipe)


def train(definition: Definition, recipe: Recipe, folder: Path) -> None:
    """Fine-tune the experts and write the files that the module describes into `folder`.

    Raises BenchmarkError if the base is not the one that the definition names, if the recipe has other sizes, or if its
    images are not those of the base.
    """
    source = CHECKPOINTS / definition.base
    base, heads = _read(source, "base"), _read(source, "heads")
    _check(definition, recipe, source, base, heads)
    drawn = mini.draw_images(definition.tasks, recipe, source)
    for name in COPIED:
        store.write_bytes(folder / name, (source / name).read_bytes())
    for task in tqdm(definition.tasks, desc="experts", unit="expert"):
        factors = lora.fine_tune(base, heads[task], task, drawn[task]["train"][:2], recipe)
        store.write_tensors(folder / f"experts/{task}.safetensors", factors)


def prepare(name: str, definition: Definition, recipe: Recipe, checkpoints: Path, folder: Path) -> None:
    """Write the suite `name` into `folder`: draw its images, expand the factors of its experts in `checkpoints`.

    Raises BenchmarkError if the images are not those that the weights were trained for (`mini.draw_images`).
    """
    mini.write_drawn(mini.draw_images(definition.tasks, recipe, checkpoints), folder)
    base, heads = _read(checkpoints, "base"), _read(checkpoints, "heads")
    experts = {
        file: lora.expand(base, _read(checkpoints, file)) for file in (f"experts/{task}" for task in definition.tasks)
    }
    mini.assemble_suite(name, definition.tasks, recipe, {"base": base, "heads": heads, **experts}, folder)


def _read(folder: Path, file: str) -> Weights:
    return dict(store.TensorFile(folder / f"{file}.safetensors"))


def _check(definition: Definition, recipe: Recipe, source: Path, base: Weights, heads: Weights) -> None:
    path = source / "base.safetensors"
    present = hashlib.sha256(path.read_bytes()).hexdigest()
    if present != definition.base_sha256:
        raise BenchmarkError(
            f"{path} has the SHA-256 {present}, base_sha256 is {definition.base_sha256}; write the new one into the "
            "suite's YAML file if experts of this base are wanted, or get the old one back with git checkout"
        )
    width, layers = base["positional_embedding"].shape[1], sum(name.endswith("ln_1.weight") for name in base)
    if (recipe.width, recipe.layers) != (width, layers):
        raise BenchmarkError(
            f"{path}: width {width} and {layers} layers, the recipe has width {recipe.width} and {recipe.layers} "
            f"layers; copy those of recipe.{definition.base}"
        )
    if missing := sorted({*definition.tasks} - heads.keys()):
        raise BenchmarkError(
            f"{source / 'heads.safetensors'}: no head of {', '.join(missing)}; expected tasks of {definition.base}"
        )
