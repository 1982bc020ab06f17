"""The costs of a merge at inference, as integers: bytes, encoders, floating-point operations per example.

Counted from the artefact and the models that its extras serve, without knowledge of the method. Copies of theta_0 stand
in for merged weights, which have the same shapes: nothing is merged here, and the counts are the same on every machine.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pipeline.merges import serving, storage
from pipeline.merges.serving import Served
from pipeline.models.suite import SuiteFolder
from pipeline.models.weights import Encoder
from pipeline.runtime import store


def count_costs(folder: Path, artefact: Path) -> dict[str, Any]:
    """Return the costs of an artefact's first seed; `folder` is the suite's. A text is as long as texts may be.

    encoder_bytes       one encoder, frozen tensors included
    encoders            different encoders to hold, or to rebuild when the task changes
    extra_bytes         tensors needed besides the merged weights; heads of a method's own count, zero-shot heads do not
    extra_file_bytes    the file of those tensors
    plain_flops         per example, of the plain encoder without heads
    flops               {task: per example, of the encoder that serves the task}
    """
    suite = SuiteFolder(folder)
    base, extras = dict(suite.base()), artefact / "extras-0.safetensors"
    blank = suite.blank()
    held: dict[str, Tensor] = {}
    encoders, per_task = 0, {}
    for model in _served(suite, artefact, base):
        if any(model.weights[name] is not held.get(name) for name in base):
            encoders, held = encoders + 1, {name: model.weights[name] for name in base}
        per_task |= dict.fromkeys(model.tasks, count_flops(model.encoder, model.weights, blank))
    tensors = store.TensorFile(extras).values() if extras.exists() else ()
    return {
        "encoder_bytes": sum(tensor.nbytes for tensor in base.values()),
        "encoders": encoders,
        "extra_bytes": sum(tensor.nbytes for tensor in tensors),
        "extra_file_bytes": extras.stat().st_size if extras.exists() else 0,
        "plain_flops": count_flops(suite.suite.encoder(), base, blank),
        "flops": per_task,
    }


def count_flops(encoder: Encoder, weights: Mapping[str, Tensor], examples: Tensor) -> int:
    """Count the floating-point operations of `encoder(weights, examples)`: two per multiply-add.

    Those of matrix products, convolutions and attention, which torch counts.
    """
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:  # the counter does not see into fused attention
        encoder(weights, examples)
    return counter.get_total_flops()


def _served(suite: SuiteFolder, artefact: Path, base: Mapping[str, Tensor]) -> Iterator[Served]:
    """Yield the models of the first seed as `storage.load_models` does, with copies of theta_0 for merged weights."""
    content, coefficients = storage.load(artefact)
    tasks, encoder, heads = suite.suite.task_names, suite.suite.encoder(), suite.heads()
    shared = coefficients is None or coefficients.shape[1] == 1
    for names in [tasks] if shared else [(task,) for task in tasks]:
        served = Served(encoder, {name: tensor.clone() for name, tensor in base.items()}, heads, names)
        if content["extras"] is None:
            yield served
        else:
            tensors = store.TensorFile(artefact / "extras-0.safetensors")
            yield from serving.load(content["extras"]).serve(served, dict(base), tensors)
