"""Training of the weights of an embedded suite: a small open_clip CLIP, its zero-shot heads, an expert per task.

1. The base is pre-trained by contrastive image-text training on the training images of all tasks. Captions are noisy,
   like captions from the web: a share of them names the next class of the same task. This gives strong features and a
   moderate zero-shot accuracy, the regime of CLIP in which merging works.
2. Zero-shot heads come from the text tower, averaged over the templates.
3. One expert per task is fine-tuned from the base on clean labels, with its head and visual projection frozen.

Weights are rounded to float16 after the training; the rounded values are the weights of the suite. The slightest
difference of rounding changes the course of the training, so that another processor trains other weights. The weights
are therefore committed to git.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize
from tqdm import tqdm, trange

from pipeline.embedded import images

if TYPE_CHECKING:
    from open_clip import CLIP

Weights = dict[str, Tensor]
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
CONTEXT = 12
"""Tokens per caption; the longest caption has fewer."""
FROZEN = "proj"
"""The visual projection; experts keep that of the base."""


class ExpertRecipe(BaseModel):
    """Sizes of an embedded suite and of its image tower, and how its experts are fine-tuned."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
    seed: int = Field(ge=0)
    train_images: int = Field(ge=16)
    validation_images: int = Field(ge=16)
    test_images: int = Field(ge=16)
    width: int = Field(ge=32, multiple_of=32)
    layers: int = Field(ge=1)
    expert_steps: int = Field(ge=1)
    expert_batch: int = Field(ge=1)
    expert_lr: float = Field(gt=0)

    def sizes(self) -> dict[str, int]:
        """Return the number of images per split of a task that is not limited by a collection."""
        return {"train": self.train_images, "validation": self.validation_images, "test": self.test_images}


class Recipe(ExpertRecipe):
    """Sizes and hyperparameters of an embedded suite, `recipe.<suite>` in params.yaml."""

    caption_noise: float = Field(ge=0, le=1)
    pretrain_steps: int = Field(ge=1)
    pretrain_batch: int = Field(ge=2)
    pretrain_lr: float = Field(gt=0)


class Diverged(ArithmeticError):
    """The pre-training loss is no longer finite; the message names the step."""


def config(recipe: ExpertRecipe) -> dict[str, Any]:
    """Return the arguments of `open_clip.CLIP`."""
    vision = {"layers": recipe.layers, "width": recipe.width, "head_width": 32, "patch_size": 7, "image_size": 28}
    text = {"context_length": CONTEXT, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2}
    return {"embed_dim": 64, "vision_cfg": vision, "text_cfg": text, "quick_gelu": True}


def train(tasks: Sequence[str], drawn: Mapping[str, images.Images], recipe: Recipe, seed: int) -> dict[str, Weights]:
    """Train base, heads and experts: {"base": tensors, "heads": {task: head}, "experts/<task>": tensors}.

    drawn: {task: training images and labels}; seed: seed of initial weights, captions and batches. The image towers'
    tensors are float16 under open_clip's names, heads are float32 [classes, D]. Training uses one thread, so that the
    bytes depend only on the processor and the versions of the packages. Raises Diverged.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        clip = _pretrained(tasks, drawn, recipe, seed)
        trained = {"base": _rounded(clip.visual), "heads": {task: zero_shot_head(clip, task) for task in tasks}}
        for task in tqdm(tasks, desc="experts", unit="expert"):
            head = trained["heads"][task]
            trained[f"experts/{task}"] = _fine_tuned(clip.visual, head, task, drawn[task], recipe, seed)
    finally:
        torch.set_num_threads(threads)
    return trained


def captions(task: str) -> Tensor:
    """Return the tokens of every caption of a task [classes, templates, CONTEXT]."""
    from open_clip import SimpleTokenizer

    about = images.TASKS[task]
    texts = [template.format(name) for name in about.classes for template in about.templates]
    return SimpleTokenizer(context_length=CONTEXT)(texts).view(len(about.classes), len(about.templates), CONTEXT)


@torch.no_grad()
def zero_shot_head(clip: "CLIP", task: str) -> Tensor:
    """Return the zero-shot head [classes, D]: unit rows (templates' mean unit embeddings) times the logit scale."""
    tokens = captions(task)
    embedded = clip.encode_text(tokens.flatten(0, 1), normalize=True).view(*tokens.shape[:2], -1)
    return normalize(embedded.mean(1), dim=-1) * clip.logit_scale.exp()


def jitter(pixels: Tensor, rng: torch.Generator) -> Tensor:
    """Shift images [N, H, W, 3] by up to one pixel, each by its own offset; edges are repeated."""
    count, height, width, _ = pixels.shape
    offsets = torch.randint(-1, 2, (2, count, 1), generator=rng)
    rows = (torch.arange(height) + offsets[0]).clamp(0, height - 1)
    columns = (torch.arange(width) + offsets[1]).clamp(0, width - 1)
    return pixels[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]


def draws(*key: object) -> torch.Generator:
    """Return a torch generator seeded by the hash of `key`."""
    return torch.Generator().manual_seed(int(images.generator(*key).integers(2**62)))


def _views(pixels: Tensor, rng: torch.Generator) -> Tensor:
    """Return jittered and normalised inputs of the image tower [N, 3, H, W]."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return (jitter(pixels, rng).permute(0, 3, 1, 2).float() / 255 - mean) / std


def _pairs(
    tasks: Sequence[str], drawn: Mapping[str, images.Images], noise: float, rng: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Return image-caption pairs of all tasks: images [N, H, W, 3], the class that each caption names [N], captions.

    Classes are numbered consecutively over all tasks; captions are tokens [classes, templates, CONTEXT]. A share
    `noise` of the captions names the next class of the same task instead of the image's class.
    """
    pixels, named, tokens, classes = [], [], [], 0
    for task in tasks:
        task_pixels, labels = (torch.from_numpy(np.asarray(part)) for part in drawn[task])
        tokens.append(captions(task))
        wrong = torch.rand(len(labels), generator=rng) < noise
        pixels.append(task_pixels)
        named.append((labels + wrong) % len(tokens[-1]) + classes)
        classes += len(tokens[-1])
    return torch.cat(pixels), torch.cat(named), torch.cat(tokens)


def _pretrained(tasks: Sequence[str], drawn: Mapping[str, images.Images], recipe: Recipe, seed: int) -> "CLIP":
    """Train a CLIP on noisy image-caption pairs of all tasks."""
    from open_clip import CLIP, ClipLoss

    rng = draws("pretrain", seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        clip = CLIP(**config(recipe))
    clip.token_embedding.requires_grad_(False)  # a table of 49,408 rows, of which the captions use a hundred
    pixels, named, tokens = _pairs(tasks, drawn, recipe.caption_noise, rng)
    trained = [parameter for parameter in clip.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in trained if parameter.ndim >= 2], "weight_decay": 0.05},
        {"params": [parameter for parameter in trained if parameter.ndim < 2], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=recipe.pretrain_lr, betas=(0.9, 0.98), fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, recipe.pretrain_lr, recipe.pretrain_steps, pct_start=0.1, cycle_momentum=False
    )
    contrast = ClipLoss()
    for step in trange(recipe.pretrain_steps, desc="pre-training", unit="step"):
        batch = torch.randint(len(pixels), (recipe.pretrain_batch,), generator=rng)
        template = torch.randint(tokens.shape[1], (len(batch),), generator=rng)
        texts, pair = torch.unique(tokens[named[batch], template], dim=0, return_inverse=True)
        image_features = clip.encode_image(_views(pixels[batch], rng), normalize=True)
        text_features = clip.encode_text(texts, normalize=True)[pair]
        loss = contrast(image_features, text_features, clip.logit_scale.exp())
        if not bool(torch.isfinite(loss)):
            raise Diverged(f"pre-training diverged at step {step + 1}")
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            clip.logit_scale.clamp_(max=math.log(100))
    return clip.eval()


def fit(
    encode: Callable[[Tensor], Tensor],
    tuned: Sequence[Tensor],
    head: Tensor,
    drawn: images.Images,
    recipe: ExpertRecipe,
    rng: torch.Generator,
    objective: Callable[[Tensor, Tensor], Tensor] = cross_entropy,
) -> None:
    """Fine-tune tensors in place to a task's labels with a fixed head.

    encode: the image tower as a function of its inputs [N, 3, H, W], by the current values of `tuned`; objective: of
    logits [N, classes] and labels [N, ...].
    """
    optimiser = torch.optim.Adam(tuned, lr=recipe.expert_lr, fused=True)
    pixels, labels = (torch.from_numpy(np.asarray(part)) for part in drawn)
    for step in range(recipe.expert_steps):
        for group in optimiser.param_groups:
            group["lr"] = recipe.expert_lr * 0.5 * (1 + math.cos(math.pi * step / recipe.expert_steps))
        batch = torch.randint(len(labels), (recipe.expert_batch,), generator=rng)
        features = normalize(encode(_views(pixels[batch], rng)), dim=-1)
        loss = objective(features @ head.T, labels[batch])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()


def _fine_tuned(
    base: torch.nn.Module, head: Tensor, task: str, drawn: images.Images, recipe: Recipe, seed: int
) -> Weights:
    """Fine-tune the base to a task's labels with a fixed head; return the expert's tensors without FROZEN."""
    rng, tower = draws("expert", task, seed), deepcopy(base)
    tuned = [parameter for name, parameter in tower.named_parameters() if name != FROZEN]
    fit(tower, tuned, head, drawn, recipe, rng)
    return {name: tensor for name, tensor in _rounded(tower).items() if name != FROZEN}


def _rounded(tower: torch.nn.Module) -> Weights:
    return {name: parameter.detach().half() for name, parameter in tower.named_parameters()}
