"""Sharpness: Hessian-vector products, eigenvalues, traces and ascent against dense Hessians and closed forms."""

from itertools import product as grid

import pytest
import torch
from scipy.optimize import brentq
from torch import Tensor

from pipeline.calibration.descent import coefficient_gradient
from pipeline.calibration.objectives import distillation
from pipeline.calibration.problem import Problem
from pipeline.calibration.sharpness import perturbation
from pipeline.models.task_vectors import merge
from pipeline.studies._curvature import ascend, hessian_product, sample_directions, sample_signs, top_eigenvector
from tests.support import toy

SHAPE = (2, 3)


def symmetric_matrix(eigenvalues: list[float]) -> Tensor:
    """Make a matrix with these eigenvalues and random axes."""
    rng = torch.Generator().manual_seed(0)
    axes, _ = torch.linalg.qr(torch.randn(len(eigenvalues), len(eigenvalues), generator=rng, dtype=torch.float64))
    return axes @ torch.diag(torch.tensor(eigenvalues, dtype=torch.float64)) @ axes.T


def quadratic(matrix: Tensor, slope: Tensor):
    """x -> <slope, x> + x' matrix x / 2 on tensors of SHAPE."""
    return lambda x: slope @ x.flatten() + x.flatten() @ matrix @ x.flatten() / 2


def loss(problem: Problem, coefficients: Tensor) -> Tensor:
    """The distillation loss summed over tasks."""
    weights = merge(problem.base, problem.vectors, coefficients)
    task_parts = zip(problem.examples, problem.heads, problem.teachers, strict=True)
    return sum(
        distillation(2.0)(problem.encoder(weights, pool) @ head.T, targets) for pool, head, targets in task_parts
    )


def vector(seed: int = 3, shape: tuple[int, ...] = SHAPE) -> Tensor:
    """Draw a vector."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_products_with_a_quadratic_are_products_with_its_matrix():
    matrix, point = symmetric_matrix([-2, 0, 1, 2, 3, 5]), vector(4)
    product = hessian_product(quadratic(matrix, vector(5).flatten()), point, vector())
    torch.testing.assert_close(product.flatten(), matrix @ vector().flatten())
    assert not point.requires_grad


def test_products_eigenvalue_and_trace_agree_with_the_dense_hessian(problem: Problem):
    point = 0.3 + 0.1 * vector(6, (3, 3))
    dense = torch.autograd.functional.hessian(lambda x: loss(problem, x), point).reshape(9, 9)

    def times(direction: Tensor) -> Tensor:
        return hessian_product(lambda x: loss(problem, x), point, direction)

    direction = vector(7, (3, 3))
    torch.testing.assert_close(times(direction).flatten(), dense @ direction.flatten())
    top = top_eigenvector(times, point, seed=0, tolerance=1e-8)
    assert float((top * times(top)).sum()) == pytest.approx(float(torch.linalg.eigvalsh(dense)[-1]))
    signs = torch.tensor([*grid((-1.0, 1.0), repeat=9)], dtype=torch.float64)
    assert float(((signs @ dense) * signs).sum(1).mean()) == pytest.approx(float(dense.trace()))
    traces = torch.stack([(z * times(z)).sum() for z in sample_signs(point, 100, 0)])
    assert abs(traces.mean() - dense.trace()) < 4 * traces.std() / 10


def test_products_go_through_attention():
    problem = toy.clip_problem(tasks=1)
    point, step = torch.full((1, len(problem.vectors)), 0.5, dtype=torch.float64), 1e-5
    direction = vector(1, (1, len(problem.vectors)))
    ends = [
        coefficient_gradient(problem, distillation(2.0), point + sign * step * direction, toy.whole(problem))[1]
        for sign in (1, -1)
    ]
    product = hessian_product(lambda x: loss(problem, x), point, direction)
    torch.testing.assert_close(product, (ends[0] - ends[1]) / (2 * step), rtol=1e-5, atol=1e-7)


def test_the_top_eigenvalue_is_the_largest_and_not_the_largest_in_size():
    matrix = symmetric_matrix([-9, -1, 0, 1, 2, 4])
    top = top_eigenvector(lambda v: (matrix @ v.flatten()).view(SHAPE), vector(), seed=1, tolerance=1e-10)
    assert float(top.norm()) == pytest.approx(1)
    torch.testing.assert_close(matrix @ top.flatten(), 4 * top.flatten(), rtol=1e-6, atol=1e-6)


def test_signs_give_the_trace_of_a_diagonal_exactly():
    diagonal = vector()
    signs = [*sample_signs(diagonal, 5, 0)]
    assert all(set(z.unique().tolist()) == {-1.0, 1.0} for z in signs)
    assert [float((z * diagonal * z).sum()) for z in signs] == pytest.approx([float(diagonal.sum())] * 5)
    assert not all(torch.equal(z, signs[0]) for z in signs)
    assert all(torch.equal(first, again) for first, again in zip(signs, sample_signs(diagonal, 5, 0), strict=True))


def test_directions_have_unit_length_and_no_preference():
    directions = torch.stack([*sample_directions(vector(), 4000, 0)]).flatten(1)
    torch.testing.assert_close(directions.norm(dim=1), torch.ones(4000, dtype=torch.float64))
    torch.testing.assert_close(
        directions.T @ directions / 4000, torch.eye(6, dtype=torch.float64) / 6, rtol=0, atol=0.02
    )


def differentiable(function):
    """x -> (loss, gradient)."""

    def both(x: Tensor) -> tuple[Tensor, Tensor]:
        leaf = x.detach().requires_grad_()
        value = function(leaf)
        return value.detach(), torch.autograd.grad(value, leaf)[0]

    return both


def test_one_step_of_ascent_is_the_step_of_sam():
    both, point = differentiable(quadratic(symmetric_matrix([1, 1, 2, 3, 4, 5]), vector(5).flatten())), vector(8)
    expected = perturbation(point, both(point)[1], 0.3, "sam")
    torch.testing.assert_close(ascend(both, point, 0.3, 1), expected)


@pytest.mark.parametrize("eigenvalues", [[0.0, 0, 0, 0, 0, 0], [-3, -1, 0, 1, 2, 5]])
def test_ascent_approaches_the_worst_point_of_the_ball_and_stays_inside(eigenvalues: list[float]):
    matrix, slope, rho = symmetric_matrix(eigenvalues), vector(5).flatten(), 0.7
    function = quadratic(matrix, slope)
    # The maximum over the ball solves (mu I - H) epsilon = g with |epsilon| = rho and mu > lambda_max.
    identity = torch.eye(6, dtype=torch.float64)

    def maximiser(mu: float) -> Tensor:
        return torch.linalg.solve(mu * identity - matrix, slope)

    mu = brentq(lambda mu: float(maximiser(mu).norm()) - rho, max(eigenvalues) + 1e-6, 1e6)
    best = float(function(maximiser(mu)))
    epsilon = ascend(differentiable(function), torch.zeros(SHAPE, dtype=torch.float64), rho, 20)
    assert float(epsilon.norm()) <= rho * (1 + 1e-12)
    assert 0.99 * best <= float(function(epsilon)) <= best * (1 + 1e-12)


def test_ascent_stays_at_a_maximum():
    function = quadratic(symmetric_matrix([-1, -1, -2, -2, -3, -3]), torch.zeros(6, dtype=torch.float64))
    point = torch.full(SHAPE, 1e-9, dtype=torch.float64)
    assert float(ascend(differentiable(function), point, 0.5, 5).norm()) == 0
