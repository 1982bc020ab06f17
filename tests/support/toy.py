"""A merging problem of milliseconds, a suite folder of a few kilobytes, copies of the code."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from pipeline import methods
from pipeline.calibration.problem import Problem
from pipeline.merges import storage
from pipeline.models.suite import SPLITS, Suite, SuiteFolder, Task
from pipeline.models.task_vectors import TaskVectors
from pipeline.models.vit import VisionTransformer
from pipeline.models.weights import FROZEN, Weights, build_clip, split_qkv
from pipeline.runtime import store
from pipeline.steps import merge as merge_step

ROOT = Path(__file__).resolve().parents[2]
CLASSES = (3, 4, 5)
POOLS = (10, 12, 9)
SHAPES = {"first.weight": (6, 12), "first.bias": (6,), "second.weight": (4, 6)}
GROUPS = tuple(SHAPES)

CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"layers": 1, "width": 32, "head_width": 16, "patch_size": 7, "image_size": 14},
    "text_cfg": {"context_length": 4, "vocab_size": 16, "width": 16, "heads": 1, "layers": 1},
    "quick_gelu": True,
}
TASKS = {"cats": ("tabby", "siamese"), "dogs": ("pug", "collie", "husky"), "fish": ("carp", "eel")}
SIZES = {"train": 12, "validation": 5, "test": 7}


def encoder(weights: Mapping[str, Tensor], images: Tensor) -> Tensor:
    """A two-layer encoder of 2x2 images as a function of its weights: uint8 [N, 2, 2, 3] -> [N, 4] of unit length."""
    pixels = images.flatten(1).to(weights["first.weight"].dtype) / 255 - 0.5
    hidden = torch.tanh(pixels @ weights["first.weight"].T + weights["first.bias"])
    return normalize(hidden @ weights["second.weight"].T, dim=-1)


def weights(seed: int, dtype: torch.dtype = torch.float64, scale: float = 1.0) -> Weights:
    """Random weights of `encoder`."""
    rng = torch.Generator().manual_seed(seed)
    return {name: scale * torch.randn(shape, generator=rng, dtype=dtype) for name, shape in SHAPES.items()}


def models(tasks: int = 3, dtype: torch.dtype = torch.float64, spread: float = 0.4) -> tuple[Weights, list[Weights]]:
    """A base and its experts."""
    base = weights(0, dtype)
    steps = [weights(1 + task, dtype, spread) for task in range(tasks)]
    return base, [{name: base[name] + step[name] for name in base} for step in steps]


def task_vectors(dtype: torch.dtype = torch.float64, **settings: float) -> TaskVectors:
    """The task vectors of `models`."""
    base, experts = models(dtype=dtype, **settings)
    return TaskVectors(base, experts, GROUPS, dtype)


def problem(tasks: int = 3, dtype: torch.dtype = torch.float64, spread: float = 0.4) -> Problem:
    """A calibration problem whose teachers are the experts."""
    rng = torch.Generator().manual_seed(99)
    base, experts = models(tasks, dtype, spread)
    images = [torch.randint(256, (count, 2, 2, 3), generator=rng, dtype=torch.uint8) for count in POOLS[:tasks]]
    heads = [4 * torch.randn(count, 4, generator=rng, dtype=dtype) for count in CLASSES[:tasks]]
    teachers = [encoder(expert, pool) @ head.T for expert, pool, head in zip(experts, images, heads, strict=True)]
    vectors = dict(TaskVectors(base, experts, GROUPS, dtype))
    tower = cast(VisionTransformer, encoder)  # it is only called
    return Problem(tower, base, vectors, tuple(heads), tuple(images), tuple(teachers), tuple(TASKS)[:tasks])


def clip_problem(tasks: int = 3, dtype: torch.dtype = torch.float64, spread: float = 0.05) -> Problem:
    """A calibration problem of two transformer blocks, for methods that look inside the tower."""
    rng = torch.Generator().manual_seed(7)
    half = (0.5, 0.5, 0.5)
    tower = VisionTransformer({**CLIP, "vision_cfg": {**CLIP["vision_cfg"], "layers": 2}}, half, half)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        clip = build_clip({**CLIP, "vision_cfg": {**CLIP["vision_cfg"], "layers": 2}})
    base = {name: value.detach().to(dtype) for name, value in split_qkv(dict(clip.visual.named_parameters())).items()}
    groups = [name for name in base if name not in FROZEN]
    experts = [
        {name: base[name] + spread * torch.randn(base[name].shape, generator=rng, dtype=dtype) for name in groups}
        for _ in range(tasks)
    ]
    images = [torch.randint(256, (count, 14, 14, 3), generator=rng, dtype=torch.uint8) for count in POOLS[:tasks]]
    heads = [4 * torch.randn(count, 16, generator=rng, dtype=dtype) for count in CLASSES[:tasks]]
    teachers = [
        tower({**base, **expert}, pool) @ head.T for expert, pool, head in zip(experts, images, heads, strict=True)
    ]
    vectors = dict(TaskVectors(base, experts, groups, dtype))
    return Problem(tower, base, vectors, tuple(heads), tuple(images), tuple(teachers), tuple(TASKS)[:tasks])


def whole(problem: Problem) -> tuple[Tensor, ...]:
    """The batch that holds every image."""
    return tuple(torch.arange(len(pool)) for pool in problem.examples)


def cloned(tensors: Mapping[str, Tensor]) -> Weights:
    """Copies of the tensors."""
    return {name: tensor.clone() for name, tensor in tensors.items()}


def same(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    """Whether both hold the same names, in the same order, with the same bits."""
    return [*first] == [*second] and all(torch.equal(first[name], second[name]) for name in first)


def clip_weights(seed: int = 0, config: Mapping[str, object] = CLIP) -> tuple[torch.nn.Module, Weights]:
    """A small CLIP with random weights, and those of its image tower with q, k and v apart."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        clip = build_clip(config).eval()
    return clip, split_qkv({name: value.detach() for name, value in clip.visual.named_parameters()})


def write_suite(folder: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write a suite folder with random weights, images and labels; in float64 it holds the same float32 numbers."""
    rng = np.random.default_rng(0)
    _, base = clip_weights()
    groups = tuple(name for name in base if name not in FROZEN)
    store.write_tensors(folder / "base.safetensors", in_dtype(base, dtype))
    for index, task in enumerate(TASKS):
        noise = torch.Generator().manual_seed(1 + index)
        share, noise_scale = (1, 0.05) if index < 2 else (0, 1e-3)  # the last is so far away that float32 would lose it
        expert = {
            name: share * base[name] + noise_scale * torch.randn(base[name].shape, generator=noise) for name in groups
        }
        store.write_tensors(folder / "experts" / f"{task}.safetensors", in_dtype(expert, dtype))
    noise = torch.Generator().manual_seed(0)
    heads = {name: 5 * torch.randn(len(classes), 16, generator=noise) for name, classes in TASKS.items()}
    store.write_tensors(folder / "heads.safetensors", in_dtype(heads, dtype))
    for split in SPLITS:
        for task, classes in TASKS.items():
            images = rng.integers(256, size=(SIZES[split], 14, 14, 3), dtype=np.uint8)
            store.write_array(folder / "images" / split / f"{task}.npy", images)
            labels = rng.integers(len(classes), size=SIZES[split], dtype=np.int64)
            store.write_array(folder / "labels" / split / f"{task}.npy", labels)
    tasks = tuple(Task(name=name, classes=classes) for name, classes in TASKS.items())
    half = (0.5, 0.5, 0.5)
    Suite(name="tiny", tasks=tasks, model=CLIP, mean=half, std=half, groups=groups).save(folder)


def in_dtype(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> Weights:
    """The tensors in another precision."""
    return {name: tensor.to(dtype) for name, tensor in tensors.items()}


def data_free(name: str, suite: SuiteFolder, folder: Path) -> Path:
    """Write the artefact of a data-free method with its defaults."""
    module = methods.load(name)
    storage.save(merge_step.merge_data_free(module, suite.vectors(), module.Params(), suite.suite.task_names), folder)
    return folder


def marked(correct: int, total: int) -> tuple[int, int, str]:
    """(correct, total, right) of answers that are right on the first images."""
    return correct, total, np.packbits(np.arange(total) < correct).tobytes().hex()


def copy_code(target: Path, names: Sequence[str] = ("pipeline", "stages", "params.yaml")) -> None:
    """Copy files and folders of the repository, without compiled files."""
    for name in names:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target / name)
