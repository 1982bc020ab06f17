"""The calibrated methods beside plain descent: AdaMerging's variants, ProDistill, SyMerge."""

import re
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from pipeline import methods
from pipeline.calibration.problem import Diverged, Problem
from pipeline.merges.serving import Served, heads
from pipeline.merges.solution import Solution
from pipeline.methods import symerge, ties
from pipeline.models.task_vectors import merge, merge_delta
from pipeline.models.weights import Weights
from pipeline.runtime.schema import Schedule
from pipeline.toolbox.trimming import select_entries
from tests.support import toy

SCHEDULE = Schedule(lr=0.05, steps=6, batch_size=4)
PRECISIONS = (torch.float32, torch.bfloat16)
STILL = Schedule(lr=1e-12, steps=1, batch_size=4)


def calibrated(name: str, problem: Problem, schedule: Schedule = SCHEDULE, **settings: float) -> Solution:
    """What a method answers for seed 0."""
    module = methods.load(name)
    return module.calibrate(problem, schedule, 0, module.Params(**settings))


def close(one: Weights, other: Weights, tolerance: float) -> None:
    """Assert that both hold the same tensors to an absolute tolerance."""
    assert [*one] == [*other]
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=0, atol=tolerance)


# AdaMerging: one coefficient per task, selected entries


@pytest.mark.parametrize("name", ["adamerging_taskwise", "adamerging_pp", "adamerging_taskwise_pp"])
def test_variants_of_adamerging_lower_the_entropy(name: str, problem: Problem):
    losses = calibrated(name, problem, Schedule(lr=0.05, steps=30, batch_size=100)).losses
    assert losses[-1] < 0.96 * losses[0]


def test_taskwise_coefficients_do_not_depend_on_the_group(problem: Problem):
    found = calibrated("adamerging_taskwise", problem).coefficients
    assert found.shape == (3, len(toy.GROUPS))
    assert torch.equal(found, found[:, :1].expand_as(found))
    assert len({*found[:, 0].tolist()}) == 3


def taken(flat: Tensor, keep: int) -> Tensor:
    """The entries that TIES takes of flat task vectors [T, P], `keep` per task, by sorting."""
    kept = torch.zeros_like(flat)
    for task, row in enumerate(flat):
        largest = row.abs().argsort(descending=True)[:keep]
        kept[task, largest] = row[largest]
    signs = kept.sum(0).sign()
    signs[signs == 0] = signs.sum().sign()
    return kept * (kept.sign() == signs)


@pytest.mark.parametrize("keep", [1.0, 0.5, 0.2])
def test_selected_entries_are_those_that_sorting_finds(keep: float, problem: Problem):
    flat = torch.cat([stacked.flatten(1) for stacked in problem.vectors.values()], dim=1)
    found = torch.cat([stacked.flatten(1) for stacked in select_entries(problem.vectors, keep).values()], dim=1)
    expected = taken(flat, -(-int(100 * keep) * flat.shape[1] // 100))
    assert torch.equal(found, expected)
    assert 0 < int((found != 0).sum()) < flat.numel() * keep


def test_where_signs_cancel_the_majority_decides():
    up, down = [3.0, 1.0, 1.0, -2.0], [-3.0, 1.0, -2.0, -2.0]
    for sign in (1.0, -1.0):  # one sum is positive, two are negative, and the first is zero
        found = select_entries({"weight": sign * torch.tensor([up, down])}, keep=1.0)["weight"]
        expected = sign * torch.tensor([[0, 1.0, 0, -2.0], [-3.0, 1.0, -2.0, -2.0]])
        assert torch.equal(found, expected)


def test_the_sum_of_selected_entries_is_ties():
    vectors = toy.task_vectors()
    expected = ties.merge(vectors, ties.Params(keep=0.2, scale=1.0, aggregate="sum"))
    close({name: stacked.sum(0) for name, stacked in select_entries(vectors, 0.2).items()}, expected, 1e-14)


@pytest.mark.parametrize("name", ["adamerging_pp", "adamerging_taskwise_pp"])
def test_plus_plus_starts_at_ties(name: str, problem: Problem):
    expected = ties.merge(toy.task_vectors(), ties.Params(keep=0.2, scale=0.3, aggregate="sum"))
    close(calibrated(name, problem, STILL).delta, expected, 1e-10)


@pytest.mark.parametrize("name", ["adamerging", "adamerging_taskwise"])
def test_plus_plus_is_adamerging_of_the_selected_entries(name: str, problem: Problem):
    found = calibrated(f"{name}_pp", problem, keep=0.4)
    chosen = replace(problem, vectors=select_entries(problem.vectors, 0.4))
    expected = calibrated(name, chosen)
    assert torch.equal(found.losses, expected.losses)
    assert toy.same(found.delta, merge_delta(chosen.vectors, expected.coefficients))
    assert not torch.equal(found.losses, calibrated(name, problem).losses)


@pytest.mark.parametrize("name", ["adamerging", "adamerging_taskwise"])
def test_of_one_task_kept_whole_plus_plus_is_adamerging(name: str):
    alone = toy.problem(tasks=1)
    found, plain = calibrated(f"{name}_pp", alone, keep=1.0), calibrated(name, alone)
    assert toy.same(found.delta, merge_delta(alone.vectors, plain.coefficients))


def test_combined_task_vectors_are_what_merge_adds(problem: Problem):
    coefficients = torch.randn(3, len(toy.GROUPS), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    delta, zero = (
        merge_delta(problem.vectors, coefficients),
        {name: 0 * tensor for name, tensor in problem.base.items()},
    )
    assert toy.same(delta, merge(zero, problem.vectors, coefficients))


# ProDistill


SHORT = {"epochs": 3, "batch_size": 100}


def followed(problem: Problem, epochs: int, lr: float) -> tuple[Weights, list[float]]:
    """ProDistill with full batches from its definition: chain rule and Adam written out, one pass for every model."""
    tower, tasks = problem.encoder, range(len(problem.images))
    delta, losses = {name: 0.3 * stacked.sum(0) for name, stacked in problem.vectors.items()}, []
    experts = [{**problem.base, **{n: problem.base[n] + v[task] for n, v in problem.vectors.items()}} for task in tasks]

    def reached(weights: Weights, images: Tensor, blocks: int) -> Tensor:
        tokens = tower.embed(weights, images)
        for index in range(blocks):
            tokens = tower.block(weights, index, tokens)
        return tokens

    for index in range(tower.depth):
        names = [name for name in problem.vectors if f"resblocks.{index}." in name]
        c = {name: torch.full_like(problem.vectors[name], 0.3) for name in names}
        first, second = ({name: torch.zeros_like(c[name]) for name in names} for _ in range(2))
        for step in range(1, epochs + 1):
            theta = {name: problem.base[name] + delta.get(name, 0) for name in problem.base}
            own = {name: (problem.base[name] + (c[name] * problem.vectors[name]).sum(0)) for name in names}
            leaves = {name: tensor.requires_grad_() for name, tensor in own.items()}
            loss = torch.zeros((), dtype=torch.float64)
            for task in tasks:
                entering = reached(theta, problem.images[task], index)
                goal = reached(experts[task], problem.images[task], index + 1)
                loss = loss + (tower.block({**theta, **leaves}, index, entering) - goal).square().sum()
            losses.append(float(loss.detach()))
            slopes = torch.autograd.grad(loss, [leaves[name] for name in names])
            for name, slope in zip(names, slopes, strict=True):
                g = slope * problem.vectors[name]
                first[name] = 0.9 * first[name] + 0.1 * g
                second[name] = 0.999 * second[name] + 0.001 * g * g
                root = (second[name] / (1 - 0.999**step)).sqrt()
                c[name] = c[name] - lr * first[name] / (1 - 0.9**step) / (root + 1e-8)
        delta |= {name: (c[name] * problem.vectors[name]).sum(0) for name in names}
    return delta, losses


def test_prodistill_is_adam_on_every_block_in_turn():
    problem = toy.clip_problem()
    found = calibrated("prodistill", problem, **SHORT)
    delta, losses = followed(problem, epochs=3, lr=0.01)
    close(found.delta, delta, 1e-8)
    assert found.losses.tolist() == pytest.approx(losses, rel=1e-8)
    for steps in found.losses.split(3):
        assert steps[-1] < steps[0]


def test_prodistill_has_no_loss_at_the_only_expert():
    """The learning rate is tiny because Adam walks off on rounding errors alone."""
    alone = toy.clip_problem(tasks=1)
    at, near = (calibrated("prodistill", alone, initial_coefficient=c, lr=1e-12, **SHORT) for c in (1.0, 0.9))
    assert at.losses.max() < 1e-20
    assert near.losses.min() > 1e-3
    close(at.delta, {name: stacked[0] for name, stacked in alone.vectors.items()}, 1e-10)


def test_prodistill_starts_at_task_arithmetic_and_learns_the_blocks_alone():
    problem = toy.clip_problem()
    start = {name: 0.3 * stacked.sum(0) for name, stacked in problem.vectors.items()}
    close(calibrated("prodistill", problem, lr=1e-12, **SHORT).delta, start, 1e-10)
    found = calibrated("prodistill", problem, **SHORT).delta
    for name, tensor in start.items():
        assert torch.equal(found[name], tensor) == ("resblocks" not in name or name.endswith("k.bias"))


def test_prodistill_uses_the_first_images_of_the_draw():
    problem = toy.clip_problem()
    few = replace(problem, images=tuple(pool[:4] for pool in problem.images))
    found, expected = (calibrated("prodistill", one, samples=4, **SHORT) for one in (problem, few))
    assert toy.same(found.delta, expected.delta)
    assert not toy.same(found.delta, calibrated("prodistill", problem, samples=5, **SHORT).delta)


def test_prodistill_takes_every_image_once_per_epoch():
    problem = toy.clip_problem()
    batches = -(-sum(len(pool) for pool in problem.images) // 7)
    found = calibrated("prodistill", problem, epochs=2, batch_size=7, lr=1e-12).losses
    assert len(found) == 2 * batches * 2
    torch.testing.assert_close(found[:batches].sum(), found[batches : 2 * batches].sum(), rtol=1e-9, atol=0)
    assert not torch.equal(found[:batches], found[batches : 2 * batches])


def test_prodistill_does_not_depend_on_the_size_of_a_pass():
    problem = toy.clip_problem()
    found = [calibrated("prodistill", replace(problem, images_per_pass=n), **SHORT).delta for n in (1, 4, 1000)]
    close(found[0], found[2], 1e-9)
    close(found[1], found[2], 1e-9)


def test_prodistill_says_where_it_diverges():
    problem = toy.clip_problem()
    name = "transformer.resblocks.0.mlp.c_fc.weight"
    broken = replace(problem, base={**problem.base, name: problem.base[name] * float("nan")})
    with pytest.raises(Diverged, match="step 1: loss nan"):
        calibrated("prodistill", broken, **SHORT)


# SyMerge


ROUNDS = Schedule(lr=1.0, steps=4, batch_size=4)


def logits(seed: int, images: int = 40, classes: int = 3) -> Tensor:
    """Random logits."""
    return torch.randn(images, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_trusted_cross_entropy_image_by_image():
    student, teacher = logits(0), logits(1)
    losses, cases = [], set()
    for mine, other in zip(student.softmax(-1).tolist(), teacher.softmax(-1).tolist(), strict=True):
        label, agree = other.index(max(other)), mine.index(max(mine)) == other.index(max(other))
        cases.add((agree, max(other) >= max(mine)))
        if agree or max(other) >= max(mine):
            losses.append(-torch.tensor(mine[label], dtype=torch.float64).log())
    assert len(cases) == 4
    assert 5 < len(losses) < 40
    found = symerge.trusted_cross_entropy(student, teacher)
    torch.testing.assert_close(found, torch.stack(losses).mean(), rtol=0, atol=1e-12)


def test_an_expert_is_trusted_on_its_own_predictions():
    teacher = logits(1)
    expected = cross_entropy(teacher, teacher.argmax(-1))
    torch.testing.assert_close(symerge.trusted_cross_entropy(teacher, teacher), expected, rtol=0, atol=1e-12)


def test_symerge_says_how_many_images_it_leaves_out(problem: Problem, capsys):
    calibrated("symerge", problem, ROUNDS)
    said = re.search(r"symerge: seed \d+: ([\d,]+) of ([\d,]+) images had a trusted expert", capsys.readouterr().out)
    assert said is not None
    kept, seen = (int(number.replace(",", "")) for number in said.groups())
    assert 0 < kept <= seen == ROUNDS.steps * sum(min(ROUNDS.batch_size, len(images)) for images in problem.images)


def test_without_a_trusted_image_there_is_nothing_to_learn():
    student = torch.tensor([[9.0, 0.0], [0.0, 8.0]], requires_grad=True)
    loss = symerge.trusted_cross_entropy(student, torch.tensor([[0.0, 1.0], [2.0, 0.0]]))
    (slope,) = torch.autograd.grad(loss, student)
    assert float(loss.detach()) == 0
    assert not slope.any()


@pytest.mark.parametrize("task", [0, 2])
def test_symerge_gradients_equal_autograd_through_the_merge(task: int, problem: Problem):
    at = torch.full((3, len(toy.GROUPS)), 0.3, dtype=torch.float64, requires_grad=True)
    head = problem.heads[task].clone().requires_grad_()
    batch = torch.tensor([0, 4, 5, 2])
    weights = {
        name: problem.base[name] + sum(at[t, g] * stacked[t] for t in range(3))
        for g, (name, stacked) in enumerate(problem.vectors.items())
    }
    student = toy.encoder(weights, problem.images[task][batch]) @ head.T
    expected = symerge.trusted_cross_entropy(student, problem.teachers[task][batch])
    slopes = torch.autograd.grad(expected, (at, head))
    *found, kept = symerge.trusted_gradient(problem, at.detach(), head.detach(), task, batch)
    assert int(kept) == int(symerge.trusted(student, problem.teachers[task][batch]).sum())
    for one, other in zip(found, (expected.detach(), *slopes), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)
        assert one.abs().max() > 1e-3
    assert slopes[0][:, 0].abs().min() > 1e-6


def test_symerge_tunes_the_heads_of_all_tasks(problem: Problem):
    found = calibrated("symerge", problem, ROUNDS)
    assert found.extras.kind == "heads"
    assert [*found.extras.tensors] == [*problem.tasks]
    assert len(found.losses) == 3 * ROUNDS.steps
    served = Served(problem.encoder, problem.base, dict(zip(problem.tasks, problem.heads, strict=True)), problem.tasks)
    (tuned,) = heads.serve(served, problem.base, found.extras.tensors)
    for task, head in zip(problem.tasks, problem.heads, strict=True):
        assert tuned.heads[task].shape == head.shape
        assert (tuned.heads[task] - head).abs().max() > 1e-3


def test_a_step_of_symerge_moves_the_coefficients_and_one_head(problem: Problem):
    """Adam's first step is at most its learning rate: a round is one step for a head, T for the coefficients."""
    found = calibrated("symerge", problem, Schedule(lr=1.0, steps=1, batch_size=100))
    for task, head in zip(problem.tasks, problem.heads, strict=True):
        assert float((found.extras.tensors[task] - head).abs().max()) == pytest.approx(0.01, rel=1e-4)
    assert 0.015 < (found.coefficients - 0.3).abs().max() < 0.04


def test_heads_stay_without_a_learning_rate(problem: Problem):
    found = calibrated("symerge", problem, ROUNDS, head_lr=0.0)
    assert toy.same(found.extras.tensors, dict(zip(problem.tasks, problem.heads, strict=True)))
    assert (found.coefficients - 0.3).abs().max() > 1e-3


def test_symerge_leaves_coefficients_without_a_gradient_where_they_start():
    problem = toy.clip_problem(dtype=torch.float32)
    found = calibrated("symerge", problem, Schedule(lr=1.0, steps=3, batch_size=4)).coefficients
    moved = {name: bool((column != 0.3).all()) for name, column in zip(problem.vectors, found.T, strict=True)}
    assert moved == {name: not name.endswith("attn.k.bias") for name in problem.vectors}
    assert (found[:, [not still for still in moved.values()]] == torch.tensor(0.3)).all()


def test_symerge_lowers_its_loss_and_heads_help(problem: Problem):
    long = Schedule(lr=1.0, steps=60, batch_size=100)
    both, alone = (calibrated("symerge", problem, long, head_lr=rate).losses.split(3) for rate in (0.01, 0.0))
    assert both[-1].sum() < 0.9 * both[0].sum()
    assert both[-1].sum() < alone[-1].sum() < alone[0].sum()


def test_symerge_clamps_unless_told_not_to(problem: Problem):
    free, kept = (calibrated("symerge", problem, ROUNDS, lr=0.5, clamp=clamp).coefficients for clamp in (False, True))
    assert free.min() < 0
    assert free.max() > 1
    assert kept.min() >= 0
    assert kept.max() <= 1


def test_symerge_says_where_it_diverges(problem: Problem):
    broken = replace(problem, heads=tuple(head * float("nan") for head in problem.heads))
    with pytest.raises(Diverged, match="step 1: loss nan"):
        calibrated("symerge", broken)


@pytest.mark.parametrize("name", ["adamerging_pp", "adamerging_taskwise", "prodistill", "symerge"])
def test_methods_keep_the_precision_of_the_problem(name: str):
    problem = toy.clip_problem(dtype=torch.float32)
    settings: dict[str, float] = SHORT if name == "prodistill" else {}
    fine, coarse = (calibrated(name, replace(problem, precision=one), **settings) for one in PRECISIONS)
    for found in (fine, coarse):
        tensors = [found.losses, *(found.delta or {"coefficients": found.coefficients}).values()]
        assert {tensor.dtype for tensor in tensors} == {torch.float32}
    assert not torch.equal(fine.losses, coarse.losses)
    torch.testing.assert_close(fine.losses, coarse.losses, rtol=0.1, atol=0.02)
