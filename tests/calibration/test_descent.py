"""The calibration loop: its gradient, sharpness, batches and errors."""

from collections.abc import Iterable
from dataclasses import replace
from itertools import islice

import pytest
import torch
from torch import Tensor
from torch.nn.functional import kl_div

from pipeline import methods
from pipeline.calibration import descent
from pipeline.calibration.descent import coefficient_gradient, descend
from pipeline.calibration.objectives import Objective, distillation, entropy
from pipeline.calibration.problem import Diverged, Problem
from pipeline.calibration.sharpness import LossAndGradient, Sharpness, perturbation, sharp_gradient
from pipeline.models.examples import cut_padding
from pipeline.models.task_vectors import merge
from pipeline.models.weights import has_gradient
from pipeline.runtime.schema import Schedule
from pipeline.statistics.sampling import batches, generator, sample_indices
from tests.support import toy, toy_texts

SCHEDULE = Schedule(lr=0.05, steps=6, batch_size=4)
START = {"initial_coefficient": 0.2, "weight_decay": 5e-4}
OBJECTIVE = distillation(2.0)


def point(seed: int = 3) -> Tensor:
    """Return random coefficients [3, G]."""
    rng = torch.Generator().manual_seed(seed)
    return 0.3 * torch.randn(3, len(toy.GROUPS), generator=rng, dtype=torch.float64)


def divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """Compute the distillation loss at temperature 2 by `kl_div`."""
    p, q = (torch.softmax(logits / 2, -1) for logits in (teacher, student))
    return kl_div(q.log(), p, reduction="batchmean")


def uncertainty(student: Tensor, teacher: Tensor) -> Tensor:
    """Compute the entropy by `torch.distributions`."""
    return torch.distributions.Categorical(logits=student).entropy().mean()


def reference_loss(
    problem: Problem, at: Tensor, indices: tuple[Tensor, ...] | None = None, objective: Objective = divergence
) -> Tensor:
    """Return a loss summed over tasks, by default on all images; autograd goes through the merge."""
    merged = {
        name: problem.base[name] + sum(at[t, g] * problem.vectors[name][t] for t in range(len(at)))
        for g, name in enumerate(problem.vectors)
    }
    loss = torch.zeros((), dtype=torch.float64)
    batches = indices or toy.whole(problem)
    for head, pool, teacher, batch in zip(problem.heads, problem.examples, problem.teachers, batches, strict=True):
        student = problem.encoder(merged, pool[batch]) @ head.T
        loss = loss + objective(student, teacher[batch])
    return loss


def reference_gradient(
    problem: Problem, at: Tensor, indices: tuple[Tensor, ...], objective: Objective = divergence
) -> tuple[Tensor, Tensor]:
    """Return the reference loss and its gradient."""
    at = at.clone().requires_grad_()
    loss = reference_loss(problem, at, indices, objective)
    (slope,) = torch.autograd.grad(loss, at)
    return loss.detach(), slope


@pytest.mark.parametrize("kind", toy_texts.MODELS)
def test_gradient_on_texts_equals_autograd_text_by_text(kind: str):
    """The reference has a batch of one text without padding for every text of a task."""
    problem = toy_texts.problem(kind)
    at = torch.full((3, len(problem.vectors)), 0.3, dtype=torch.float64).requires_grad_()
    merged = dict(problem.base)
    for column, (name, stacked) in enumerate(problem.vectors.items()):
        merged[name] = problem.base[name] + torch.tensordot(at[:, column], stacked, dims=1)
    expected = torch.zeros((), dtype=torch.float64)
    for head, pool, teacher in zip(problem.heads, problem.examples, problem.teachers, strict=True):
        student = torch.cat([problem.encoder(merged, cut_padding(text[None])) for text in pool]) @ head.T
        expected = expected + divergence(student, teacher)
    loss, slope = coefficient_gradient(problem, OBJECTIVE, at.detach(), toy.whole(problem))
    torch.testing.assert_close(loss, expected.detach(), rtol=0, atol=1e-12)
    torch.testing.assert_close(slope, torch.autograd.grad(expected, at)[0], rtol=0, atol=1e-11)


@pytest.mark.parametrize(("objective", "other_way"), [(OBJECTIVE, divergence), (entropy, uncertainty)])
def test_gradient_equals_autograd_through_the_merge(problem: Problem, objective: Objective, other_way: Objective):
    indices = (torch.tensor([0, 3]), torch.tensor([5, 1, 2]), torch.tensor([8]))
    loss, slope = coefficient_gradient(problem, objective, point(), indices)
    expected_loss, expected = reference_gradient(problem, point(), indices, other_way)
    torch.testing.assert_close(loss, expected_loss, rtol=0, atol=1e-12)
    torch.testing.assert_close(slope, expected, rtol=0, atol=1e-10)
    assert slope.abs().min() > 1e-6


def test_gradient_does_not_modify_its_inputs(problem: Problem):
    originals = toy.cloned(problem.base), toy.cloned(problem.vectors)
    at = point()
    coefficient_gradient(problem, OBJECTIVE, at, toy.whole(problem))
    assert toy.same(problem.base, originals[0])
    assert toy.same(problem.vectors, originals[1])
    assert torch.equal(at, point())
    assert not any(tensor.requires_grad for tensor in (*problem.base.values(), *problem.vectors.values(), at))


def quadratic(seed: int = 0) -> tuple[Tensor, LossAndGradient]:
    """Return a positive definite A and the function x -> (x'Ax / 2, Ax)."""
    root = torch.randn(6, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    matrix = root @ root.T + torch.eye(6, dtype=torch.float64)
    return matrix, lambda x: (x @ matrix @ x / 2, matrix @ x)


@pytest.mark.parametrize("rho", [0.01, 0.07, 1.0])
def test_sam_on_a_quadratic_has_its_closed_form(rho: float):
    matrix, function = quadratic()
    x = torch.arange(1.0, 7.0, dtype=torch.float64)
    loss, slope = sharp_gradient(function, x, rho, "sam")
    expected = matrix @ (x + rho * matrix @ x / (matrix @ x).norm())
    torch.testing.assert_close(slope, expected, rtol=0, atol=1e-10)
    assert float(loss) == pytest.approx(float(x @ matrix @ x / 2))


def test_sam_perturbs_by_rho_along_the_gradient():
    slope = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    step = perturbation(torch.zeros(3, 4, dtype=torch.float64), slope, 0.07, "sam")
    assert float(step.norm()) == pytest.approx(0.07, abs=1e-15)
    torch.testing.assert_close(step / step.norm(), slope / slope.norm(), rtol=0, atol=1e-15)


def test_asam_perturbs_relative_to_the_coefficients():
    at, slope = point(), point(4)
    step = perturbation(at, slope, 0.07, "asam")
    assert float((step / at).norm()) == pytest.approx(0.07, abs=1e-14)
    torch.testing.assert_close(step, 0.07 * at**2 * slope / (at * slope).norm(), rtol=0, atol=1e-15)


@pytest.mark.parametrize("sharpness", ["sam", "asam"])
def test_a_zero_gradient_gives_no_perturbation(sharpness: Sharpness):
    zero = torch.zeros(3, 4, dtype=torch.float64)
    assert torch.equal(perturbation(zero, zero, 0.07, sharpness), zero)


def test_asam_at_zero_coefficients_gives_no_perturbation():
    zero = torch.zeros(3, len(toy.GROUPS), dtype=torch.float64)
    assert torch.equal(perturbation(zero, point(), 0.07, "asam"), zero)


@pytest.mark.parametrize("sharpness", ["sam", "asam"])
def test_second_gradient_is_taken_at_the_perturbed_point(problem: Problem, sharpness: Sharpness):
    indices, at = toy.whole(problem), point()
    loss, sharp = sharp_gradient(lambda x: coefficient_gradient(problem, OBJECTIVE, x, indices), at, 0.3, sharpness)
    first_loss, first = reference_gradient(problem, at, indices)
    _, expected = reference_gradient(problem, at + perturbation(at, first, 0.3, sharpness), indices)
    torch.testing.assert_close(loss, first_loss, rtol=0, atol=1e-12)
    torch.testing.assert_close(sharp, expected, rtol=0, atol=1e-10)
    assert (sharp - first).norm() > 1e-2 * first.norm()


def test_descend_merges_again_at_the_perturbed_point(problem: Problem):
    seen = []

    def recording(weights, images):
        seen.append(toy.cloned({name: tensor.detach() for name, tensor in weights.items()}))
        return toy.encoder(weights, images)

    schedule = Schedule(lr=0.05, steps=1, batch_size=100)
    descend(replace(problem, encoder=recording), OBJECTIVE, schedule, 0, rho=0.3, sharpness="sam", **START)
    start = torch.full((3, len(toy.GROUPS)), 0.2, dtype=torch.float64)
    _, slope = reference_gradient(problem, start, toy.whole(problem))
    points = (start, start + 0.3 * slope / slope.norm())
    assert len(seen) == 2
    for merged, at in zip(seen, points, strict=True):
        expected = merge(problem.base, problem.vectors, at)
        for name in toy.GROUPS:
            torch.testing.assert_close(merged[name], expected[name], rtol=0, atol=1e-10)


@pytest.mark.parametrize("settings", [{"rho": 0.0, "sharpness": "sam"}, {"rho": 0.07, "sharpness": "none"}])
def test_without_sharpness_descend_is_plain_descent(problem: Problem, settings: dict):
    plain = descend(problem, OBJECTIVE, SCHEDULE, 0, **START)
    solution = descend(problem, OBJECTIVE, SCHEDULE, 0, **START, **settings)
    assert torch.equal(solution.coefficients, plain.coefficients)
    assert torch.equal(solution.losses, plain.losses)


@pytest.mark.parametrize("sharpness", ["sam", "asam"])
def test_sharpness_changes_the_result(problem: Problem, sharpness: Sharpness):
    plain = descend(problem, OBJECTIVE, SCHEDULE, 0, **START)
    solution = descend(problem, OBJECTIVE, SCHEDULE, 0, rho=0.07, sharpness=sharpness, **START)
    assert (solution.coefficients - plain.coefficients).abs().max() > 1e-4


def test_sam_without_the_second_merge_is_plain_descent(problem: Problem, monkeypatch: pytest.MonkeyPatch):
    """The released code merges once per step: its second gradient repeats the first for every rho."""
    plain = descend(problem, OBJECTIVE, SCHEDULE, 0, **START)
    calls: list[Tensor] = []
    merges: list[dict[str, Tensor]] = []

    def merged_once_per_step(base, vectors, coefficients):
        calls.append(coefficients.clone())
        if len(calls) % 2:
            merges.append(merge(base, vectors, coefficients))
        return {name: tensor.detach().clone() for name, tensor in merges[-1].items()}

    monkeypatch.setattr(descent, "merge", merged_once_per_step)
    released = descend(problem, OBJECTIVE, SCHEDULE, 0, rho=0.07, sharpness="sam", **START)
    assert len(calls) == 2 * SCHEDULE.steps
    assert not torch.equal(calls[0], calls[1])
    assert torch.equal(released.coefficients, plain.coefficients)
    assert torch.equal(released.losses, plain.losses)


def test_descend_is_adam_on_the_summed_loss(problem: Problem):
    """Against a loop written with torch alone, full batches."""
    schedule = Schedule(lr=0.05, steps=5, batch_size=100)
    solution = descend(problem, OBJECTIVE, schedule, 0, rho=0.2, sharpness="sam", **START)
    at = torch.full((3, len(toy.GROUPS)), 0.2, dtype=torch.float64)
    optimiser = torch.optim.Adam([at], lr=0.05, weight_decay=5e-4)
    losses = []
    for _ in range(5):
        loss, first = reference_gradient(problem, at, toy.whole(problem))
        _, at.grad = reference_gradient(problem, at + 0.2 * first / first.norm(), toy.whole(problem))
        optimiser.step()
        losses.append(loss)
    torch.testing.assert_close(solution.coefficients, at, rtol=0, atol=1e-8)
    torch.testing.assert_close(solution.losses, torch.stack(losses), rtol=0, atol=1e-8)
    assert solution.losses[-1] < solution.losses[0]


@pytest.mark.parametrize("sharpness", ["sam", "asam", "none"])
def test_task_granularity_is_adam_and_sharpness_on_one_coefficient_per_task(problem: Problem, sharpness: Sharpness):
    """Against a loop on [T] alone: autograd sums over the groups, the perturbation has the norm of T numbers."""
    schedule = Schedule(lr=0.05, steps=4, batch_size=100)
    solution = descend(problem, OBJECTIVE, schedule, 0, rho=0.2, sharpness=sharpness, granularity="task", **START)

    def slope(at: Tensor) -> Tensor:
        leaf = at.clone().requires_grad_()
        return torch.autograd.grad(reference_loss(problem, leaf[:, None].expand(3, len(toy.GROUPS))), leaf)[0]

    at = torch.full((3,), 0.2, dtype=torch.float64)
    optimiser = torch.optim.Adam([at], lr=0.05, weight_decay=5e-4)
    for _ in range(4):
        first = slope(at)
        step = {"sam": 0.2 * first / first.norm(), "asam": 0.2 * at**2 * first / (at * first).norm(), "none": 0}
        at.grad = slope(at + step[sharpness])
        optimiser.step()
    torch.testing.assert_close(solution.coefficients, at[:, None].expand(3, len(toy.GROUPS)), rtol=0, atol=1e-8)
    assert solution.losses[-1] < solution.losses[0]


def test_granularities_agree_where_there_is_one_group(problem: Problem):
    alone = replace(problem, vectors={"first.weight": problem.vectors["first.weight"]})
    settings = {"rho": 0.2, "sharpness": "sam", **START}
    by_layer, by_task = (
        descend(alone, OBJECTIVE, SCHEDULE, 0, granularity=kind, **settings) for kind in ("layer", "task")
    )
    assert torch.equal(by_layer.coefficients, by_task.coefficients)
    assert torch.equal(by_layer.losses, by_task.losses)


def test_no_output_depends_on_the_bias_of_k():
    """softmax(q (k + b)) = softmax(q k + q b): the same shift for every key. Outputs do depend on the other biases."""
    problem, rng = toy.clip_problem(), torch.Generator().manual_seed(0)
    expected = problem.encoder(problem.base, problem.examples[0])
    for name, tensor in problem.base.items():
        if name.endswith("bias"):
            moved = problem.base | {name: tensor + torch.randn(tensor.shape, generator=rng, dtype=tensor.dtype)}
            change = (problem.encoder(moved, problem.examples[0]) - expected).abs().max()
            assert change > 1e-3 if has_gradient(name) else change < 1e-14
    still = [name.removeprefix("transformer.resblocks.") for name in problem.base if not has_gradient(name)]
    assert still == ["0.attn.k.bias", "1.attn.k.bias"]


def gradient_free(groups: Iterable[str]) -> Tensor:
    """Return the mask [G] of coefficients that belong to a bias of k."""
    return torch.tensor([name.endswith("attn.k.bias") for name in groups])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("settings", [{}, {"clamp": True}, {"rho": 0.1, "sharpness": "asam"}])
def test_coefficients_without_a_gradient_keep_their_initial_value(dtype: torch.dtype, settings: dict):
    """Exactly: without rounding amplified by Adam, weight decay or clamping."""
    problem = toy.clip_problem(dtype=dtype)
    coefficients = descend(
        problem, OBJECTIVE, SCHEDULE, 0, initial_coefficient=1.2, weight_decay=0.1, **settings
    ).coefficients
    still = gradient_free(problem.vectors)
    assert coefficients.shape == (3, len(problem.vectors)) and coefficients.dtype == dtype
    assert (coefficients[:, still] == torch.tensor(1.2, dtype=dtype)).all()
    assert (coefficients[:, ~still] != torch.tensor(1.2, dtype=dtype)).all()


def test_leaving_out_coefficients_without_a_gradient_does_not_change_the_others():
    """Against Adam and SAM on the coefficients of all groups, in float64, where the rounding is not amplified."""
    problem, schedule = toy.clip_problem(), Schedule(lr=0.05, steps=4, batch_size=100)
    solution = descend(problem, OBJECTIVE, schedule, 0, rho=0.2, sharpness="sam", **START)
    at = torch.full((3, len(problem.vectors)), 0.2, dtype=torch.float64)
    optimiser, losses = torch.optim.Adam([at], lr=0.05, weight_decay=5e-4), []
    for _ in range(4):
        loss, first = coefficient_gradient(problem, OBJECTIVE, at, toy.whole(problem))
        _, at.grad = coefficient_gradient(problem, OBJECTIVE, at + 0.2 * first / first.norm(), toy.whole(problem))
        optimiser.step()
        losses.append(loss)
    still = gradient_free(problem.vectors)
    torch.testing.assert_close(solution.coefficients[:, ~still], at[:, ~still], rtol=0, atol=1e-9)
    torch.testing.assert_close(solution.losses, torch.stack(losses), rtol=0, atol=1e-9)


def test_descend_is_deterministic_and_depends_on_the_seed(problem: Problem):
    runs = [descend(problem, OBJECTIVE, SCHEDULE, seed, **START).coefficients for seed in (0, 0, 1)]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_weight_decay_pulls_the_coefficients_to_zero(problem: Problem):
    settings = {"initial_coefficient": 0.2}
    free, pulled = (descend(problem, OBJECTIVE, SCHEDULE, 0, weight_decay=w, **settings) for w in (0.0, 10.0))
    assert pulled.coefficients.norm() < free.coefficients.norm()


def test_clamp_keeps_coefficients_between_zero_and_one(problem: Problem):
    fast = Schedule(lr=0.9, steps=4, batch_size=4)
    settings = {"initial_coefficient": 0.5, "weight_decay": 0.0}
    free = descend(problem, entropy, fast, 0, **settings).coefficients
    clamped = descend(problem, entropy, fast, 0, clamp=True, **settings).coefficients
    assert free.min() < 0
    assert free.max() > 1
    assert clamped.min() >= 0
    assert clamped.max() <= 1


def test_loss_and_gradient_vanish_at_the_only_expert():
    alone = toy.problem(tasks=1)
    ones = torch.ones(1, len(toy.GROUPS), dtype=torch.float64)
    loss, slope = coefficient_gradient(alone, OBJECTIVE, ones, toy.whole(alone))
    assert abs(float(loss)) < 1e-12
    assert slope.abs().max() < 1e-12
    assert float(coefficient_gradient(alone, OBJECTIVE, 0 * ones, toy.whole(alone))[0]) > 1e-3


@pytest.mark.parametrize("settings", [{"rho": 0.0}, {"sharpness": "none"}])
def test_samerging_without_sharpness_is_distillation_bit_for_bit(problem: Problem, settings: dict):
    samerging, distilled = methods.load("samerging"), methods.load("distillation")
    solution = samerging.calibrate(problem, SCHEDULE, 0, samerging.Params(**settings))
    expected = distilled.calibrate(problem, SCHEDULE, 0, distilled.Params())
    assert torch.equal(solution.coefficients, expected.coefficients)
    assert torch.equal(solution.losses, expected.losses)
    assert not torch.equal(
        samerging.calibrate(problem, SCHEDULE, 0, samerging.Params()).coefficients, expected.coefficients
    )


def test_temperature_reaches_the_objective(problem: Problem):
    module = methods.load("samerging")
    low, high = (module.calibrate(problem, SCHEDULE, 0, module.Params(temperature=t)) for t in (1.0, 2.0))
    assert not torch.equal(low.losses, high.losses)


@pytest.mark.parametrize(("count", "size"), [(10, 3), (10, 5), (7, 7), (5, 4), (1, 1)])
def test_batches_use_every_index_once_per_cycle(count: int, size: int):
    drawn = torch.cat([*islice(batches(count, size, generator(0)), 4 * count)])
    cycles = drawn[: len(drawn) // count * count].view(-1, count)
    assert len(cycles) >= 4
    assert all(sorted(cycle.tolist()) == [*range(count)] for cycle in cycles)
    if count > 3:
        assert len({tuple(cycle.tolist()) for cycle in cycles}) > 1


def test_batches_larger_than_the_pool_hold_the_pool():
    assert [len(batch) for batch in islice(batches(3, 16, generator(0)), 3)] == [3, 3, 3]


def test_batches_are_deterministic():
    runs = [torch.stack([*islice(batches(9, 4, generator(seed, "x")), 9)]) for seed in (0, 0, 1)]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_generators_do_not_touch_the_global_generator():
    before = torch.random.get_rng_state()
    torch.rand(3, generator=generator(0))
    descend(toy.problem(), OBJECTIVE, SCHEDULE, 0, **START)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_draws_are_nested_seeded_distinct_and_capped():
    largest = sample_indices(50, 50, 0, "cats")
    assert sorted(largest.tolist()) == [*range(50)]
    assert all(torch.equal(sample_indices(50, k, 0, "cats"), largest[:k]) for k in (1, 4, 16))
    assert torch.equal(sample_indices(50, 1600, 0, "cats"), largest)
    assert not torch.equal(sample_indices(50, 50, 1, "cats"), largest)
    assert not torch.equal(sample_indices(50, 50, 0, "dogs"), largest)


def test_nan_in_a_head_is_reported_with_its_step(problem: Problem):
    broken = replace(problem, heads=(problem.heads[0] * float("nan"), *problem.heads[1:]))
    with pytest.raises(Diverged, match=r"step 1: loss nan; try a smaller lr or rho"):
        descend(broken, OBJECTIVE, SCHEDULE, 0, **START)


def test_a_huge_learning_rate_is_reported_at_the_step_it_diverges(problem: Problem):
    with pytest.raises(Diverged, match="diverged at step 2:"):
        descend(problem, OBJECTIVE, Schedule(lr=1e300, steps=9, batch_size=4), 0, **START)


def test_the_gradient_does_not_depend_on_the_number_of_passes():
    problem = toy.problem()
    indices = toy.whole(problem)
    whole = coefficient_gradient(problem, OBJECTIVE, point(), indices)
    seen: list[int] = []
    counted = replace(problem, encoder=lambda at, images: seen.append(len(images)) or problem.encoder(at, images))
    coefficient_gradient(counted, OBJECTIVE, point(), indices)
    assert seen == [sum(len(batch) for batch in indices)]
    seen.clear()
    parts = coefficient_gradient(replace(counted, examples_per_pass=1), OBJECTIVE, point(), indices)
    assert seen == [len(batch) for batch in indices]
    for expected, actual in zip(whole, parts, strict=True):
        torch.testing.assert_close(expected, actual, rtol=1e-12, atol=1e-12)


def test_bfloat16_ends_near_float32():
    """Short runs of both: the coefficients move together, and the rounding shows."""
    problem = toy.clip_problem(dtype=torch.float32)
    schedule = Schedule(lr=0.02, steps=10, batch_size=8)
    start = {"initial_coefficient": 0.3, "weight_decay": 0.0}
    precisions = (torch.float32, torch.bfloat16)
    runs = [descend(replace(problem, precision=precision), OBJECTIVE, schedule, 0, **start) for precision in precisions]
    fine, coarse = (run.coefficients - 0.3 for run in runs)
    assert coarse.dtype == torch.float32
    assert not torch.equal(fine, coarse)
    assert float((fine - coarse).norm() / fine.norm()) < 0.2
    assert float((fine * coarse).sum() / fine.norm() / coarse.norm()) > 0.99
    torch.testing.assert_close(runs[0].losses, runs[1].losses, rtol=0.02, atol=0.0)
