"""The objectives of calibration: functions of one task's logits on a batch of unlabelled examples."""

from collections.abc import Callable

from torch import Tensor
from torch.nn.functional import kl_div, log_softmax

Objective = Callable[[Tensor, Tensor], Tensor]
"""(logits of the merged model [B, C], logits of the task's expert [B, C]) -> scalar, the mean over the batch."""


def distillation(temperature: float) -> Objective:
    """Return KL(expert || merged) of the softmax at `temperature`, without the factor temperature^2.

    Multi-teacher distillation of SAMerging (arXiv 2512.21288): each task's expert is the teacher on the task's
    examples.
    """

    def divergence(logits: Tensor, teacher: Tensor) -> Tensor:
        student = log_softmax(logits / temperature, dim=-1)
        return kl_div(student, log_softmax(teacher / temperature, dim=-1), reduction="batchmean", log_target=True)

    return divergence


def entropy(logits: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean Shannon entropy (nats) of the merged model's predictions; the expert's logits are not used.

    The objective of AdaMerging (arXiv 2310.02575, eq. 7).
    """
    del teacher
    log_probabilities = log_softmax(logits, dim=-1)
    return -(log_probabilities.exp() * log_probabilities).sum(-1).mean()
