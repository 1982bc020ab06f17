"""The embedded suites: a small open_clip CLIP trained on the spot, eight tasks at 28x28, no network, minutes on a CPU.

They show the phenomena of the paper's suites at a thousandth of the cost; they are not the paper's benchmark.

1. The base is pre-trained by contrastive image-text training on the training images of all tasks. Captions are noisy
   as web captions are: a share of them names the next class of the same task. Features get strong, zero-shot stays
   middling; that is CLIP's regime, in which merging works at all.
2. Zero-shot heads come from the text tower, averaged over the templates.
3. One expert per task is fine-tuned from the base on clean labels, head and visual projection frozen.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize
from tqdm import trange

from pipeline import store
from pipeline.errors import BenchmarkError
from pipeline.model import FROZEN, Weights, build_clip, split_qkv
from pipeline.parallel import run
from pipeline.schema import Parameters
from pipeline.suite import SPLITS, Suite, SuiteFolder, Task
from pipeline.suites import _mini_images as images
from pipeline.tower import Tower

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
CONTEXT = 12
"""Tokens per caption: the longest caption has fewer."""
PRETRAIN_THREADS = 2
"""Fixed, so that the base's bytes do not depend on the number of cores."""


class Definition(Parameters):
    """The content of an embedded suite's YAML file."""

    tasks: list[images.TaskName] = Field(min_length=1)


class Recipe(Parameters):
    """How an embedded suite is made."""

    seed: int = Field(ge=0)
    train_images: int = Field(ge=16)
    validation_images: int = Field(ge=16)
    test_images: int = Field(ge=16)
    width: int = Field(ge=32, multiple_of=32)
    layers: int = Field(ge=1)
    caption_noise: float = Field(ge=0, le=1)
    pretrain_steps: int = Field(ge=1)
    pretrain_batch: int = Field(ge=2)
    pretrain_lr: float = Field(gt=0)
    expert_steps: int = Field(ge=1)
    expert_batch: int = Field(ge=1)
    expert_lr: float = Field(gt=0)

    def wanted(self) -> dict[str, int]:
        """Images per split that a task without an upper limit gets."""
        return {"train": self.train_images, "validation": self.validation_images, "test": self.test_images}


def sizes(definition: Definition, recipe: Recipe) -> dict[str, dict[str, int]]:
    """{task: {split: number of images}}, known before anything is prepared."""
    return {task: images.capped(task, recipe.wanted()) for task in definition.tasks}


def prepare(name: str, definition: Definition, recipe: Recipe, folder: Path) -> None:
    """Write the suite `name` into `folder`: images, base, heads, experts, suite.json."""
    tasks = tuple(definition.tasks)
    drawn = run(images.draw, [(task, recipe.wanted(), recipe.seed) for task in tasks], "images")
    for task, splits in zip(tasks, drawn, strict=True):
        for split, (pixels, labels) in splits.items():
            store.write_array(folder / "images" / split / f"{task}.npy", pixels)
            store.write_array(folder / "labels" / split / f"{task}.npy", labels)
    config = _config(recipe)
    clip = _pretrain(config, tasks, recipe, folder)
    base = split_qkv({key: value.detach() for key, value in clip.visual.named_parameters()})
    store.write_tensors(folder / "base.safetensors", base)
    store.write_tensors(folder / "heads.safetensors", {task: _head(clip, task) for task in tasks})
    run(_expert, [(task, config, recipe, folder) for task in tasks], "experts")
    suite = Suite(
        name=name,
        tasks=tuple(Task(name=task, classes=images.TASKS[task].classes) for task in tasks),
        model=config,
        mean=MEAN,
        std=STD,
        groups=tuple(key for key in base if key not in FROZEN),
        provenance={
            "source": "embedded: made from installed packages, see data/README.md",
            "embedded": True,
            "fetched": [],
            "overlap": {task: _overlap(folder, task) for task in tasks},
            "anchors": {},
            "published": [],
        },
    )
    suite.save(folder)
    SuiteFolder(folder)


def _overlap(folder: Path, task: str) -> dict[str, int]:
    """How many training and validation images occur among the test images, by content."""
    splits = {split: store.read_array(folder / "images" / split / f"{task}.npy") for split in SPLITS}
    contents = {split: [image.tobytes() for image in pixels] for split, pixels in splits.items()}
    known = {*contents["test"]}
    return {split: sum(image in known for image in contents[split]) for split in ("train", "validation")}


def _config(recipe: Recipe) -> dict[str, Any]:
    vision = {"layers": recipe.layers, "width": recipe.width, "head_width": 32, "patch_size": 7, "image_size": 28}
    text = {"context_length": CONTEXT, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2}
    return {"embed_dim": 64, "vision_cfg": vision, "text_cfg": text, "quick_gelu": True}


def _captions(task: str) -> Tensor:
    """Tokens of every caption of a task [classes, templates, CONTEXT]."""
    from open_clip import SimpleTokenizer

    classes, templates, _ = images.TASKS[task]
    texts = [template.format(name) for name in classes for template in templates]
    return SimpleTokenizer(context_length=CONTEXT)(texts).view(len(classes), len(templates), CONTEXT)


def _torch_generator(*key: object) -> torch.Generator:
    return torch.Generator().manual_seed(int(images.generator(*key).integers(2**62)))


def _jitter(pixels: Tensor, rng: torch.Generator) -> Tensor:
    """Images [N, H, W, 3] shifted by up to one pixel, each by its own offset, edges repeated."""
    count, height, width, _ = pixels.shape
    offsets = torch.randint(-1, 2, (2, count, 1), generator=rng)
    rows = (torch.arange(height) + offsets[0]).clamp(0, height - 1)
    columns = (torch.arange(width) + offsets[1]).clamp(0, width - 1)
    return pixels[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]


def _training(folder: Path, task: str) -> tuple[Tensor, Tensor]:
    """The training images uint8 [N, H, W, 3] and labels int64 [N] of a task."""
    files = (folder / kind / "train" / f"{task}.npy" for kind in ("images", "labels"))
    pixels, labels = (torch.from_numpy(np.array(store.read_array(file))) for file in files)
    return pixels, labels


def _pairs(tasks: tuple[str, ...], noise: float, folder: Path, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Image-caption pairs of all tasks: images [N, H, W, 3], the class that each caption names [N], all captions.

    Classes of all tasks are numbered through; captions are tokens [classes of all tasks, templates, CONTEXT]. A share
    `noise` of the captions names the next class of the same task instead of the image's own.
    """
    pixels, named, captions = [], [], []
    for task in tasks:
        images_of_task, labels = _training(folder, task)
        tokens = _captions(task)
        wrong = torch.rand(len(labels), generator=rng) < noise
        pixels.append(images_of_task)
        named.append((labels + wrong) % len(tokens) + sum(len(earlier) for earlier in captions))
        captions.append(tokens)
    return torch.cat(pixels), torch.cat(named), torch.cat(captions)


def _pretrain(config: Mapping[str, Any], tasks: tuple[str, ...], recipe: Recipe, folder: Path) -> torch.nn.Module:
    """The base: a CLIP trained on noisy image-caption pairs of all tasks."""
    from open_clip import ClipLoss

    rng = _torch_generator("pretrain", recipe.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        clip = build_clip(config)
    clip.token_embedding.requires_grad_(False)  # a table of 49,408 rows, of which the captions use a hundred
    pixels, named, captions = _pairs(tasks, recipe.caption_noise, folder, rng)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    trained = [parameter for parameter in clip.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in trained if parameter.ndim >= 2], "weight_decay": 0.05},
        {"params": [parameter for parameter in trained if parameter.ndim < 2], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=recipe.pretrain_lr, betas=(0.9, 0.98), fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, recipe.pretrain_lr, recipe.pretrain_steps, pct_start=0.1, cycle_momentum=False
    )
    contrast, threads = ClipLoss(), torch.get_num_threads()
    torch.set_num_threads(PRETRAIN_THREADS)
    for step in trange(recipe.pretrain_steps, desc="pre-training", unit="step"):
        batch = torch.randint(len(pixels), (recipe.pretrain_batch,), generator=rng)
        template = torch.randint(captions.shape[1], (len(batch),), generator=rng)
        texts, pair = torch.unique(captions[named[batch], template], dim=0, return_inverse=True)
        views = (_jitter(pixels[batch], rng).permute(0, 3, 1, 2).float() / 255 - mean) / std
        image_features = clip.encode_image(views, normalize=True)
        text_features = clip.encode_text(texts, normalize=True)[pair]
        loss = contrast(image_features, text_features, clip.logit_scale.exp())
        if not bool(torch.isfinite(loss)):
            raise BenchmarkError(f"pre-training diverged at step {step + 1}; lower pretrain_lr of the recipe")
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            clip.logit_scale.clamp_(max=math.log(100))
    torch.set_num_threads(threads)
    return clip.eval()


@torch.no_grad()
def _head(clip: torch.nn.Module, task: str) -> Tensor:
    """Zero-shot head [classes, D]: unit rows (mean of the templates' unit embeddings) times the logit scale."""
    tokens = _captions(task)
    embedded = clip.encode_text(tokens.flatten(0, 1), normalize=True).view(*tokens.shape[:2], -1)
    return normalize(embedded.mean(1), dim=-1) * clip.logit_scale.exp()


def _expert(task: str, config: Mapping[str, Any], recipe: Recipe, folder: Path) -> None:
    """Fine-tune the base on one task's labels, head and frozen tensors fixed, and write the expert."""
    rng = _torch_generator("expert", task, recipe.seed)
    base = dict(store.TensorFile(folder / "base.safetensors"))
    head = store.TensorFile(folder / "heads.safetensors")[task]
    pixels, labels = _training(folder, task)
    encode = Tower(config, MEAN, STD)
    frozen: Weights = {key: base[key] for key in FROZEN}
    expert = {key: value.requires_grad_() for key, value in base.items() if key not in FROZEN}
    optimiser = torch.optim.Adam(expert.values(), lr=recipe.expert_lr, fused=True)
    for step in range(recipe.expert_steps):
        for group in optimiser.param_groups:
            group["lr"] = recipe.expert_lr * 0.5 * (1 + math.cos(math.pi * step / recipe.expert_steps))
        batch = torch.randint(len(labels), (recipe.expert_batch,), generator=rng)
        features = encode({**expert, **frozen}, _jitter(pixels[batch], rng))
        loss = cross_entropy(features @ head.T, labels[batch])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
    store.write_tensors(
        folder / "experts" / f"{task}.safetensors", {key: value.detach() for key, value in expert.items()}
    )
