"""What a merge needs at inference, as integers: bytes, encoders, floating-point operations per image.

Known from the artefact and from the models that its extras serve, never from the method. The merged weights have the
shapes of theta_0, which stands in for them: nothing is merged here, and the figures are the same on every machine.
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


def costs(folder: Path, artefact: Path) -> dict[str, Any]:
    """The costs of an artefact's first seed, integers all.

    encoder_bytes    one image encoder, frozen tensors included
    encoders         how many different ones have to be held, or rebuilt when the task changes
    extra_bytes      tensors that are needed beside the merged weights; heads of a method's own replace the zero-shot
                     ones, which are not counted
    extra_file_bytes the file that holds them
    plain_flops      per image, of the plain encoder, the heads apart
    flops            {task: per image, of the encoder that answers for the task}
    """
    suite = SuiteFolder(folder)
    base, beside = dict(suite.base()), artefact / "extras-0.safetensors"
    size = suite.suite.model["vision_cfg"]["image_size"]
    image = torch.zeros(1, size, size, 3, dtype=torch.uint8)
    held: dict[str, Tensor] = {}
    encoders, per_task = 0, {}
    for model in _served(suite, artefact, base):
        if any(model.weights[name] is not held.get(name) for name in base):
            encoders, held = encoders + 1, {name: model.weights[name] for name in base}
        per_task |= dict.fromkeys(model.tasks, flops(model.encoder, model.weights, image))
    needed = store.TensorFile(beside).values() if beside.exists() else ()
    return {
        "encoder_bytes": sum(tensor.nbytes for tensor in base.values()),
        "encoders": encoders,
        "extra_bytes": sum(tensor.nbytes for tensor in needed),
        "extra_file_bytes": beside.stat().st_size if beside.exists() else 0,
        "plain_flops": flops(suite.suite.encoder(), base, image),
        "flops": per_task,
    }


def flops(encoder: Encoder, weights: Mapping[str, Tensor], images: Tensor) -> int:
    """Floating-point operations of `encoder(weights, images)`: two per multiply-add.

    Those of matrix products, convolutions and attention, which is what torch counts.
    """
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:  # into fused attention the counter does not see
        encoder(weights, images)
    return counter.get_total_flops()


def _served(suite: SuiteFolder, artefact: Path, base: Mapping[str, Tensor]) -> Iterator[Served]:
    """The models that answer, as `storage.models` has them, with copies of theta_0 for merged weights."""
    about, coefficients = storage.load(artefact)
    tasks, encoder, heads = suite.suite.task_names, suite.suite.encoder(), suite.heads()
    shared = coefficients is None or coefficients.shape[1] == 1
    for names in [tasks] if shared else [(task,) for task in tasks]:
        served = Served(encoder, {name: tensor.clone() for name, tensor in base.items()}, heads, names)
        if about["extras"] is None:
            yield served
        else:
            tensors = store.TensorFile(artefact / "extras-0.safetensors")
            yield from serving.load(about["extras"]).serve(served, dict(base), tensors)
