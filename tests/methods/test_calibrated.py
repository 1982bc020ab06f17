"""Calibrated methods other than plain descent: variants of AdaMerging, ProDistill, SyMerge, AdaRank, Expert Merging."""

import math
import re
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from pipeline import methods
from pipeline.calibration import alignment, masks
from pipeline.calibration.descent import select_learned
from pipeline.calibration.objectives import Objective, distillation, entropy
from pipeline.calibration.problem import Diverged, Problem
from pipeline.merges.serving import Served, heads
from pipeline.merges.solution import Solution
from pipeline.methods import symerge, ties
from pipeline.models.encoder import Hidden
from pipeline.models.examples import cut_padding
from pipeline.models.task_vectors import merge, merge_delta
from pipeline.models.weights import Weights
from pipeline.runtime.schema import Schedule
from pipeline.toolbox.spectra import thin_svd
from pipeline.toolbox.trimming import select_entries
from tests.support import toy
from tests.support.toy_texts import PROBLEMS

SCHEDULE = Schedule(lr=0.05, steps=6, batch_size=4)
PRECISIONS = (torch.float32, torch.bfloat16)
STILL = Schedule(lr=1e-12, steps=1, batch_size=4)


def calibrated(name: str, problem: Problem, schedule: Schedule = SCHEDULE, **settings: float) -> Solution:
    """Return a method's solution for seed 0."""
    module = methods.load(name)
    return module.calibrate(problem, schedule, 0, module.Params(**settings))


def close(actual: Weights, expected: Weights, tolerance: float) -> None:
    """Assert that both hold the same tensors to an absolute tolerance."""
    assert [*actual] == [*expected]
    for name in actual:
        torch.testing.assert_close(actual[name], expected[name], rtol=0, atol=tolerance)


# AdaMerging: one coefficient per task, selected entries


@pytest.mark.parametrize("name", ["adamerging_taskwise", "adamerging_pp", "adamerging_taskwise_pp"])
def test_variants_of_adamerging_lower_the_entropy(name: str, problem: Problem):
    losses = calibrated(name, problem, Schedule(lr=0.05, steps=30, batch_size=100)).losses
    assert losses[-1] < 0.96 * losses[0]


def test_taskwise_coefficients_do_not_depend_on_the_group(problem: Problem):
    coefficients = calibrated("adamerging_taskwise", problem).coefficients
    assert coefficients.shape == (3, len(toy.GROUPS))
    assert torch.equal(coefficients, coefficients[:, :1].expand_as(coefficients))
    assert len({*coefficients[:, 0].tolist()}) == 3


def select_by_sorting(flat: Tensor, keep: int) -> Tensor:
    """Select TIES's entries of flat task vectors [T, P] by sorting, `keep` per task."""
    trimmed = torch.zeros_like(flat)
    for task, row in enumerate(flat):
        largest = row.abs().argsort(descending=True)[:keep]
        trimmed[task, largest] = row[largest]
    signs = trimmed.sum(0).sign()
    signs[signs == 0] = signs.sum().sign()
    return trimmed * (trimmed.sign() == signs)


@pytest.mark.parametrize("keep", [1.0, 0.5, 0.2])
def test_selected_entries_equal_those_found_by_sorting(keep: float, problem: Problem):
    flat = torch.cat([stacked.flatten(1) for stacked in problem.vectors.values()], dim=1)
    selected = torch.cat([stacked.flatten(1) for stacked in select_entries(problem.vectors, keep).values()], dim=1)
    expected = select_by_sorting(flat, -(-int(100 * keep) * flat.shape[1] // 100))
    assert torch.equal(selected, expected)
    assert 0 < int((selected != 0).sum()) < flat.numel() * keep


def test_the_majority_sign_decides_where_signs_cancel():
    up, down = [3.0, 1.0, 1.0, -2.0], [-3.0, 1.0, -2.0, -2.0]
    for sign in (1.0, -1.0):  # one sum is positive, two are negative, and the first is zero
        selected = select_entries({"weight": sign * torch.tensor([up, down])}, keep=1.0)["weight"]
        expected = sign * torch.tensor([[0, 1.0, 0, -2.0], [-3.0, 1.0, -2.0, -2.0]])
        assert torch.equal(selected, expected)


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
    solution = calibrated(f"{name}_pp", problem, keep=0.4)
    selected = replace(problem, vectors=select_entries(problem.vectors, 0.4))
    expected = calibrated(name, selected)
    assert torch.equal(solution.losses, expected.losses)
    assert toy.same(solution.delta, merge_delta(selected.vectors, expected.coefficients))
    assert not torch.equal(solution.losses, calibrated(name, problem).losses)


@pytest.mark.parametrize("name", ["adamerging", "adamerging_taskwise"])
def test_plus_plus_is_adamerging_for_one_untrimmed_task(name: str):
    alone = toy.problem(tasks=1)
    solution, plain = calibrated(f"{name}_pp", alone, keep=1.0), calibrated(name, alone)
    assert toy.same(solution.delta, merge_delta(alone.vectors, plain.coefficients))


def test_merge_delta_equals_merge_on_a_zero_base(problem: Problem):
    coefficients = torch.randn(3, len(toy.GROUPS), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    delta, zero = (
        merge_delta(problem.vectors, coefficients),
        {name: 0 * tensor for name, tensor in problem.base.items()},
    )
    assert toy.same(delta, merge(zero, problem.vectors, coefficients))


# ProDistill


SHORT = {"epochs": 3, "batch_size": 100}


def run_prodistill(problem: Problem, epochs: int, lr: float) -> tuple[Weights, list[float]]:
    """Run ProDistill on full batches from its definition: chain rule and Adam written out, one pass per model."""
    tower, tasks = problem.encoder, range(len(problem.examples))
    delta, losses = {name: 0.3 * stacked.sum(0) for name, stacked in problem.vectors.items()}, []
    experts = [{**problem.base, **{n: problem.base[n] + v[task] for n, v in problem.vectors.items()}} for task in tasks]

    def encode_blocks(weights: Weights, examples: Tensor, blocks: int) -> Hidden:
        hidden = tower.embed(weights, examples)
        for index in range(blocks):
            hidden = tower.block(weights, index, hidden)
        return hidden

    for index in range(tower.depth):
        names = [name for name in problem.vectors if f"resblocks.{index}." in name]
        c = {name: torch.full_like(problem.vectors[name], 0.3) for name in names}
        first, second = ({name: torch.zeros_like(c[name]) for name in names} for _ in range(2))
        for step in range(1, epochs + 1):
            theta = {name: problem.base[name] + delta.get(name, 0) for name in problem.base}
            merged = {name: (problem.base[name] + (c[name] * problem.vectors[name]).sum(0)) for name in names}
            leaves = {name: tensor.requires_grad_() for name, tensor in merged.items()}
            loss = torch.zeros((), dtype=torch.float64)
            for task in tasks:
                for example in map(cut_padding, problem.examples[task].split(1)):
                    entering = encode_blocks(theta, example, index)
                    goal = encode_blocks(experts[task], example, index + 1)
                    gap = tower.block({**theta, **leaves}, index, entering).tokens - goal.tokens
                    loss = loss + gap.square().sum()
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


@pytest.mark.parametrize("kind", PROBLEMS)
def test_prodistill_is_adam_on_every_block_in_turn(kind: str):
    problem = PROBLEMS[kind]()
    solution = calibrated("prodistill", problem, **SHORT)
    delta, losses = run_prodistill(problem, epochs=3, lr=0.01)
    close(solution.delta, delta, 1e-8)
    assert solution.losses.tolist() == pytest.approx(losses, rel=1e-8)
    for steps in solution.losses.split(3):
        assert steps[-1] < steps[0]


def test_prodistill_has_no_loss_at_the_only_expert():
    """The learning rate is tiny because Adam drifts on rounding errors alone."""
    alone = toy.clip_problem(tasks=1)
    at, near = (calibrated("prodistill", alone, initial_coefficient=c, lr=1e-12, **SHORT) for c in (1.0, 0.9))
    assert at.losses.max() < 1e-20
    assert near.losses.min() > 1e-3
    close(at.delta, {name: stacked[0] for name, stacked in alone.vectors.items()}, 1e-10)


def test_prodistill_starts_at_task_arithmetic_and_learns_only_the_blocks():
    problem = toy.clip_problem()
    start = {name: 0.3 * stacked.sum(0) for name, stacked in problem.vectors.items()}
    close(calibrated("prodistill", problem, lr=1e-12, **SHORT).delta, start, 1e-10)
    delta = calibrated("prodistill", problem, **SHORT).delta
    for name, tensor in start.items():
        assert torch.equal(delta[name], tensor) == ("resblocks" not in name or name.endswith("k.bias"))


def test_prodistill_uses_the_first_images_of_the_draw():
    problem = toy.clip_problem()
    few = replace(problem, examples=tuple(pool[:4] for pool in problem.examples))
    solution, expected = (calibrated("prodistill", variant, samples=4, **SHORT) for variant in (problem, few))
    assert toy.same(solution.delta, expected.delta)
    assert not toy.same(solution.delta, calibrated("prodistill", problem, samples=5, **SHORT).delta)


def test_prodistill_takes_every_image_once_per_epoch():
    problem = toy.clip_problem()
    batches = -(-sum(len(pool) for pool in problem.examples) // 7)
    losses = calibrated("prodistill", problem, epochs=2, batch_size=7, lr=1e-12).losses
    assert len(losses) == 2 * batches * 2
    torch.testing.assert_close(losses[:batches].sum(), losses[batches : 2 * batches].sum(), rtol=1e-9, atol=0)
    assert not torch.equal(losses[:batches], losses[batches : 2 * batches])


def test_prodistill_does_not_depend_on_the_size_of_a_pass():
    problem = toy.clip_problem()
    deltas = [calibrated("prodistill", replace(problem, examples_per_pass=n), **SHORT).delta for n in (1, 4, 1000)]
    close(deltas[0], deltas[2], 1e-9)
    close(deltas[1], deltas[2], 1e-9)


def test_prodistill_reports_the_step_at_which_it_diverges():
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


def test_trusted_cross_entropy_equals_a_loop_over_images():
    student, teacher = logits(0), logits(1)
    losses, cases = [], set()
    for merged, expert in zip(student.softmax(-1).tolist(), teacher.softmax(-1).tolist(), strict=True):
        label, agree = expert.index(max(expert)), merged.index(max(merged)) == expert.index(max(expert))
        cases.add((agree, max(expert) >= max(merged)))
        if agree or max(expert) >= max(merged):
            losses.append(-torch.tensor(merged[label], dtype=torch.float64).log())
    assert len(cases) == 4
    assert 5 < len(losses) < 40
    loss = symerge.trusted_cross_entropy(student, teacher)
    torch.testing.assert_close(loss, torch.stack(losses).mean(), rtol=0, atol=1e-12)


def test_an_expert_is_trusted_on_its_own_predictions():
    teacher = logits(1)
    expected = cross_entropy(teacher, teacher.argmax(-1))
    torch.testing.assert_close(symerge.trusted_cross_entropy(teacher, teacher), expected, rtol=0, atol=1e-12)


def test_symerge_reports_the_number_of_trusted_images(problem: Problem, capsys):
    calibrated("symerge", problem, ROUNDS)
    message = re.search(
        r"symerge: seed \d+: ([\d,]+) of ([\d,]+) examples had a trusted expert", capsys.readouterr().out
    )
    assert message is not None
    trusted, seen = (int(number.replace(",", "")) for number in message.groups())
    assert 0 < trusted <= seen == ROUNDS.steps * sum(min(ROUNDS.batch_size, len(pool)) for pool in problem.examples)


def test_loss_and_gradient_are_zero_without_a_trusted_image():
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
    student = toy.encoder(weights, problem.examples[task][batch]) @ head.T
    expected = symerge.trusted_cross_entropy(student, problem.teachers[task][batch])
    slopes = torch.autograd.grad(expected, (at, head))
    *results, trusted = symerge.trusted_gradient(problem, at.detach(), head.detach(), task, batch)
    assert int(trusted) == int(symerge.trusted(student, problem.teachers[task][batch]).sum())
    for result, reference in zip(results, (expected.detach(), *slopes), strict=True):
        torch.testing.assert_close(result, reference, rtol=0, atol=1e-10)
        assert result.abs().max() > 1e-3
    assert slopes[0][:, 0].abs().min() > 1e-6


def test_symerge_tunes_the_heads_of_all_tasks(problem: Problem):
    solution = calibrated("symerge", problem, ROUNDS)
    assert solution.extras.kind == "heads"
    assert [*solution.extras.tensors] == [*problem.tasks]
    assert len(solution.losses) == 3 * ROUNDS.steps
    served = Served(problem.encoder, problem.base, dict(zip(problem.tasks, problem.heads, strict=True)), problem.tasks)
    (tuned,) = heads.serve(served, problem.base, solution.extras.tensors)
    for task, head in zip(problem.tasks, problem.heads, strict=True):
        assert tuned.heads[task].shape == head.shape
        assert (tuned.heads[task] - head).abs().max() > 1e-3


def test_a_step_of_symerge_moves_the_coefficients_and_one_head(problem: Problem):
    """Adam's first step is at most its learning rate: a round is one step for a head and T for the coefficients."""
    solution = calibrated("symerge", problem, Schedule(lr=1.0, steps=1, batch_size=100))
    for task, head in zip(problem.tasks, problem.heads, strict=True):
        assert float((solution.extras.tensors[task] - head).abs().max()) == pytest.approx(0.01, rel=1e-4)
    assert 0.015 < (solution.coefficients - 0.3).abs().max() < 0.04


def test_a_zero_head_learning_rate_leaves_the_heads_unchanged(problem: Problem):
    solution = calibrated("symerge", problem, ROUNDS, head_lr=0.0)
    assert toy.same(solution.extras.tensors, dict(zip(problem.tasks, problem.heads, strict=True)))
    assert (solution.coefficients - 0.3).abs().max() > 1e-3


def test_symerge_leaves_coefficients_without_a_gradient_unchanged():
    problem = toy.clip_problem(dtype=torch.float32)
    coefficients = calibrated("symerge", problem, Schedule(lr=1.0, steps=3, batch_size=4)).coefficients
    moved = {name: bool((column != 0.3).all()) for name, column in zip(problem.vectors, coefficients.T, strict=True)}
    assert moved == {name: not name.endswith("attn.k.bias") for name in problem.vectors}
    assert (coefficients[:, [not still for still in moved.values()]] == torch.tensor(0.3)).all()


def test_symerge_lowers_its_loss_and_heads_help(problem: Problem):
    long = Schedule(lr=1.0, steps=60, batch_size=100)
    both, alone = (calibrated("symerge", problem, long, head_lr=rate).losses.split(3) for rate in (0.01, 0.0))
    assert both[-1].sum() < 0.9 * both[0].sum()
    assert both[-1].sum() < alone[-1].sum() < alone[0].sum()


def test_clamp_keeps_symerge_coefficients_between_zero_and_one(problem: Problem):
    free, clamped = (
        calibrated("symerge", problem, ROUNDS, lr=0.5, clamp=clamp).coefficients for clamp in (False, True)
    )
    assert free.min() < 0
    assert free.max() > 1
    assert clamped.min() >= 0
    assert clamped.max() <= 1


def test_symerge_reports_the_step_at_which_it_diverges(problem: Problem):
    broken = replace(problem, heads=tuple(head * float("nan") for head in problem.heads))
    with pytest.raises(Diverged, match="step 1: loss nan"):
        calibrated("symerge", broken)


# AdaRank


MATRICES = tuple(f"{part}.weight" for part in ("attn.q", "attn.k", "attn.v", "out_proj", "c_fc", "c_proj"))


def random_point(problem: Problem, triplets: masks.Triplets) -> Tensor:
    """Draw coefficients around 0.3 and m of which half is on."""
    size = len(problem.vectors) + sum(s.shape[1] for _, s, _ in triplets.values())
    noise = torch.randn(3, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noise[:, : len(problem.vectors)] = 0.3 + 0.1 * noise[:, : len(problem.vectors)]
    return noise


def decomposed(problem: Problem) -> masks.Triplets:
    """Decompose the task vectors of the matrices of the blocks."""
    return {name: thin_svd(tau) for name, tau in problem.vectors.items() if name.endswith(MATRICES)}


@pytest.mark.parametrize("kind", PROBLEMS)
@pytest.mark.parametrize("objective", [entropy, distillation(2.0)])
def test_gradients_of_masks_equal_autograd_straight_through(kind: str, objective: Objective):
    """The reference merges one component after the other with a graph through all of them."""
    problem = select_learned(PROBLEMS[kind]())
    triplets = decomposed(problem)
    assert len(triplets) == 12
    at = random_point(problem, triplets).requires_grad_()
    merged, start = dict(problem.base), len(problem.vectors)
    for column, (name, stacked) in enumerate(problem.vectors.items()):
        tau = stacked
        if name in triplets:
            u, s, v = torch.linalg.svd(stacked, full_matrices=False)
            soft = torch.sigmoid(at[:, start : start + s.shape[1]] / 10)
            kept = s * (soft + ((soft > 0.5).double() - soft).detach())
            tau = torch.einsum("tmk,tk,tkn->tmn", u, kept, v)
            start += s.shape[1]
        merged[name] = problem.base[name] + torch.tensordot(at[:, column], tau, dims=1)
    expected = torch.zeros((), dtype=torch.float64)
    for head, pool, teacher in zip(problem.heads, problem.examples, problem.teachers, strict=True):
        expected = expected + objective(problem.encoder(merged, pool) @ head.T, teacher)
    loss, slope = masks.mask_gradient(problem, objective, triplets, at.detach(), toy.whole(problem))
    torch.testing.assert_close(loss, expected.detach(), rtol=0, atol=1e-11)
    (reference,) = torch.autograd.grad(expected, at)
    torch.testing.assert_close(slope, reference, rtol=0, atol=1e-10)
    assert (slope[:, len(problem.vectors) :].abs() > 1e-9).double().mean() > 0.9


@pytest.mark.parametrize("kind", PROBLEMS)
@pytest.mark.parametrize("name", ["adarank", "adarank_kl"])
def test_adarank_starts_at_task_arithmetic(name: str, kind: str):
    problem = PROBLEMS[kind]()
    start = {group: 0.3 * stacked.sum(0) for group, stacked in problem.vectors.items()}
    close(calibrated(name, problem, STILL).delta, start, 1e-10)


def test_adarank_masks_remove_components(capsys):
    """lr 0.2 can switch a component off in the first step; what is left of a task has the others alone."""
    problem = toy.clip_problem()
    solution = calibrated("adarank", problem, Schedule(lr=0.2, steps=1, batch_size=4))
    message = re.search(r"adarank: seed 0: ([\d,]+) of ([\d,]+) components are off at the end", capsys.readouterr().out)
    off, total = (int(number.replace(",", "")) for number in message.groups())
    assert total == 3 * sum(min(tau.shape[1:]) for name, tau in problem.vectors.items() if name.endswith(MATRICES))
    assert 0.1 * total < off < 0.9 * total
    name = "transformer.resblocks.0.mlp.c_fc.weight"
    alone = {name: problem.vectors[name]}
    triplets = {name: thin_svd(problem.vectors[name])}
    point = torch.cat([torch.ones(3, 1), torch.linspace(1, -1, 32).expand(3, -1)], dim=1).double()
    u, s, v = torch.linalg.svd(problem.vectors[name], full_matrices=False)
    leading = (u[..., :16] * s[:, None, :16]) @ v[:, :16]
    close(masks.masked_delta(alone, triplets, point), {name: leading.sum(0)}, 1e-12)
    assert solution.delta[name].shape == leading.shape[1:]


def test_no_component_goes_off_before_m_can_reach_zero(capsys):
    calibrated("adarank_kl", toy.clip_problem(), Schedule(lr=0.03, steps=3, batch_size=4))
    assert "adarank_kl: seed 0: 0 of" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["adarank", "adarank_kl"])
def test_adarank_lowers_its_loss(name: str):
    losses = calibrated(name, toy.clip_problem(), Schedule(lr=0.02, steps=25, batch_size=100)).losses
    assert losses[-1] < 0.9 * losses[0]


def test_adarank_reports_the_step_at_which_it_diverges():
    problem = toy.clip_problem()
    broken = replace(problem, heads=tuple(head * float("nan") for head in problem.heads))
    with pytest.raises(Diverged, match="step 1: loss nan"):
        calibrated("adarank", broken)


# Expert Merging


def reference_alignment(problem: Problem, alpha: Tensor, hidden: float) -> Tensor:
    """Compute the mean of L_t over the tasks at temperature 3 with anchor 0.1, text by text, through the merge."""
    merged, tower = dict(problem.base), problem.encoder
    for column, (name, stacked) in enumerate(problem.vectors.items()):
        merged[name] = problem.base[name] + torch.tensordot(alpha[:, column], stacked, dims=1)
    losses = []
    for task, (head, pool, teacher) in enumerate(zip(problem.heads, problem.examples, problem.teachers, strict=True)):
        expert = {**problem.base, **{name: problem.base[name] + tau[task] for name, tau in problem.vectors.items()}}
        p, q, gaps = [], [], [[] for _ in range(tower.depth)]
        for example, logits in zip(map(cut_padding, pool.split(1)), teacher, strict=True):
            ours, theirs = tower.embed(merged, example), tower.embed(expert, example)
            for index in range(tower.depth):
                ours, theirs = tower.block(merged, index, ours), tower.block(expert, index, theirs)
                gaps[index].append((ours.tokens - theirs.tokens).square().flatten())
            q.append((tower.finish(merged, ours)[0] @ head.T / 3).softmax(-1))
            p.append((logits / 3).softmax(-1))
        p, q = torch.stack(p), torch.stack(q)
        divergence = 9 * (p * (p / q).log()).sum(1).mean()
        losses.append(divergence + hidden * torch.stack([torch.cat(gap).mean() for gap in gaps]).mean())
    start = torch.full_like(alpha, math.log(1 / 9)).sigmoid()  # 0.1, with its rounding
    return torch.stack(losses).mean() + 0.1 * (alpha - start).abs().mean()


@pytest.mark.parametrize("kind", PROBLEMS)
@pytest.mark.parametrize(("name", "hidden"), [("expert_merging", 0.1), ("expert_merging_logits", 0.0)])
def test_expert_merging_is_adam_on_its_loss(name: str, hidden: float, kind: str):
    """Two full batches, with Adam written out: the second step sees the pull to the start."""
    problem = select_learned(PROBLEMS[kind]())
    solution = calibrated(name, problem, Schedule(lr=0.05, steps=2, batch_size=100))
    raw = torch.full((3, len(problem.vectors)), math.log(1 / 9), dtype=torch.float64)
    first, second = torch.zeros_like(raw), torch.zeros_like(raw)
    for step in (1, 2):
        at = raw.clone().requires_grad_()
        loss = reference_alignment(problem, at.sigmoid(), hidden)
        assert float(solution.losses[step - 1]) == pytest.approx(float(loss.detach()), rel=1e-9)
        (slope,) = torch.autograd.grad(loss, at)
        slope = slope * min(1, 1 / float(slope.norm()))
        first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope**2
        raw = raw - 0.05 * first / (1 - 0.9**step) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
    torch.testing.assert_close(solution.coefficients, raw.sigmoid(), rtol=0, atol=1e-7)


def test_expert_merging_stays_at_its_start_without_a_gradient_and_within_bounds():
    problem = toy.clip_problem()
    coefficients = calibrated("expert_merging", problem, Schedule(lr=2.0, steps=4, batch_size=4)).coefficients
    assert coefficients.min() > 0
    assert coefficients.max() < 1
    still = [name.endswith("attn.k.bias") for name in problem.vectors]
    assert (coefficients[:, still] == 0.1).all()
    assert (coefficients != 0.1).sum() == 3 * (len(still) - sum(still))


def test_hidden_states_change_expert_merging_and_a_strong_anchor_holds_it():
    problem, schedule = toy.clip_problem(), Schedule(lr=0.05, steps=10, batch_size=4)
    runs = [calibrated(name, problem, schedule) for name in ("expert_merging", "expert_merging_logits")]
    assert not torch.equal(runs[0].coefficients, runs[1].coefficients)
    without = calibrated("expert_merging", problem, schedule, hidden=0.0)
    assert torch.equal(without.coefficients, runs[1].coefficients)
    held = calibrated("expert_merging", problem, schedule, anchor=1000.0, clip=1e9)
    assert (held.coefficients - 0.1).abs().mean() < 0.5 * (runs[0].coefficients - 0.1).abs().mean()


def test_a_gradient_is_cut_to_its_norm_and_not_stretched():
    slope = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    assert torch.equal(alignment.clip_norm(slope, 10.0), slope)
    torch.testing.assert_close(alignment.clip_norm(slope, 1.0), slope / 5)
    assert not alignment.clip_norm(0 * slope, 1.0).any()


def test_expert_merging_reports_the_step_at_which_it_diverges():
    problem = toy.clip_problem()
    broken = replace(problem, heads=tuple(head * float("nan") for head in problem.heads))
    with pytest.raises(Diverged, match="step 1: loss nan"):
        calibrated("expert_merging", broken)


@pytest.mark.parametrize(
    "name",
    [
        "adamerging_pp", "adamerging_taskwise", "adarank", "expert_merging", "expert_merging_logits", "prodistill",
        "symerge",
    ],
)  # fmt: skip
def test_methods_keep_the_precision_of_the_problem(name: str):
    problem = toy.clip_problem(dtype=torch.float32)
    settings: dict[str, float] = SHORT if name == "prodistill" else {}
    fine, coarse = (calibrated(name, replace(problem, precision=precision), **settings) for precision in PRECISIONS)
    for solution in (fine, coarse):
        tensors = [solution.losses, *(solution.delta or {"coefficients": solution.coefficients}).values()]
        assert {tensor.dtype for tensor in tensors} == {torch.float32}
    assert not torch.equal(fine.losses, coarse.losses)
    torch.testing.assert_close(fine.losses, coarse.losses, rtol=0.1, atol=0.02)
