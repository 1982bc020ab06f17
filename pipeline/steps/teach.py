"""Teacher logits: the outputs of each expert on the examples of its own task's calibration pool."""

from pathlib import Path

from torch import Tensor

from pipeline.models.examples import encode
from pipeline.models.suite import SuiteFolder
from pipeline.models.weights import to_device
from pipeline.runtime.device import device


def compute_teacher_logits(folder: Path, task: str, split: str) -> Tensor:
    """Compute the logits [N, classes] of a task's expert on the examples of a split."""
    suite, target = SuiteFolder(folder), device()
    weights = to_device({**suite.base(), **suite.expert(task)}, target)
    features = encode(suite.suite.encoder(), weights, suite.examples(split, task), target)
    return (features @ suite.heads()[task].to(target).T).cpu()
