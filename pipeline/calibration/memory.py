"""The memory that a calibration needs, estimated before it starts."""

from collections.abc import Mapping

import psutil
import torch
from torch import Tensor

from pipeline.calibration.problem import Footprint
from pipeline.models.encoder import Transformer, block_name
from pipeline.models.suite import Suite, SuiteFolder
from pipeline.runtime.errors import BenchmarkError

GIB = 1 << 30
ACTIVATIONS = {"cpu": 5 * GIB // 4, "cuda": 24 * GIB}
"""Bytes of activations in one pass. Fixed, because the order of sums must not depend on how much memory is free."""
RUNTIME = GIB // 2
"""Bytes for Python and torch themselves."""


class NotEnoughMemory(BenchmarkError):
    """Not enough free memory for one calibration."""


def token_bytes(encoder: Transformer, examples: Tensor) -> int:
    """Return the bytes of one example's float32 tokens between two blocks, for examples like these."""
    return 4 * encoder.width * encoder.count_tokens(examples)


def activation_bytes(encoder: Transformer, examples: Tensor) -> int:
    """Return the bytes of one example's float32 activations, kept until the backward pass."""
    return int(encoder.kept * encoder.depth * token_bytes(encoder, examples))


def examples_per_pass(encoder: Transformer, examples: Tensor, target: torch.device) -> int:
    """Return how many examples like these may go through the encoder at once; at least one."""
    return max(1, ACTIVATIONS[target.type] // activation_bytes(encoder, examples))


def weight_bytes(suite: Suite, shapes: Mapping[str, tuple[int, ...]], footprint: Footprint) -> tuple[int, int]:
    """Return the bytes of (task vectors, copies of the model) that a method holds; `shapes`: name -> tensor shape.

    Of frozen tensors there is one copy.
    """
    sizes = {name: 4 * torch.Size(shape).numel() for name, shape in shapes.items()}
    model = sum(sizes[name] for name in suite.groups)
    block = sum(size for name, size in sizes.items() if name.startswith(block_name(0)))
    largest = max((sizes[name] for name in suite.groups), default=0)
    vectors = footprint.vectors * model + footprint.blocks_vectors * suite.encoder().depth * block
    vectors += max(footprint.block_vectors * block, footprint.tensor_vectors * largest)
    copies = footprint.models * model + max(footprint.block_models * block, footprint.tensor_models * largest)
    return len(suite.tasks) * vectors, copies + sum(sizes.values()) - model


def pass_bytes(
    suite: Suite, examples: Tensor, used: int, batch: int, target: torch.device, footprint: Footprint
) -> int:
    """Return the bytes of the activations of one pass, for `used` calibration examples in all and batches of `batch`.

    examples: any of the suite. A batch is never split, however large.
    """
    encoder = suite.encoder()
    limit, activations = examples_per_pass(encoder, examples, target), activation_bytes(encoder, examples)
    if footprint.tokens:
        between = footprint.tokens * used * token_bytes(encoder, examples)
        return min(max(limit, batch), used) * activations // encoder.depth + between
    return (footprint.examples or min(max(limit, batch), len(suite.tasks) * batch)) * activations


def estimate_memory(
    folder: SuiteFolder, split: str, samples: int, batch: int, target: torch.device, footprint: Footprint
) -> int:
    """Estimate the bytes of a calibration: task vectors, copies of the model, activations, calibration examples.

    samples: examples per task, at most the pool is used; batch: examples per task and step. Raises NotEnoughMemory,
    with what to do, if that is more than is free on the device.
    """
    suite, blank = folder.suite, folder.blank()
    pools = [folder.examples(split, task) for task in suite.task_names]
    counts = [min(samples, len(pool)) for pool in pools]
    examples = sum(counts) * blank.nbytes
    vectors, models = weight_bytes(suite, folder.base().shapes(), footprint)
    activations = pass_bytes(suite, blank, sum(counts), batch, target, footprint)
    total = vectors + models + activations + examples + RUNTIME
    free = torch.cuda.mem_get_info(target)[0] if target.type == "cuda" else psutil.virtual_memory().available
    if total > free:
        raise NotEnoughMemory(
            f"calibrating {suite.name} takes about {total / GIB:.1f} GiB of memory on {target} "
            f"({vectors / GIB:.1f} for {len(suite.tasks)} task vectors, {models / GIB:.1f} for copies of the model, "
            f"{activations / GIB:.1f} for activations, {examples / GIB:.1f} for calibration examples), "
            f"{free / GIB:.1f} are free; free some, use fewer samples_per_task or a suite with fewer tasks, or choose "
            f"another device with SAMERGING_DEVICE"
        )
    return total
