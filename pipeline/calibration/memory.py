"""How much memory a calibration needs, said before it starts."""

from collections.abc import Mapping

import psutil
import torch

from pipeline.calibration.problem import Footprint
from pipeline.models.suite import Suite, SuiteFolder
from pipeline.runtime.errors import BenchmarkError

GIB = 1 << 30
ACTIVATIONS = {"cpu": 5 * GIB // 4, "cuda": 24 * GIB}
"""Bytes of activations in one pass. Fixed, not what happens to be free: the order of sums must not depend on that."""
FLOATS = 21
"""Numbers of a token's width that one transformer block keeps for the backward pass."""
RUNTIME = GIB // 2
"""What Python and torch take themselves."""


class NoRoom(BenchmarkError):
    """Not enough free memory for one calibration."""


def tokens(suite: Suite) -> int:
    """Bytes of one image's tokens between two blocks."""
    tower = suite.model["vision_cfg"]
    return 4 * tower["width"] * ((tower["image_size"] // tower["patch_size"]) ** 2 + 1)


def activations(suite: Suite) -> int:
    """Bytes that one image's float32 activations take until the backward pass."""
    return FLOATS * suite.model["vision_cfg"]["layers"] * tokens(suite)


def images_per_pass(suite: Suite, target: torch.device) -> int:
    """How many images go through the encoder at once; at least one."""
    return max(1, ACTIVATIONS[target.type] // activations(suite))


def weights(suite: Suite, shapes: Mapping[str, tuple[int, ...]], footprint: Footprint) -> tuple[int, int]:
    """Bytes of (task vectors, copies of the model) that a method holds; `shapes` of the tensors."""
    model = 4 * sum(torch.Size(shapes[name]).numel() for name in suite.groups)
    block = model // suite.model["vision_cfg"]["layers"]
    vectors = footprint.vectors * model + footprint.block_vectors * block
    return len(suite.tasks) * vectors, footprint.models * model + footprint.block_models * block


def passing(suite: Suite, used: int, batch: int, target: torch.device, footprint: Footprint) -> int:
    """Bytes of activations at once, of `used` calibration images in all and batches of `batch` images.

    A batch is not taken apart, of whatever size.
    """
    limit = images_per_pass(suite, target)
    if footprint.tokens:
        block = activations(suite) // suite.model["vision_cfg"]["layers"]
        return min(max(limit, batch), used) * block + footprint.tokens * used * tokens(suite)
    most = footprint.images or min(max(limit, batch), len(suite.tasks) * batch)
    return most * activations(suite)


def calibration(
    folder: SuiteFolder, split: str, samples: int, batch: int, target: torch.device, footprint: Footprint
) -> int:
    """Bytes that one calibration takes: task vectors, copies of the model, activations, calibration images.

    samples: images per task, no more than the pool holds; batch: images per task and step. Raises NoRoom, with what to
    do, if that is more than is free on the device.
    """
    suite = folder.suite
    pools = [folder.images(split, task) for task in suite.task_names]
    counts = [min(samples, len(pool)) for pool in pools]
    images = sum(count * pool[0].nbytes for count, pool in zip(counts, pools, strict=True) if count)
    vectors, models = weights(suite, folder.base().shapes(), footprint)
    through = passing(suite, sum(counts), batch, target, footprint)
    total = vectors + models + through + images + RUNTIME
    free = torch.cuda.mem_get_info(target)[0] if target.type == "cuda" else psutil.virtual_memory().available
    if total > free:
        raise NoRoom(
            f"calibrating {suite.name} takes about {total / GIB:.1f} GiB of memory on {target} "
            f"({vectors / GIB:.1f} for {len(suite.tasks)} task vectors, {models / GIB:.1f} for copies of the model, "
            f"{through / GIB:.1f} for activations, {images / GIB:.1f} for calibration images), "
            f"{free / GIB:.1f} are free; free some, use fewer samples_per_task or a suite with fewer tasks, or choose "
            f"another device with SAMERGING_DEVICE"
        )
    return total
