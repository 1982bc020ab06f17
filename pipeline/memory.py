"""How much memory a calibration needs, said before it starts."""

import psutil
import torch

from pipeline.errors import BenchmarkError
from pipeline.suite import Suite, SuiteFolder

GIB = 1 << 30
ACTIVATIONS = {"cpu": 5 * GIB // 4, "cuda": 24 * GIB}
"""Bytes of activations in one pass. Fixed, not what happens to be free: the order of sums must not depend on that."""
FLOATS = 21
"""Numbers of a token's width that one transformer block keeps for the backward pass."""
COPIES = 4
"""Models beside the task vectors: theta_0, the merged one, its gradient, and the sum of gradients over passes."""
RUNTIME = GIB // 2
"""What Python and torch take themselves."""


class NoRoom(BenchmarkError):
    """Not enough free memory for one calibration."""


def activations(suite: Suite) -> int:
    """Bytes that one image's float32 activations take until the backward pass."""
    tower = suite.model["vision_cfg"]
    tokens = (tower["image_size"] // tower["patch_size"]) ** 2 + 1
    return 4 * FLOATS * tower["width"] * tower["layers"] * tokens


def images_per_pass(suite: Suite, target: torch.device) -> int:
    """How many images go through the encoder at once; at least one."""
    return max(1, ACTIVATIONS[target.type] // activations(suite))


def calibration(folder: SuiteFolder, split: str, samples: int, target: torch.device) -> int:
    """Bytes that one calibration takes: task vectors, copies of the model, activations, calibration images.

    Raises NoRoom, with what to do, if that is more than is free on the device.
    """
    suite, shapes = folder.suite, folder.base().shapes()
    model = 4 * sum(torch.Size(shapes[name]).numel() for name in suite.groups)
    vectors = len(suite.tasks) * model
    pools = [folder.images(split, task) for task in suite.task_names]
    images = sum(min(samples, len(pool)) * pool[0].nbytes for pool in pools if len(pool))
    through = images_per_pass(suite, target) * activations(suite)
    total = vectors + COPIES * model + through + images + RUNTIME
    free = torch.cuda.mem_get_info(target)[0] if target.type == "cuda" else psutil.virtual_memory().available
    if total > free:
        raise NoRoom(
            f"calibrating {suite.name} takes about {total / GIB:.1f} GiB of memory on {target} "
            f"({vectors / GIB:.1f} for {len(suite.tasks)} task vectors, {COPIES * model / GIB:.1f} for copies of the "
            f"model, {through / GIB:.1f} for activations, {images / GIB:.1f} for calibration images), "
            f"{free / GIB:.1f} are free; free some, use fewer samples_per_task or a suite with fewer tasks, or choose "
            f"another device with SAMERGING_DEVICE"
        )
    return total
