"""One calibration step against its floor and against the usual way: `python -m benchmarks.calibration_step`.

floor   one plain forward and backward of the backbone over the same images, gradients of all weights, nothing merged
plain   our gradient of the coefficients: merge, forward, backward, contraction with the task vectors
sam     two of them, merged anew at lambda + epsilon
graph   what public code does: theta(lambda) built in autograd, one backward per task through the retained graph

Random weights, measured in turn (floor, plain, sam, graph, floor, ...). The floor goes through the images in the same
passes as we do. Before anything is timed, `plain` and `graph` must agree on two of the tasks to 1e-9 in float64, in
Euclidean length. Where the graph does not fit into memory, `--without-graph` leaves it and the agreement out; the
result says so.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from typing import get_args

import torch
from torch import Tensor

from benchmarks import measure
from benchmarks.synthetic import SHAPES, problem
from pipeline.calibration.descent import coefficient_gradient
from pipeline.calibration.objectives import distillation
from pipeline.calibration.problem import Problem
from pipeline.calibration.sharpness import sharp_gradient
from pipeline.models.task_vectors import merge
from pipeline.models.weights import FROZEN
from pipeline.runtime.device import device
from pipeline.runtime.schema import Precision

OBJECTIVE = distillation(2.0)
TOLERANCE = 1e-9


def through_the_graph(made: Problem, coefficients: Tensor, chosen: tuple[Tensor, ...]) -> Tensor:
    """The coefficients' gradient as public code computes it."""
    point = coefficients.clone().requires_grad_()
    merged = merge(made.base, made.vectors, point)
    for images, head, teacher, batch in zip(made.examples, made.heads, made.teachers, chosen, strict=True):
        with torch.autocast(head.device.type, torch.bfloat16, enabled=made.precision == torch.bfloat16):
            features = made.encoder(merged, images[batch]).to(head.dtype)
        OBJECTIVE(features @ head.T, teacher[batch]).backward(retain_graph=True)
    assert point.grad is not None
    return point.grad


def plain_backbone(made: Problem) -> None:
    """Forward and backward of the backbone over all images, gradients of all weights."""
    leaves = {name: tensor.detach().requires_grad_(name not in FROZEN) for name, tensor in made.base.items()}
    wanted = [tensor for tensor in leaves.values() if tensor.requires_grad]
    for images in torch.cat(made.examples).split(made.examples_per_pass):
        with torch.autocast(images.device.type, torch.bfloat16, enabled=made.precision == torch.bfloat16):
            loss = made.encoder(leaves, images).float().square().sum()
        loss.backward(inputs=wanted)


def start(made: Problem) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Coefficients, and all images of every task."""
    target = made.heads[0].device
    chosen = tuple(torch.arange(len(images), device=target) for images in made.examples)
    return torch.full((len(made.heads), len(made.vectors)), 0.1, dtype=made.heads[0].dtype, device=target), chosen


def distance(made: Problem) -> float:
    """That of `plain` and `graph` on two of the tasks in float64, relative to their length."""
    exact = replace(
        made,
        base={name: tensor.double() for name, tensor in made.base.items()},
        vectors={name: tensor[:2].double() for name, tensor in made.vectors.items()},
        heads=tuple(head.double() for head in made.heads[:2]),
        examples=made.examples[:2],
        teachers=tuple(teacher.double() for teacher in made.teachers[:2]),
        tasks=made.tasks[:2],
        precision=torch.float32,
        examples_per_pass=1,  # a pass for every task, as with larger batches
    )
    point, chosen = start(exact)
    ours, theirs = coefficient_gradient(exact, OBJECTIVE, point, chosen)[1], through_the_graph(exact, point, chosen)
    return float((ours - theirs).norm() / theirs.norm())


def contestants(made: Problem) -> dict[str, Callable[[], object]]:
    """What is timed, by name."""
    point, chosen = start(made)

    def plain(at: Tensor = point) -> tuple[Tensor, Tensor]:
        return coefficient_gradient(made, OBJECTIVE, at, chosen)

    return {
        "floor": lambda: plain_backbone(made),
        "plain": plain,
        "sam": lambda: sharp_gradient(plain, point, 0.07, "sam"),
        "graph": lambda: through_the_graph(made, point, chosen),
    }


def main() -> None:
    """Parse the command line, measure, print the table, write benchmarks/results/calibration_step-*.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", choices=SHAPES, default="vit-b-32")
    parser.add_argument("--tasks", type=int, default=8)
    parser.add_argument("--batch", type=int, default=16, help="images per task")
    parser.add_argument("--precision", choices=get_args(Precision), default="float32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2, help="on the CPU")
    parser.add_argument("--without-graph", action="store_true", help="where the usual way does not fit into memory")
    arguments = parser.parse_args()
    target = device()
    if target.type == "cpu":
        torch.set_num_threads(arguments.threads)
    made = problem(arguments.backbone, arguments.tasks, arguments.batch, target, getattr(torch, arguments.precision))
    timed, apart = contestants(made), None
    if arguments.without_graph:
        del timed["graph"]
    elif (apart := distance(made)) > TOLERANCE:
        raise SystemExit(f"plain and graph differ by {apart:.1e} of their length, expected at most {TOLERANCE}")
    found = measure.rows(measure.alternated(timed, arguments.rounds, target), "floor")
    for name, row in found.items():
        print(f"{name:6} {row['seconds']['median']:8.3f} s   {row['ratio']['median']:5.2f} x floor")
    peak = torch.cuda.max_memory_allocated(target) >> 20 if target.type == "cuda" else None
    parts = (target.type, arguments.backbone, f"{arguments.tasks}x{arguments.batch}", arguments.precision)
    content = {"gradients_apart": apart, "rows": found, "peak_gpu_mib": peak}
    measure.write(f"calibration_step-{'-'.join(parts)}", vars(arguments), target, content)


if __name__ == "__main__":
    main()
