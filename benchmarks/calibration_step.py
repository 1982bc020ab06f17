"""One calibration step against its floor and against the usual way: `python -m benchmarks.calibration_step`.

floor   one plain forward and backward of the backbone over the same images, gradients of all weights, nothing merged
plain   our gradient of the coefficients: merge, forward, backward, contraction with the task vectors
sam     two of them, merged anew at lambda + epsilon
graph   what public code does: theta(lambda) built in autograd, one backward per task through the retained graph

Random weights, measured in turn (floor, plain, sam, graph, floor, ...), so that ratios hold when the machine drifts.
Before anything is timed, `plain` and `graph` must agree to 1e-5 of the largest entry.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from tqdm import trange

from pipeline.calibrate import Problem, gradient, sharp_gradient
from pipeline.model import FROZEN, build_clip, split_qkv
from pipeline.objectives import distillation
from pipeline.suite import device
from pipeline.tower import Tower
from pipeline.vectors import merge

WIDTHS = {"vit-b-32": (768, 12, 32, 512), "vit-b-16": (768, 12, 16, 512), "vit-l-14": (1024, 24, 14, 768)}
CLASSES = 50


def configuration(backbone: str) -> dict[str, object]:
    """A CLIP with the backbone's image tower, as `build_clip` takes it."""
    width, layers, patch, features = WIDTHS[backbone]
    vision = {"layers": layers, "width": width, "head_width": 64, "patch_size": patch, "image_size": 224}
    text = {"context_length": 8, "vocab_size": 16, "width": 64, "heads": 1, "layers": 1}
    return {"embed_dim": features, "vision_cfg": vision, "text_cfg": text, "quick_gelu": True}


def problem(backbone: str, tasks: int, batch: int, target: torch.device) -> Problem:
    """A problem of the backbone's size with random weights, images and teachers."""
    config, features = configuration(backbone), WIDTHS[backbone][-1]
    rng = torch.Generator(target).manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tower = build_clip(config).visual.to(target)
    base = {name: tensor.detach() for name, tensor in split_qkv(dict(tower.named_parameters())).items()}

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng, device=target)

    return Problem(
        encoder=Tower(config, (0.5,) * 3, (0.25,) * 3),
        base=base,
        vectors={n: 1e-3 * noise(tasks, *tensor.shape) for n, tensor in base.items() if n not in FROZEN},
        heads=tuple(noise(CLASSES, features) for _ in range(tasks)),
        images=tuple(
            torch.randint(0, 256, (batch, 224, 224, 3), generator=rng, device=target, dtype=torch.uint8)
            for _ in range(tasks)
        ),
        teachers=tuple(noise(batch, CLASSES) for _ in range(tasks)),
    )


def through_the_graph(made: Problem, coefficients: Tensor, chosen: tuple[Tensor, ...]) -> Tensor:
    """The coefficients' gradient as public code computes it."""
    point = coefficients.clone().requires_grad_()
    merged = merge(made.base, made.vectors, point)
    objective = distillation(2.0)
    for images, head, teacher, batch in zip(made.images, made.heads, made.teachers, chosen, strict=True):
        logits = made.encoder(merged, images[batch]) @ head.T
        objective(logits, teacher[batch]).backward(retain_graph=True)
    return point.grad


def contestants(made: Problem) -> dict[str, Callable[[], object]]:
    """What is timed, by name."""
    tasks, groups = len(made.heads), len(made.vectors)
    target = made.heads[0].device
    chosen = tuple(torch.arange(len(images), device=target) for images in made.images)
    point = torch.full((tasks, groups), 0.1, device=target)
    objective = distillation(2.0)
    images = torch.cat(made.images)

    def floor() -> None:
        leaves = {name: tensor.requires_grad_(name not in FROZEN) for name, tensor in made.base.items()}
        loss = made.encoder(leaves, images).square().sum()
        torch.autograd.grad(loss, [tensor for tensor in leaves.values() if tensor.requires_grad])
        for tensor in leaves.values():
            tensor.requires_grad_(False)

    def plain(at: Tensor = point) -> tuple[Tensor, Tensor]:
        return gradient(made, objective, at, chosen)

    return {
        "floor": floor,
        "plain": plain,
        "sam": lambda: sharp_gradient(plain, point, 0.07, "sam"),
        "graph": lambda: through_the_graph(made, point, chosen),
    }


def seconds(function: Callable[[], object], target: torch.device) -> float:
    """How long one call takes."""
    start = time.perf_counter()
    function()
    if target.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    """Parse the command line, measure, print the table, write benchmarks/results/calibration_step-*.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", choices=WIDTHS, default="vit-b-32")
    parser.add_argument("--tasks", type=int, default=8)
    parser.add_argument("--batch", type=int, default=16, help="images per task")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2, help="on the CPU")
    arguments = parser.parse_args()
    target = device()
    if target.type == "cpu":
        torch.set_num_threads(arguments.threads)
    timed = contestants(problem(arguments.backbone, arguments.tasks, arguments.batch, target))
    ours, theirs = timed["plain"]()[1], timed["graph"]()
    difference = float((ours - theirs).abs().max() / theirs.abs().max())
    if difference > 1e-5:
        raise SystemExit(f"plain and graph differ by {difference:.1e} of the largest entry, expected at most 1e-5")
    times: dict[str, list[float]] = {name: [] for name in timed}
    for _ in trange(arguments.rounds, desc="rounds"):
        for name, function in timed.items():
            times[name].append(seconds(function, target))
    rows = {}
    for name, taken in times.items():
        ratios = [one / floor for one, floor in zip(taken, times["floor"], strict=True)]
        rows[name] = {"seconds": statistics.median(taken), "min": min(taken), "max": max(taken)}
        rows[name] |= {"to_floor": statistics.median(ratios), "to_floor_range": [min(ratios), max(ratios)]}
        print(f"{name:6} {rows[name]['seconds']:8.3f} s   {rows[name]['to_floor']:5.2f} x floor")
    where = torch.cuda.get_device_name(target) if target.type == "cuda" else platform.processor() or platform.machine()
    result = {
        "arguments": vars(arguments),
        "device": where,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "gradients_differ_by": difference,
        "rows": rows,
    }
    name = f"calibration_step-{target.type}-{arguments.backbone}-{arguments.tasks}.json"
    path = Path(__file__).parent / "results" / name
    path.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
