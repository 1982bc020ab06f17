"""How calibration time and memory grow with tasks and images: `python -m benchmarks.growth`.

Every row is a process of its own that takes the same number of SAMerging steps on random weights; seconds are per step,
after one that is not counted. k images per task only wait in memory: a step looks at `batch` of them.
"""

import argparse
import time

import torch

from benchmarks import measure
from benchmarks.synthetic import SHAPES, problem
from pipeline.methods import samerging
from pipeline.runtime.device import device
from pipeline.runtime.schema import Schedule


def steps(backbone: str, tasks: int, samples: int, batch: int, count: int) -> float:
    """Seconds per step."""
    made = problem(backbone, tasks, samples, device(), torch.float32)
    settings = samerging.Params()
    samerging.calibrate(made, Schedule(lr=1e-3, steps=1, batch_size=batch), 0, settings)
    start = time.perf_counter()
    samerging.calibrate(made, Schedule(lr=1e-3, steps=count, batch_size=batch), 0, settings)
    return (time.perf_counter() - start) / count


def main() -> None:
    """Parse the command line, measure, print the table, write benchmarks/results/growth-*.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", choices=SHAPES, default="vit-b-32")
    parser.add_argument("--tasks", type=int, nargs="+", default=[2, 4, 8, 14, 20])
    parser.add_argument("--samples", type=int, nargs="+", default=[16, 400, 1600])
    parser.add_argument("--batch", type=int, default=2, help="images per task and step")
    parser.add_argument("--steps", type=int, default=2)
    arguments = parser.parse_args()
    few, most = min(arguments.samples), 8
    sizes = [(tasks, few) for tasks in arguments.tasks] + [(most, k) for k in arguments.samples if k != few]
    rows = []
    for tasks, samples in sizes:
        seconds, peak = measure.apart(steps, arguments.backbone, tasks, samples, arguments.batch, arguments.steps)
        rows.append({"tasks": tasks, "samples": samples, "seconds_per_step": round(seconds, 4), "peak_mib": peak})
        print(f"T = {tasks:2}  k = {samples:4}  {seconds:8.3f} s/step  {peak:7,} MiB")
    measure.write(f"growth-{device().type}-{arguments.backbone}", vars(arguments), device(), {"rows": rows})


if __name__ == "__main__":
    main()
