"""Zero-shot heads of a text encoder, and its fine-tuning to a task with the head frozen."""

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from pipeline.models.encoder import Transformer
from pipeline.models.examples import cut_padding, encode
from pipeline.models.weights import Weights, has_gradient, to_device
from pipeline.runtime.schema import Schedule
from pipeline.statistics.sampling import batches

WARM = 0.1
"""Share of the steps in which the learning rate rises, before it falls along a cosine."""


def build_head(encoder: Transformer, base: Weights, captions: np.ndarray, classes: int, scale: float) -> Tensor:
    """Return the zero-shot head [classes, D]: the mean over a class's captions, of unit length, times `scale`.

    captions: token ids int32 [classes * templates, L], those of a class one after the other.
    """
    features = encode(encoder, base, captions, torch.device("cpu"))
    return scale * normalize(features.unflatten(0, (classes, -1)).mean(1), dim=-1)


def fine_tune(
    encoder: Transformer,
    base: Mapping[str, Tensor],
    groups: tuple[str, ...],
    head: Tensor,
    texts: np.ndarray,
    labels: np.ndarray,
    schedule: Schedule,
    rng: torch.Generator,
    target: torch.device,
) -> Weights:
    """Return the tensors of `groups` after the schedule's steps of Adam on the cross-entropy of batches of texts.

    texts: token ids int32 [N, L]; labels: int64 [N]; head: [classes, D]. A bias of k stays as it is: it has no
    gradient but rounding errors, and Adam would scale those up.
    """
    weights = to_device(dict(base), target)
    tuned = [weights[name].requires_grad_() for name in groups if has_gradient(name)]
    optimiser = torch.optim.Adam(tuned, lr=schedule.lr, fused=True)
    head, answers = head.to(target), torch.from_numpy(np.array(labels)).to(target)
    for step, chosen in zip(range(schedule.steps), batches(len(texts), schedule.batch_size, rng), strict=False):
        done = (step + 0.5) / schedule.steps
        for group in optimiser.param_groups:
            group["lr"] = schedule.lr * min(done / WARM, 0.5 * (1 + math.cos(math.pi * done)))
        examples = torch.from_numpy(cut_padding(texts[chosen.numpy()])).to(target)
        loss = cross_entropy(encoder(weights, examples) @ head.T, answers[chosen.to(target)])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
    return {name: weights[name].detach().cpu() for name in groups}
