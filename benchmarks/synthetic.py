"""Calibration problems of the public backbones' sizes with random weights, images and teachers.

Nothing here needs open_clip: names and shapes of the tensors are written out, and a test holds them to open_clip's.
"""

import math
from dataclasses import replace

import torch
from torch import Tensor

from pipeline.calibration.memory import examples_per_pass
from pipeline.calibration.problem import Problem
from pipeline.models.encoder import block_name
from pipeline.models.suite import Suite
from pipeline.models.weights import FROZEN, PARTS, Weights, to_device

SHAPES = {
    "tiny": (32, 1, 14, 16, 28, 16),
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


def tensor_shapes(backbone: str, blocks: int | None = None) -> dict[str, tuple[int, ...]]:
    """Return {name: shape} of the image tower of `config`, with q, k and v apart, in the order of the model."""
    width, layers, patch, features, size, _ = SHAPES[backbone]

    def norm(name: str) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": (width,), f"{name}.bias": (width,)}

    shapes: dict[str, tuple[int, ...]] = {
        "class_embedding": (width,),
        "positional_embedding": ((size // patch) ** 2 + 1, width),
        "proj": (width, features),
        "conv1.weight": (width, 3, patch, patch),
        **norm("ln_pre"),
    }
    for block in map(block_name, range(blocks or layers)):
        shapes |= norm(f"{block}ln_1")
        shapes |= {f"{block}attn.{part}.weight": (width, width) for part in PARTS}
        shapes |= {f"{block}attn.{part}.bias": (width,) for part in PARTS}
        shapes |= {f"{block}attn.out_proj.weight": (width, width), f"{block}attn.out_proj.bias": (width,)}
        shapes |= norm(f"{block}ln_2")
        shapes |= {f"{block}mlp.c_fc.weight": (4 * width, width), f"{block}mlp.c_fc.bias": (4 * width,)}
        shapes |= {f"{block}mlp.c_proj.weight": (width, 4 * width), f"{block}mlp.c_proj.bias": (width,)}
    return shapes | norm("ln_post")


def weights(backbone: str, target: torch.device) -> Weights:
    """Return a random image tower: norms that change nothing, matrices that keep the size of their input."""
    rng, made = torch.Generator(target).manual_seed(0), {}
    for name, shape in tensor_shapes(backbone).items():
        if len(shape) == 1 and name != "class_embedding":
            made[name] = torch.full(shape, float(name.endswith(".weight")), device=target)
        else:
            inputs = shape[0] if name in ("proj", "class_embedding") else math.prod(shape[1:])
            made[name] = inputs**-0.5 * torch.randn(shape, generator=rng, device=target)
    return made


def problem(backbone: str, tasks: int, batch: int, target: torch.device, precision: torch.dtype) -> Problem:
    """`tasks` tasks with `batch` images each."""
    made, features, size = config(backbone), SHAPES[backbone][3], SHAPES[backbone][4]
    rng = torch.Generator(target).manual_seed(1)
    base = weights(backbone, target)

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng, device=target)

    def pixels() -> Tensor:
        return torch.randint(0, 256, (batch, size, size, 3), generator=rng, device=target, dtype=torch.uint8)

    suite = Suite(name=backbone, tasks=(), model=made, mean=HALF, std=HALF, groups=())
    examples = tuple(pixels() for _ in range(tasks))
    return Problem(
        encoder=suite.encoder(),
        base=base,
        vectors={n: 1e-3 * noise(tasks, *tensor.shape) for n, tensor in base.items() if n not in FROZEN},
        heads=tuple(noise(CLASSES, features) for _ in range(tasks)),
        examples=examples,
        teachers=tuple(noise(batch, CLASSES) for _ in range(tasks)),
        tasks=tuple(f"task-{number}" for number in range(tasks)),
        precision=precision,
        examples_per_pass=examples_per_pass(suite.encoder(), examples[0], target),
    )


def moved(made: Problem, target: torch.device) -> Problem:
    """Return the same problem on another device; its passes hold as many examples as before."""
    return replace(
        made,
        base=to_device(made.base, target),
        vectors=to_device(made.vectors, target),
        heads=tuple(head.to(target) for head in made.heads),
        examples=tuple(pool.to(target) for pool in made.examples),
        teachers=tuple(logits.to(target) for logits in made.teachers),
    )
