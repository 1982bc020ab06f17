"""Distillation and entropy against their definitions in NumPy."""

import math

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, rel_entr, softmax

from pipeline.calibration.objectives import distillation, entropy


def logits(seed: int, batch: int = 7, classes: int = 5) -> torch.Tensor:
    """Return random logits in float64."""
    return 3 * torch.randn(batch, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_distillation_is_the_divergence_from_the_expert(temperature: float):
    student, teacher = logits(0), logits(1)
    p, q = (softmax(x.numpy() / temperature, axis=-1) for x in (teacher, student))
    divergence = distillation(temperature)(student, teacher)
    assert divergence.shape == ()
    assert float(divergence) == pytest.approx(rel_entr(p, q).sum(-1).mean(), abs=1e-12)
    assert abs(rel_entr(p, q).sum() - rel_entr(q, p).sum()) > 1e-3  # so the order of the arguments matters


def test_distillation_from_itself_is_zero_with_zero_gradient():
    student = logits(0).requires_grad_()
    loss = distillation(2.0)(student, student.detach())
    (slope,) = torch.autograd.grad(loss, student)
    assert abs(float(loss.detach())) < 1e-15
    assert slope.abs().max() < 1e-15


def test_distillation_survives_far_apart_logits():
    student, teacher = torch.tensor([[0.0, 5000.0]]), torch.tensor([[5000.0, 0.0]])
    assert float(distillation(2.0)(student, teacher)) == pytest.approx(2500)


@pytest.mark.parametrize("classes", [2, 10, 397])
def test_entropy_of_uniform_predictions_is_the_log_of_the_classes(classes: int):
    value = entropy(torch.full((4, classes), 3.0, dtype=torch.float64), torch.zeros(4, classes))
    assert float(value) == pytest.approx(math.log(classes), abs=1e-12)


def test_entropy_is_shannons_and_ignores_the_expert():
    student = logits(0)
    expected = -(softmax(student.numpy(), -1) * log_softmax(student.numpy(), -1)).sum(-1).mean()
    assert float(entropy(student, logits(1))) == pytest.approx(expected, abs=1e-12)
    assert torch.equal(entropy(student, logits(1)), entropy(student, logits(2)))


@pytest.mark.parametrize("objective", [distillation(2.0), entropy])
def test_gradients_equal_finite_differences(objective):
    teacher = logits(1)
    assert torch.autograd.gradcheck(lambda x: objective(x, teacher), logits(0).requires_grad_())


@pytest.mark.parametrize("objective", [distillation(2.0), entropy])
def test_objectives_average_over_the_batch(objective):
    student, teacher = logits(0), logits(1)
    single = [float(objective(student[i : i + 1], teacher[i : i + 1])) for i in range(len(student))]
    assert float(objective(student, teacher)) == pytest.approx(np.mean(single), abs=1e-12)
