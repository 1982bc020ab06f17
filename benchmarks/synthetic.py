"""Calibration problems of the public backbones' sizes with random weights, images and teachers."""

import torch
from torch import Tensor

from pipeline.calibration.memory import images_per_pass
from pipeline.calibration.problem import Problem
from pipeline.models.encoder import Tower
from pipeline.models.suite import Suite
from pipeline.models.weights import FROZEN, build_clip, split_qkv

SHAPES = {
    "mini": (96, 4, 7, 64, 28, 32),
    "vit-b-32": (768, 12, 32, 512, 224, 64),
    "vit-b-16": (768, 12, 16, 512, 224, 64),
    "vit-l-14": (1024, 24, 14, 768, 224, 64),
}
"""Width, blocks, patch, features, pixels of an image's side, width of a head."""
CLASSES = 50
HALF = (0.5, 0.5, 0.5)


def config(backbone: str, blocks: int | None = None) -> dict[str, object]:
    """The CLIP of a backbone, or of its first `blocks`, with a text tower that takes no room."""
    width, layers, patch, features, size, head = SHAPES[backbone]
    vision = {"layers": blocks or layers, "width": width, "head_width": head, "patch_size": patch, "image_size": size}
    text = {"context_length": 8, "vocab_size": 16, "width": 64, "heads": 1, "layers": 1}
    return {"embed_dim": features, "vision_cfg": vision, "text_cfg": text, "quick_gelu": True}


def problem(backbone: str, tasks: int, batch: int, target: torch.device, precision: torch.dtype) -> Problem:
    """`tasks` tasks with `batch` images each."""
    made, features, size = config(backbone), SHAPES[backbone][3], SHAPES[backbone][4]
    rng = torch.Generator(target).manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tower = build_clip(made).get_submodule("visual").to(target)
    base = {name: tensor.detach() for name, tensor in split_qkv(dict(tower.named_parameters())).items()}

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng, device=target)

    def pixels() -> Tensor:
        return torch.randint(0, 256, (batch, size, size, 3), generator=rng, device=target, dtype=torch.uint8)

    suite = Suite(name=backbone, tasks=(), model=made, mean=HALF, std=HALF, groups=())
    return Problem(
        encoder=Tower(made, HALF, HALF),
        base=base,
        vectors={n: 1e-3 * noise(tasks, *tensor.shape) for n, tensor in base.items() if n not in FROZEN},
        heads=tuple(noise(CLASSES, features) for _ in range(tasks)),
        images=tuple(pixels() for _ in range(tasks)),
        teachers=tuple(noise(batch, CLASSES) for _ in range(tasks)),
        tasks=tuple(f"task-{number}" for number in range(tasks)),
        precision=precision,
        images_per_pass=images_per_pass(suite, target),
    )
