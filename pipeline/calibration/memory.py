"""The memory that a calibration needs, estimated before it starts."""

from collections.abc import Mapping

import psutil
import torch

from pipeline.calibration.problem import Footprint
from pipeline.models.suite import Suite, SuiteFolder
from pipeline.runtime.errors import BenchmarkError

GIB = 1 << 30
ACTIVATIONS = {"cpu": 5 * GIB // 4, "cuda": 24 * GIB}
"""Bytes of activations in one pass. Fixed, because the order of sums must not depend on how much memory is free."""
FLOATS = 21
"""Floats per element of a token that one transformer block keeps for the backward pass."""
RUNTIME = GIB // 2
"""Bytes for Python and torch themselves."""


class NotEnoughMemory(BenchmarkError):
    """Not enough free memory for one calibration."""


def token_bytes(suite: Suite) -> int:
    """Return the bytes of one image's float32 tokens between two blocks."""
    tower = suite.model["vision_cfg"]
    return 4 * tower["width"] * ((tower["image_size"] // tower["patch_size"]) ** 2 + 1)


def activation_bytes(suite: Suite) -> int:
    """Return the bytes of one image's float32 activations, kept until the backward pass."""
    return FLOATS * suite.model["vision_cfg"]["layers"] * token_bytes(suite)


def images_per_pass(suite: Suite, target: torch.device) -> int:
    """Return how many images may go through the encoder at once; at least one."""
    return max(1, ACTIVATIONS[target.type] // activation_bytes(suite))


def weight_bytes(suite: Suite, shapes: Mapping[str, tuple[int, ...]], footprint: Footprint) -> tuple[int, int]:
    """Return the bytes of (task vectors, copies of the model) that a method holds; `shapes`: name -> tensor shape."""
    model = 4 * sum(torch.Size(shapes[name]).numel() for name in suite.groups)
    block = model // suite.model["vision_cfg"]["layers"]
    vectors = footprint.vectors * model + footprint.block_vectors * block
    return len(suite.tasks) * vectors, footprint.models * model + footprint.block_models * block


def pass_bytes(suite: Suite, used: int, batch: int, target: torch.device, footprint: Footprint) -> int:
    """Return the bytes of the activations of one pass, for `used` calibration images in all and batches of `batch`.

    A batch is never split, however large.
    """
    limit = images_per_pass(suite, target)
    if footprint.tokens:
        block = activation_bytes(suite) // suite.model["vision_cfg"]["layers"]
        return min(max(limit, batch), used) * block + footprint.tokens * used * token_bytes(suite)
    most = footprint.images or min(max(limit, batch), len(suite.tasks) * batch)
    return most * activation_bytes(suite)


def estimate_memory(
    folder: SuiteFolder, split: str, samples: int, batch: int, target: torch.device, footprint: Footprint
) -> int:
    """Estimate the bytes of a calibration: task vectors, copies of the model, activations, calibration images.

    samples: images per task, at most the pool is used; batch: images per task and step. Raises NotEnoughMemory, with
    what to do, if that is more than is free on the device.
    """
    suite = folder.suite
    pools = [folder.images(split, task) for task in suite.task_names]
    counts = [min(samples, len(pool)) for pool in pools]
    images = sum(count * pool[0].nbytes for count, pool in zip(counts, pools, strict=True) if count)
    vectors, models = weight_bytes(suite, folder.base().shapes(), footprint)
    activations = pass_bytes(suite, sum(counts), batch, target, footprint)
    total = vectors + models + activations + images + RUNTIME
    free = torch.cuda.mem_get_info(target)[0] if target.type == "cuda" else psutil.virtual_memory().available
    if total > free:
        raise NotEnoughMemory(
            f"calibrating {suite.name} takes about {total / GIB:.1f} GiB of memory on {target} "
            f"({vectors / GIB:.1f} for {len(suite.tasks)} task vectors, {models / GIB:.1f} for copies of the model, "
            f"{activations / GIB:.1f} for activations, {images / GIB:.1f} for calibration images), "
            f"{free / GIB:.1f} are free; free some, use fewer samples_per_task or a suite with fewer tasks, or choose "
            f"another device with SAMERGING_DEVICE"
        )
    return total
