"""The gradient that is timed is compared with autograd's before, and a wrong one is noticed."""

import pytest
import torch
from torch import Tensor

from benchmarks import calibration_step
from benchmarks.synthetic import problem


def test_the_timed_gradient_agrees_with_autograd():
    made = problem("tiny", 3, 2, torch.device("cpu"), torch.bfloat16)
    assert calibration_step.distance(made) < 1e-12


def test_a_gradient_in_single_precision_does_not_pass(monkeypatch: pytest.MonkeyPatch):
    exact = calibration_step.coefficient_gradient

    def rounded(*given: object) -> tuple[Tensor, Tensor]:
        loss, slope = exact(*given)
        return loss, slope.float().double()

    monkeypatch.setattr(calibration_step, "coefficient_gradient", rounded)
    made = problem("tiny", 3, 2, torch.device("cpu"), torch.float32)
    assert calibration_step.distance(made) > calibration_step.TOLERANCE
