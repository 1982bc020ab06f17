"""Methods based on statistics of unlabelled images: independent implementations, identities and limits."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor
from torch.nn.functional import gelu, relu

from pipeline import methods
from pipeline.calibration import rows as row_trimming
from pipeline.calibration.problem import Problem
from pipeline.methods import fisher, m_ties_random, pm_merge
from pipeline.models.encoder import Hidden, block_name
from pipeline.models.task_vectors import add_delta
from pipeline.models.weights import Weights
from pipeline.runtime.errors import BenchmarkError
from pipeline.runtime.schema import Schedule
from pipeline.statistics.sampling import generator
from pipeline.toolbox import essential, mloss, regression
from pipeline.toolbox.activations import apply_block, embed_examples, expert_weights, gram_matrices
from pipeline.toolbox.regression import condition_gram, solve_cholesky
from pipeline.toolbox.spectra import decorrelate
from tests.support import toy
from tests.support.toy_texts import PROBLEMS

UNUSED = Schedule(lr=1.0, steps=1, batch_size=1)
STATISTICS = ("esm", "fisher", "lot", "m_ties", "regmean", "regmean_pp")
DOUBLE = torch.float64
MATRICES = ("attn.q", "attn.k", "attn.v", "attn.out_proj", "mlp.c_fc", "mlp.c_proj")
LAST = f"{block_name(1)}mlp.c_fc.weight"


def merged_delta(name: str, problem: Problem, seed: int = 0, **settings: object) -> Weights:
    """Return the merged delta of a method."""
    module = methods.load(name)
    return module.calibrate(problem, UNUSED, seed, module.Params(**settings)).delta


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    """Return Gaussian numbers in float64."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def permute_tasks(problem: Problem, order: Sequence[int]) -> Problem:
    """Return the problem with its tasks in another order."""
    fields = {name: tuple(getattr(problem, name)[task] for task in order) for name in ("heads", "examples", "teachers")}
    return replace(problem, vectors={name: stacked[[*order]] for name, stacked in problem.vectors.items()}, **fields)


def first_tasks(problem: Problem, tasks: int) -> Problem:
    """Return the problem of the first few tasks."""
    return permute_tasks(problem, range(tasks))


def close(actual: Tensor, expected: Tensor | np.ndarray, atol: float = 1e-12) -> None:
    torch.testing.assert_close(actual, torch.as_tensor(expected), rtol=0, atol=atol)


def block_inputs(problem: Problem, task: int, prefix: Callable[[int], Weights], index: int) -> Weights:
    """Return the inputs of each matrix of block `index` of expert `task`, one row per token.

    prefix(task): the weights of the model whose earlier blocks make the tokens.
    """
    tower, before = problem.encoder, prefix(task)
    tokens = tower.embed(before, problem.examples[task])
    for earlier in range(index):
        tokens = tower.block(before, earlier, tokens)
    return tower.inputs(expert_weights(problem.base, problem.vectors, task), index, tokens)


def expert_prefix(problem: Problem) -> Callable[[int], Weights]:
    """Return the prefix function by which every expert makes its own tokens."""
    return lambda task: expert_weights(problem.base, problem.vectors, task)


@pytest.mark.parametrize("kind", PROBLEMS)
@pytest.mark.parametrize("name", STATISTICS)
def test_order_of_tasks_and_size_of_passes_do_not_matter(name: str, kind: str):
    """With one text to a pass there is no padding anywhere."""
    problem = PROBLEMS[kind]()
    settings = {"classes": "all", "samples": 3} if name == "fisher" else {}
    delta = merged_delta(name, problem, **settings)
    passes = [replace(problem, examples_per_pass=count) for count in (1, 4)]
    for variant in (permute_tasks(problem, [2, 0, 1]), *passes):
        repeated = merged_delta(name, variant, **settings)
        for group, tensor in delta.items():
            close(repeated[group], tensor, 1e-8 if name == "esm" else 1e-11)


@pytest.mark.parametrize("name", STATISTICS)
def test_only_the_first_samples_are_used(name: str):
    problem = toy.clip_problem()
    blank = replace(problem, examples=tuple(torch.cat([pool[:5], 0 * pool[5:]]) for pool in problem.examples))
    assert toy.same(merged_delta(name, problem, samples=5), merged_delta(name, blank, samples=5))
    assert not toy.same(merged_delta(name, problem, samples=6), merged_delta(name, blank, samples=6))


@pytest.mark.parametrize("name", STATISTICS)
def test_float32_problems_give_float32_deltas(name: str):
    delta = merged_delta(name, toy.clip_problem(dtype=torch.float32))
    assert {tensor.dtype for tensor in delta.values()} == {torch.float32}


@pytest.mark.parametrize(
    ("name", "kind"),
    [("m_ties", "images"), *((name, kind) for name in ("esm", "regmean", "regmean_pp") for kind in PROBLEMS)],
)
def test_bfloat16_rounds_the_encoder_and_not_the_delta(name: str, kind: str):
    """M-TIES sees ranks only; those of the few units of the toy encoders of texts survive the rounding."""
    problem, settings = PROBLEMS[kind](dtype=torch.float32), {"reach": 0.8} if name == "m_ties" else {}
    exact, rounded = (
        merged_delta(name, replace(problem, precision=precision), **settings)
        for precision in (torch.float32, torch.bfloat16)
    )
    assert not toy.same(exact, rounded)
    for group, tensor in exact.items():
        assert rounded[group].dtype == torch.float32
        assert (rounded[group] - tensor).norm() <= 0.3 * tensor.norm()


def test_grams_are_second_moments_of_the_inputs():
    problem = toy.clip_problem()
    weights = expert_prefix(problem)(1)
    tokens = embed_examples(problem.encoder, weights, problem.examples[1], 5, DOUBLE)
    assert [len(batch) for batch in tokens] == [5, 5, 2]
    tokens = apply_block(problem.encoder, weights, 0, tokens, DOUBLE)
    grams = gram_matrices(problem.encoder, weights, 1, tokens, DOUBLE)
    rows = block_inputs(problem, 1, expert_prefix(problem), 1)
    assert {*grams} == {f"{block_name(1)}{name}.weight" for name in MATRICES}
    for name, gram in grams.items():
        x = rows[name].numpy()
        close(gram, sum(np.outer(row, row) for row in x) / len(x))


def jacobians(problem: Problem, task: int) -> tuple[Tensor, Tensor]:
    """Return the expert's logits [N, C] and their derivatives by all parameters [N, C, P]."""
    weights = expert_weights(problem.base, problem.vectors, task)
    names = [*problem.vectors]

    def logits(*tensors: Tensor) -> Tensor:
        moved = {**weights, **dict(zip(names, tensors, strict=True))}
        return problem.encoder(moved, problem.examples[task]) @ problem.heads[task].T

    point = tuple(weights[name] for name in names)
    derivatives = torch.autograd.functional.jacobian(logits, point)
    return logits(*point), torch.cat([part.flatten(2) for part in derivatives], dim=-1)


def flat(tensors: Weights) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors.values()])


def exact_fisher(problem: Problem, task: int) -> Weights:
    """Return the method's diagonal Fisher information over all classes and images."""
    return fisher.fisher_diagonal(problem, task, *fisher.weigh_classes(problem.teachers[task].softmax(-1), None))


def test_fisher_is_the_curvature_of_the_softmax_pulled_back():
    """sum_y p (d log p)^2 = diag(J^T (diag(p) - p p^T) J): no log-likelihood is differentiated here."""
    problem = toy.problem()
    for task in range(3):
        logits, slopes = jacobians(problem, task)
        p = logits.softmax(-1)
        curvature = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
        expected = torch.einsum("ncp,ncd,ndp->p", slopes, curvature, slopes) / len(p)
        close(flat(exact_fisher(problem, task)), expected)


@pytest.mark.parametrize("kind", PROBLEMS)
def test_fisher_of_a_transformer_equals_a_loop_over_examples_and_classes(kind: str):
    problem = PROBLEMS[kind]()
    problem = replace(problem, examples=(problem.examples[0][:3],), teachers=(problem.teachers[0][:3],))
    logits, slopes = jacobians(problem, 0)
    p = logits.softmax(-1)
    score = slopes - torch.einsum("nc,ncp->np", p, slopes)[:, None]
    information = flat(exact_fisher(problem, 0))
    close(information, torch.einsum("nc,ncp->p", p, score.square()) / 3)
    assert information.max() > 1e-3


def test_fisher_has_no_cross_terms():
    """The estimator in public code, the square of a gradient summed over images and classes, is another number."""
    problem = toy.problem()
    logits, slopes = jacobians(problem, 0)
    p = logits.softmax(-1)
    score = slopes - torch.einsum("nc,ncp->np", p, slopes)[:, None]
    summed = torch.einsum("nc,ncp->p", p.sqrt(), score).square() / len(p)
    information = flat(exact_fisher(problem, 0))
    assert (summed - information).norm() > 0.5 * information.norm()


def test_sampled_classes_have_the_probabilities_of_the_model():
    p = torch.tensor([0.6, 0.3, 0.1], dtype=DOUBLE)
    labels, shares = fisher.weigh_classes(p.expand(20_000, 3), generator(0, "test"))
    assert torch.equal(shares, torch.ones(1, 20_000, dtype=DOUBLE))
    frequencies = torch.bincount(labels[0], minlength=3) / 20_000
    assert ((frequencies - p).abs() < 5 * (p * (1 - p) / 20_000).sqrt()).all()


def test_sampled_fisher_is_exact_on_average():
    problem, draws = toy.problem(), 400
    p = problem.teachers[0].softmax(-1)
    labels = torch.cat([fisher.weigh_classes(p, generator(seed, "mean"))[0] for seed in range(draws)])
    counts = torch.stack([(labels == label).double().mean(0) for label in range(3)])  # linear in the shares of classes
    classes, _ = fisher.weigh_classes(p, None)
    mean, expected = flat(fisher.fisher_diagonal(problem, 0, classes, counts)), flat(exact_fisher(problem, 0))
    assert (mean - expected).norm() < 0.1 * expected.norm()
    sampled = flat(fisher.fisher_diagonal(problem, 0, *fisher.weigh_classes(p, generator(0, "mean"))))
    assert (sampled - expected).norm() > 0.1 * expected.norm()


def test_fisher_merging_is_a_weighted_mean():
    problem = toy.problem()
    information = [exact_fisher(problem, task) for task in range(3)]
    delta = merged_delta("fisher", problem, classes="all", normalise=False, floor=1e-3)
    scaled = merged_delta("fisher", problem, classes="all", normalise=True, floor=1e-3)
    for name, stacked in problem.vectors.items():
        plain = np.stack([diagonal[name] for diagonal in information])
        norms = np.array([float(flat(diagonal).norm()) for diagonal in information])[
            (...,) + (None,) * (plain.ndim - 1)
        ]
        close(delta[name], np.average(stacked, axis=0, weights=plain + 1e-3))
        close(scaled[name], np.average(stacked, axis=0, weights=plain / norms + 1e-3))
        assert (delta[name] >= stacked.amin(0)).all()
        assert (delta[name] <= stacked.amax(0)).all()


def test_fisher_without_any_information_is_the_average():
    problem = toy.problem()
    uninformed = replace(problem, heads=tuple(0 * head for head in problem.heads))
    for name, tensor in merged_delta("fisher", uninformed, classes="all").items():
        close(tensor, problem.vectors[name].mean(0))


def test_information_that_overflows_is_refused_with_its_task():
    problem = toy.problem()
    huge = replace(problem, heads=(problem.heads[0], 1e200 * problem.heads[1], *problem.heads[2:]))
    with pytest.raises(BenchmarkError, match=f"{problem.tasks[1]}: the Fisher information of .* is not finite"):
        merged_delta("fisher", huge, classes="all")


def test_fisher_of_one_informed_expert_is_that_expert():
    problem = toy.problem()
    uninformed = replace(problem, heads=(problem.heads[0], *(0 * head for head in problem.heads[1:])))
    delta = merged_delta("fisher", uninformed, classes="all", floor=1e-25)
    for name, tensor in delta.items():
        close(tensor, problem.vectors[name][0], 1e-9)


def test_fisher_averages_without_information():
    """A bias of the keys moves no attention: its gradient is zero. A floor above all Fisher information hides it."""
    problem = toy.clip_problem()
    name = f"{block_name(0)}attn.k.bias"
    close(merged_delta("fisher", problem)[name], problem.vectors[name].mean(0), 1e-10)
    everywhere = merged_delta("fisher", problem, floor=1e9)
    for group, stacked in problem.vectors.items():
        close(everywhere[group], stacked.mean(0), 1e-8)


def test_fisher_averages_experts_of_equal_information(monkeypatch: pytest.MonkeyPatch):
    problem = toy.problem()
    monkeypatch.setattr(
        fisher, "fisher_diagonal", lambda *_: {name: gaussian(*shape).square() for name, shape in toy.SHAPES.items()}
    )
    for name, tensor in merged_delta("fisher", problem).items():
        close(tensor, problem.vectors[name].mean(0))


def test_merges_are_homogeneous_for_fixed_statistics(monkeypatch: pytest.MonkeyPatch):
    problem = toy.clip_problem()
    longer = replace(problem, vectors={name: 4 * stacked for name, stacked in problem.vectors.items()})
    information = {name: gaussian(*stacked.shape).square() for name, stacked in problem.vectors.items()}
    monkeypatch.setattr(
        fisher, "fisher_diagonal", lambda _, task, *__: {name: f[task] for name, f in information.items()}
    )
    monkeypatch.setattr(regression, "gram_matrices", fixed_grams)
    for method in ("fisher", "regmean"):
        short, long = merged_delta(method, problem), merged_delta(method, longer)
        for name, tensor in short.items():
            close(long[name], 4 * tensor, 1e-10)


def fixed_grams(tower: object, weights: Weights, index: int, tokens: list[Hidden], precision: torch.dtype) -> Weights:
    """Return Gram matrices that depend only on the number of images."""
    count = sum(len(batch) for batch in tokens)
    names = [f"{block_name(index)}{matrix}.weight" for matrix in MATRICES]
    rows = {name: gaussian(200, weights[name].shape[1], seed=count) for name in names}
    return {name: x.T @ x / 200 for name, x in rows.items()}


def test_sampled_fisher_depends_on_its_seed():
    problem = toy.problem()
    assert toy.same(merged_delta("fisher", problem, seed=1), merged_delta("fisher", problem, seed=1))
    assert not toy.same(merged_delta("fisher", problem, seed=1), merged_delta("fisher", problem, seed=2))
    assert toy.same(
        merged_delta("fisher", problem, 1, classes="all"), merged_delta("fisher", problem, 2, classes="all")
    )


def least_squares(problem: Problem, name: str, rows: Sequence[Tensor]) -> np.ndarray:
    """Return the matrix whose outputs on every task's rows are nearest to that task's, tasks weighted equally."""
    weighed = [x / math.sqrt(len(x)) for x in rows]
    targets = [x @ change.T for x, change in zip(weighed, problem.vectors[name], strict=True)]
    return np.linalg.lstsq(torch.cat(weighed).numpy(), torch.cat(targets).numpy(), rcond=None)[0].T


@pytest.mark.parametrize("kind", PROBLEMS)
@pytest.mark.parametrize("index", [0, 1])
def test_regmean_is_least_squares_over_the_experts_inputs(index: int, kind: str):
    problem = PROBLEMS[kind]()
    delta = merged_delta("regmean", problem, off_diagonal=1.0, ridge=0.0)
    rows = [block_inputs(problem, task, expert_prefix(problem), index) for task in range(3)]
    for name in rows[0]:
        close(delta[name], least_squares(problem, name, [inputs[name] for inputs in rows]), 1e-8)


@pytest.mark.parametrize("index", [0, 1])
def test_regmean_pp_is_least_squares_over_inputs_after_the_merged_prefix(index: int):
    problem = toy.clip_problem()
    delta = merged_delta("regmean_pp", problem, off_diagonal=1.0, ridge=0.0)
    merged = add_delta(problem.base, delta)
    rows = [block_inputs(problem, task, lambda _: merged, index) for task in range(3)]
    for name in rows[0]:
        close(delta[name], least_squares(problem, name, [inputs[name] for inputs in rows]), 1e-8)


def test_regmean_and_regmean_pp_differ_after_the_first_block():
    problem = toy.clip_problem()
    still = {
        name: stacked if name.startswith("transformer") else 0 * stacked for name, stacked in problem.vectors.items()
    }
    problem = replace(problem, vectors=still)
    regmean, regmean_pp = merged_delta("regmean", problem), merged_delta("regmean_pp", problem)
    for name in problem.vectors:
        if name.startswith(block_name(0)):
            close(regmean[name], regmean_pp[name])
    assert (regmean[LAST] - regmean_pp[LAST]).norm() > 1e-4 * regmean[LAST].norm()


@pytest.mark.parametrize("name", ["regmean", "regmean_pp"])
def test_regmean_averages_tensors_other_than_matrices(name: str):
    problem = toy.clip_problem()
    delta = merged_delta(name, problem)
    for group, stacked in problem.vectors.items():
        if not group.removesuffix(".weight").endswith(MATRICES):
            assert torch.equal(delta[group], stacked.mean(0))
    assert "positional_embedding" in delta
    assert "ln_post.weight" in delta
    assert (delta[LAST] - problem.vectors[LAST].mean(0)).norm() > 0.01 * delta[LAST].norm()


@pytest.mark.parametrize("name", ["regmean", "regmean_pp"])
def test_regmean_of_one_task_is_its_expert(name: str):
    problem = first_tasks(toy.clip_problem(), 1)
    for group, tensor in merged_delta(name, problem).items():
        close(tensor, problem.vectors[group][0], 1e-10)


@pytest.mark.parametrize("name", ["regmean", "regmean_pp"])
def test_regmean_of_equal_inputs_is_the_average(name: str):
    """Tasks share their images and differ in q, k and v of the first block alone: equal Gram matrices there."""
    problem = toy.clip_problem()
    moving = tuple(f"{block_name(0)}attn.{part}.weight" for part in "qkv")
    vectors = {name: stacked if name in moving else 0 * stacked for name, stacked in problem.vectors.items()}
    delta = merged_delta(name, replace(problem, vectors=vectors, examples=(problem.examples[0],) * 3))
    for group in moving:
        close(delta[group], vectors[group].mean(0))


def test_regmean_without_off_diagonals_is_an_average_by_column():
    problem = toy.clip_problem()
    delta = merged_delta("regmean", problem, off_diagonal=0.0, ridge=0.0)
    rows = [block_inputs(problem, task, expert_prefix(problem), 1)[LAST] for task in range(3)]
    energy = np.stack([x.square().mean(0) for x in rows])[:, None].repeat(len(delta[LAST]), axis=1)
    close(delta[LAST], np.average(problem.vectors[LAST], axis=0, weights=energy))


def test_conditioning_scales_off_diagonals_and_lifts_the_diagonal():
    x = gaussian(20, 6)
    gram = x.T @ x
    conditioned = condition_gram(gram, 0.9, 0.01)
    for row in range(6):
        for column in range(6):
            expected = gram[row, row] + 0.01 * gram.trace() / 6 if row == column else 0.9 * gram[row, column]
            assert float(conditioned[row, column]) == pytest.approx(float(expected), abs=1e-12)


def test_solve_satisfies_the_normal_equations():
    x = gaussian(40, 8)
    weighted = gaussian(5, 8, seed=1)
    solution = solve_cholesky(weighted, x.T @ x)
    assert solution.shape == (5, 8)
    close(solution @ (x.T @ x), weighted, 1e-11)


def test_solve_refuses_a_singular_gram_matrix():
    x = gaussian(3, 8)
    x[:, 0] = 0
    with pytest.raises(BenchmarkError, match=r"\[8, 8\] is not positive definite.*larger ridge"):
        solve_cholesky(gaussian(5, 8), x.T @ x)


def test_ensembles_of_a_convex_activation_lie_above_the_average():
    difference, _ = mloss.gap(gaussian(5, 50, 4), relu)
    assert difference.min() > -1e-15  # Jensen
    assert difference.max() > 0.1


def test_mloss_of_close_models_is_curvature_times_variance():
    """d = s''(mean y) Var(y) / 2 + o(spread^2); for GELU s'' = phi(x) (2 - x^2)."""
    centre, spread = gaussian(40, 3), 1e-3
    y = centre + spread * gaussian(6, 40, 3, seed=1)
    mean = y.mean(0)
    curvature = torch.exp(-mean.square() / 2) / math.sqrt(2 * math.pi) * (2 - mean.square())
    difference, _ = mloss.gap(y, gelu)
    close(difference / spread**2, curvature * y.var(0, correction=0) / 2 / spread**2, 2e-3)


def ties_rows(stacked: np.ndarray, keep: Sequence[float]) -> np.ndarray:
    """Compute TIES with the mean for each row separately, one number at a time."""
    merged = np.zeros(stacked.shape[1:])
    for row, share in enumerate(keep):
        count = math.floor(share * stacked.shape[2])
        trimmed = []
        for values in stacked[:, row]:
            limit = sorted(np.abs(values), reverse=True)[count - 1] if count else math.inf
            trimmed.append([value if abs(value) >= limit else 0.0 for value in values])
        for column, entries in enumerate(zip(*trimmed, strict=True)):
            total = math.fsum(entries)
            agreeing = [value for value in entries if value * total > 0]
            merged[row, column] = math.fsum(agreeing) / len(agreeing) if agreeing else 0.0
    return merged


@pytest.mark.parametrize("kind", ["gauss", "integers"])
def test_each_row_is_trimmed_to_its_share(kind: str):
    stacked = gaussian(4, 5, 10, seed=2)
    if kind == "integers":
        stacked = stacked.mul(1.5).round()  # ties at the thresholds, sums of zero
        assert ((stacked.sum(0) == 0) & stacked.any(0)).sum() > 3
    keep = torch.tensor([1.0, 0.75, 0.31, 0.1, 0.0], dtype=DOUBLE)
    close(row_trimming.merge_rows(stacked, keep), ties_rows(stacked.numpy(), keep.tolist()))


@pytest.mark.parametrize(("share", "count"), [(0.8, 76), (0.5, 48), (0.01, 0), (1.0, 96)])
def test_the_number_of_entries_per_row_is_rounded_down(share: float, count: int):
    merged = row_trimming.merge_rows(gaussian(1, 2, 96), torch.tensor([share, share], dtype=DOUBLE))
    assert (merged != 0).sum(1).tolist() == [count, count]


def test_m_ties_keeps_less_of_rows_with_high_mloss():
    """M-Loss is taken from the merged model itself: the inputs of c_fc do not depend on c_fc."""
    problem = toy.clip_problem()
    delta = merged_delta("m_ties", problem, keep=0.6, reach=0.4)
    merged, images = add_delta(problem.base, delta), torch.cat(problem.examples)
    tokens = problem.encoder.embed(merged, images)
    for index in range(problem.encoder.depth):
        name = f"{block_name(index)}mlp.c_fc"
        x = problem.encoder.inputs(merged, index, tokens)[f"{name}.weight"]
        experts = [expert_weights(problem.base, problem.vectors, task) for task in range(3)]
        y = np.stack([x @ expert[f"{name}.weight"].T + expert[f"{name}.bias"] for expert in experts])
        losses = ((y / (1 + np.exp(-1.702 * y))).mean(0) - y.mean(0) / (1 + np.exp(-1.702 * y.mean(0)))) ** 2
        ranks = losses.mean(0).argsort().argsort()
        keep = 0.6 - 0.4 * ranks / (len(ranks) - 1)
        close(delta[f"{name}.weight"], ties_rows(problem.vectors[f"{name}.weight"].numpy(), keep.tolist()))
        tokens = problem.encoder.block(merged, index, tokens)


def test_m_ties_without_reach_is_ties_by_row_and_by_tensor():
    problem = toy.clip_problem()
    delta = merged_delta("m_ties", problem, keep=0.3, reach=0.0, scale=0.5)
    for name, stacked in problem.vectors.items():
        rows = stacked.numpy().reshape(3, stacked.shape[1] if "c_fc.weight" in name else 1, -1)
        close(delta[name], 0.5 * ties_rows(rows, [0.3] * rows.shape[1]).reshape(stacked.shape[1:]))


def test_m_ties_of_equal_experts_keeps_all_rows_alike():
    problem = toy.clip_problem()
    same = replace(problem, vectors={name: stacked[:1].expand_as(stacked) for name, stacked in problem.vectors.items()})
    delta = merged_delta("m_ties", same, keep=0.5, reach=0.5)
    assert {int(row.count_nonzero()) for row in delta[LAST]} == {16}


def test_permuted_scores_give_the_same_shares_to_random_rows():
    """The first block is the control: later ones also see what the earlier blocks became."""
    problem, name = toy.clip_problem(), f"{block_name(0)}mlp.c_fc.weight"
    plain = merged_delta("m_ties", problem, keep=0.6, reach=0.4)
    drawn = [merged_delta("m_ties_random", problem, seed, keep=0.6, reach=0.4) for seed in (0, 0, 1)]
    assert toy.same(drawn[0], drawn[1])
    assert not torch.equal(drawn[0][name], drawn[2][name])
    for seed, delta in zip((0, 1), drawn[1:], strict=True):
        order = m_ties_random.permute_scores(seed, 0, torch.arange(len(plain[name])))
        keep = 0.6 - 0.4 * m_loss_ranks(problem, plain)[order] / (len(order) - 1)
        close(delta[name], ties_rows(problem.vectors[name].numpy(), keep.tolist()))
    still = [merged_delta(control, problem, reach=0.0) for control in ("m_ties", "m_ties_random")]
    assert toy.same(*still)


def m_loss_ranks(problem: Problem, delta: Weights) -> Tensor:
    """Return the rank, from 0, of the M-Loss of each unit of the first block."""
    merged, name = add_delta(problem.base, delta), f"{block_name(0)}mlp.c_fc"
    tokens = problem.encoder.embed(merged, torch.cat(problem.examples))
    x = problem.encoder.inputs(merged, 0, tokens)[f"{name}.weight"]
    experts = [expert_weights(problem.base, problem.vectors, task) for task in range(3)]
    y = torch.stack([x @ expert[f"{name}.weight"].T + expert[f"{name}.bias"] for expert in experts])
    gap = (y * torch.sigmoid(1.702 * y)).mean(0) - y.mean(0) * torch.sigmoid(1.702 * y.mean(0))
    return gap.square().mean(0).argsort().argsort()


def test_m_ties_at_the_keep_of_ties_is_m_ties():
    problem = toy.clip_problem()
    low = merged_delta("m_ties_keep_20", problem)
    assert toy.same(low, merged_delta("m_ties", problem, keep=0.2))
    assert not toy.same(low, merged_delta("m_ties", problem))


@pytest.mark.parametrize("kind", PROBLEMS)
def test_lot_is_regmean_without_shrinkage_where_inputs_have_full_rank(kind: str):
    """Both are theta_0 + tau there: the pseudo-inverse leaves nothing at theta_0."""
    problem = PROBLEMS[kind]()
    lot = merged_delta("lot", problem, tolerance=1e-12)
    regmean = merged_delta("regmean", problem, off_diagonal=1.0, ridge=0.0)
    for name in (name for name in lot if name.removesuffix(".weight").endswith(MATRICES)):
        close(lot[name], regmean[name], 1e-7)


def test_lot_is_the_least_squares_solution_of_least_norm_where_inputs_are_few():
    problem = toy.clip_problem()
    delta = merged_delta("lot", problem, samples=1)
    few = replace(problem, examples=tuple(pool[:1] for pool in problem.examples))
    rows = [block_inputs(few, task, expert_prefix(few), 1) for task in range(3)]
    for name in rows[0]:
        close(delta[name], least_squares(few, name, [inputs[name] for inputs in rows]), 1e-7)
    hidden = torch.cat([inputs[LAST] for inputs in rows])
    _, values, directions = torch.linalg.svd(hidden)
    unseen = directions[int((values > 1e-9).sum()) :]
    assert len(unseen) > 10
    close(delta[LAST] @ unseen.T, torch.zeros(len(delta[LAST]), len(unseen), dtype=DOUBLE), 1e-9)


def scaled_by_norms(problem: Problem, task: int, kind: str) -> Weights:
    """Return what the scales of the two norms of an expert's first block multiply: {name: [rows, width]}.

    A norm with scale one and bias zero returns that. The first norm of BERT is after attention, the second at the end.
    """
    expert, tower, stem = expert_weights(problem.base, problem.vectors, task), problem.encoder, block_name(0)
    tokens, scaled = tower.embed(expert, problem.examples[task]), {}
    readers = {"ln_1": "mlp.c_fc", "ln_2": None} if kind == "bert" else {"ln_1": "attn.q", "ln_2": "mlp.c_fc"}
    for norm, reader in readers.items():
        scale, bias = (expert[f"{stem}{norm}.{part}"] for part in ("weight", "bias"))
        plain = {**expert, f"{stem}{norm}.weight": torch.ones_like(scale), f"{stem}{norm}.bias": torch.zeros_like(bias)}
        inputs = tower.inputs(plain, 0, tokens)
        leaving = tower.block(plain, 0, tokens)
        scaled[f"{stem}{norm}.weight"] = inputs[f"{stem}{reader}.weight"] if reader else leaving.rows(leaving.tokens)
    return scaled


@pytest.mark.parametrize("kind", PROBLEMS)
def test_lot_weighs_scales_of_norms_by_the_squares_of_what_they_scale(kind: str):
    problem = PROBLEMS[kind]()
    delta = merged_delta("lot", replace(problem, examples_per_pass=4))
    scaled = [scaled_by_norms(problem, task, kind) for task in range(3)]
    for name in scaled[0]:
        energies = np.stack([rows[name].square().mean(0).numpy() for rows in scaled])
        close(delta[name], np.average(problem.vectors[name].numpy(), axis=0, weights=energies))
        assert (delta[name] - problem.vectors[name].mean(0)).abs().max() > 1e-6
        bias = name.replace("weight", "bias")
        assert torch.equal(delta[bias], problem.vectors[bias].mean(0))


def run_pm(problem: Problem, seed: int = 0, **settings: object) -> Tensor:
    """Return the coefficients of the tasks, which all groups share."""
    coefficients = pm_merge.calibrate(problem, UNUSED, seed, pm_merge.Params(**settings)).coefficients
    assert torch.equal(coefficients, coefficients[:, :1].expand_as(coefficients))
    return coefficients[:, 0]


def test_pm_of_one_task_is_its_expert():
    close(run_pm(first_tasks(toy.problem(), 1)), torch.ones(1, dtype=DOUBLE))


def test_pm_of_equal_information_is_the_running_mean(monkeypatch: pytest.MonkeyPatch):
    """After two of three tasks, in the order of the seed, both have one half."""
    information = {name: gaussian(*shape).square() for name, shape in toy.SHAPES.items()}
    monkeypatch.setattr(pm_merge, "fisher_diagonal", lambda *_: information)
    problem = toy.problem()
    for seed in range(3):
        close(run_pm(problem, seed), torch.full((3,), 1 / 3, dtype=DOUBLE))
        close(run_pm(first_tasks(problem, 2), seed), torch.full((2,), 1 / 2, dtype=DOUBLE))


def test_pm_steps_minimise_the_quadratic_model_along_each_line():
    """A grid over [0, 1] against the closed form, with the tasks in the order that the seed draws."""
    problem, grid = toy.problem(), torch.linspace(0, 1, 20_001, dtype=DOUBLE)
    information = [flat(exact_fisher(problem, task)) for task in range(3)]
    experts = torch.cat([stacked.flatten(1) for stacked in problem.vectors.values()], dim=1)
    results = []
    for seed in range(4):
        order = torch.randperm(3, generator=generator(seed, "tasks")).tolist()
        merged, shares = torch.zeros(experts.shape[1], dtype=DOUBLE), torch.zeros(3, dtype=DOUBLE)
        for place, task in enumerate(order):
            line = merged + grid[:, None] * (experts[task] - merged)
            loss = sum((information[i] * (line - experts[i]).square()).sum(1) for i in order[: place + 1])
            alpha = grid[int(loss.argmin())]
            merged, shares = line[int(loss.argmin())], (1 - alpha) * shares
            shares[task] += alpha
        results.append(run_pm(problem, seed, classes="all"))
        close(results[-1], shares, 2e-4)
        assert float(results[-1].sum()) == pytest.approx(1)
    assert (results[0] - 1 / 3).abs().max() > 0.01
    assert max(float((result - results[0]).abs().max()) for result in results) > 1e-4


def test_pm_steps_stay_between_zero_and_one():
    merged, total = {"a": torch.zeros(2)}, {"a": torch.ones(2)}
    delta = {"a": torch.tensor([1.0, 0.0])}
    for pull, expected in ((-3.0, 0.0), (0.25, 0.25), (7.0, 1.0)):
        assert pm_merge.step_length(merged, delta, total, {"a": torch.tensor([pull, 5.0])}) == expected
    assert pm_merge.step_length(merged, delta, {"a": torch.tensor([0.0, 1.0])}, {"a": torch.zeros(2)}) == 0


def moments(rows: int, width: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return correlated inputs [rows, width] and their E[x x^T]."""
    x = gaussian(rows, width, seed=seed) @ gaussian(width, width, seed=seed + 1)
    return x, x.T @ x / rows


@pytest.mark.parametrize("shape", [(9, 5), (5, 9), (6, 6)])
def test_essential_directions_are_the_right_singular_vectors_of_the_displacement(shape: tuple[int, int]):
    change = gaussian(*shape)
    x, gram = moments(40, shape[1], 3)
    directions, energies = essential.essential_subspace(change, gram, 4)
    _, values, vectors = np.linalg.svd((x @ change.T).numpy(), full_matrices=False)
    close(directions.T @ directions, torch.eye(4, dtype=DOUBLE))
    close(energies, values[:4] ** 2 / 40, 1e-9)
    close((directions.T @ torch.as_tensor(vectors[:4]).T).abs(), torch.eye(4, dtype=DOUBLE), 1e-8)


def steep_matrix(rows: int, columns: int, seed: int) -> Tensor:
    """Return a matrix with the singular values 1, 1/2, 1/3, ... in random directions."""
    rank = min(rows, columns)
    left, right = (
        np.linalg.qr(gaussian(size, rank, seed=seed + side).numpy())[0] for side, size in enumerate((rows, columns))
    )
    return torch.as_tensor(left / np.arange(1, rank + 1) @ right.T)


def steep_task(shape: tuple[int, int], tokens: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return a change [out, in] and inputs [tokens, in] in float32, both with steep spectra."""
    width = shape[1]
    return steep_matrix(*shape, seed).float(), (
        gaussian(tokens, width, seed=seed + 2) @ steep_matrix(width, width, seed + 3)
    ).float()


def second_moments(rows: Tensor) -> Tensor:
    """Return E[x x^T] in float64."""
    return rows.double().T @ rows.double() / len(rows)


def merged_essential(tasks: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Merge one matrix by ESM from (change, inputs) of each task."""
    keep = len(tasks[0][0]) // len(tasks)
    subspaces = [essential.essential_subspace(change, second_moments(rows), keep) for change, rows in tasks]
    return essential.merge_essential([change for change, _ in tasks], subspaces)


def essential_oracle(tasks: Sequence[tuple[Tensor, Tensor]]) -> np.ndarray:
    """Merge one matrix by ESM's definition in float64."""
    return esm_matrix(*([part.double().numpy() for part in parts] for parts in zip(*tasks, strict=True)))


def relative_error(actual: Tensor, expected: Tensor | np.ndarray) -> float:
    """Return the norm of the difference relative to the expected norm."""
    expected = torch.as_tensor(expected)
    return float((actual.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize("shape", [(96, 96), (192, 192), (192, 96), (96, 192), (384, 384)])
def test_steep_spectra_in_float32_lose_no_direction(shape: tuple[int, int]):
    """Measured: energies to 1.4e-12, the projector to 2e-11; float32's floor would leave 43 directions of 128."""
    change, rows = steep_task(shape, 2 * max(shape), 0)
    keep = shape[0] // 3
    directions, energies = essential.essential_subspace(change, second_moments(rows), keep)
    _, values, vectors = np.linalg.svd(rows.double().numpy() @ change.double().numpy().T, full_matrices=False)
    np.testing.assert_allclose(energies, values[:keep] ** 2 / len(rows), rtol=1e-10)
    close(directions @ directions.T, vectors[:keep].T @ vectors[:keep], 1e-9)


@pytest.mark.parametrize("shape", [(96, 96), (192, 96), (192, 192), (384, 384)])
def test_esm_of_steep_spectra_in_float32_is_that_of_float64(shape: tuple[int, int]):
    """Measured: 2.5e-8, the rounding of the result to float32."""
    tasks = [steep_task(shape, 2 * max(shape), 10 * task) for task in range(3)]
    merged = merged_essential(tasks)
    assert merged.dtype == torch.float32
    assert relative_error(merged, essential_oracle(tasks)) < 1e-7


def test_essential_directions_of_a_low_rank_change_are_as_many_as_its_rank():
    change, rows = steep_task((96, 96), 200, 0)
    left, values, right = torch.linalg.svd(change.double())
    low = ((left[:, :16] * values[:16]) @ right[:16]).float()
    directions, energies = essential.essential_subspace(low, second_moments(rows), 32)
    assert int((energies > 0).sum()) == 16
    close(directions[:, :16] @ (directions[:, :16].T @ low.double()), low.double(), 1e-7)
    tasks = [(low, rows), (low.flip(0), rows), (low.flip(1), rows)]
    wide = [(change.double(), inputs.double()) for change, inputs in tasks]
    assert relative_error(merged_essential(tasks), merged_essential(wide)) < 1e-7


def test_low_rank_experts_are_merged_in_the_directions_that_they_move():
    """Of 32 directions per task only 8 have energy: the others enter no mean, and change no scale."""
    tasks = []
    for task in range(3):
        change, rows = steep_task((96, 96), 200, 10 * task)
        left, values, right = torch.linalg.svd(change.double())
        tasks.append(((left[:, :8] * values[:8]) @ right[:8], rows.double()))
    subspaces = [essential.essential_subspace(change, second_moments(rows), 8) for change, rows in tasks]
    expected = essential.merge_essential([change for change, _ in tasks], subspaces)
    assert relative_error(merged_essential(tasks), expected) < 1e-9
    assert merged_essential(tasks).norm() < 20 * torch.stack([change for change, _ in tasks]).mean(0).norm()


@pytest.mark.parametrize("tokens", [40, 60])
def test_esm_depends_on_the_moments_of_the_tokens_and_not_on_their_number(tokens: int):
    """The norm of a task is that of its vector, as in the authors' code when it sees as many tokens as outputs."""
    tasks = [steep_task((96, 48), tokens, 10 * task) for task in range(3)]
    tasks = [((1 + task) * change, rows) for task, (change, rows) in enumerate(tasks)]
    repeated = [(change, rows.repeat(8, 1)) for change, rows in tasks]
    for expected in (merged_essential(repeated), essential_oracle(repeated)):
        assert relative_error(merged_essential(tasks), expected) < 1e-7


@pytest.mark.parametrize("shape", [(9, 5), (5, 9)])
def test_all_essential_directions_reproduce_the_change(shape: tuple[int, int]):
    change = gaussian(*shape)
    directions, energies = essential.essential_subspace(change, moments(40, shape[1], 3)[1], max(shape))
    assert directions.shape == (shape[0], min(shape))
    assert (energies.diff() <= 0).all()
    close(directions @ (directions.T @ change), change)


def test_isometry_is_the_polar_factor_and_ignores_zero_columns():
    matrix = gaussian(7, 4)
    factor, mean = essential.isometry(matrix)
    expected, stretch = scipy.linalg.polar(matrix.numpy())
    close(factor, expected)
    assert float(mean) == pytest.approx(np.trace(stretch) / 4)
    padded = torch.cat([matrix, torch.zeros(7, 2, dtype=DOUBLE)], dim=1)
    padded_factor, padded_mean = essential.isometry(padded)
    close(padded_factor[:, :4], factor)
    assert not padded_factor[:, 4:].abs().gt(1e-12).any()
    assert float(padded_mean) == pytest.approx(float(mean))


def test_float64_grams_of_float32_inputs_are_exact():
    """Measured: 1e-16 from float32 tokens, where sums in float32 are 1e-7 off."""
    problem = toy.clip_problem(dtype=torch.float32)
    weights = expert_prefix(problem)(0)
    tokens = embed_examples(problem.encoder, weights, problem.examples[0], 5, torch.float32)
    rows = problem.encoder.inputs(weights, 0, tokens[0])
    wide = gram_matrices(problem.encoder, weights, 0, tokens[:1], torch.float32, DOUBLE)
    narrow = gram_matrices(problem.encoder, weights, 0, tokens[:1], torch.float32)
    for name, x in rows.items():
        expected = second_moments(x)
        assert (wide[name].dtype, narrow[name].dtype) == (DOUBLE, torch.float32)
        assert relative_error(wide[name], expected) < 1e-14
        assert 1e-9 < relative_error(narrow[name], expected) < 1e-5


def esm_matrix(changes: Sequence[np.ndarray], rows: Sequence[np.ndarray]) -> np.ndarray:
    """Merge one matrix by ESM with NumPy and SciPy, from each task's change and inputs."""
    keep = min(len(changes[0]) // len(changes), len(changes[0][0]))
    norms = np.array([np.linalg.norm(change) for change in changes])
    left, right = [], []
    for change, x, norm in zip(changes, rows, norms, strict=True):
        _, values, vectors = np.linalg.svd(x @ change.T, full_matrices=False)
        energies = values[:keep] ** 2 / (len(x) - 1)
        emphasis = (energies / energies.mean()) ** 0.15
        emphasis = emphasis / emphasis.mean()
        left.append(vectors[:keep].T * emphasis)
        right.append(emphasis[:, None] * (vectors[:keep] @ change) * (norm / norms.mean()) ** 2)
    outer, inner = np.hstack(left), np.vstack(right)
    columns = np.linalg.norm(inner, axis=0)
    inner = inner * (columns / columns.mean()) ** 2
    factors = [scipy.linalg.polar(side)[0] * np.linalg.norm(side, "nuc") / min(side.shape) for side in (outer, inner)]
    return 2 * factors[0] @ factors[1]


def test_esm_equals_its_definition_on_the_experts_inputs():
    problem = toy.clip_problem()
    delta = merged_delta("esm", problem, scale=0.7)
    kinds = {"mlp.c_fc": ("mlp.c_fc",), "mlp.c_proj": ("mlp.c_proj",), "qkv": ("attn.q", "attn.k", "attn.v")}
    for parts in kinds.values():
        layers = []
        for index in (0, 1):
            names = [f"{block_name(index)}{part}.weight" for part in parts]
            rows = [block_inputs(problem, task, expert_prefix(problem), index)[names[0]].numpy() for task in range(3)]
            changes = np.concatenate([problem.vectors[name].numpy() for name in names], axis=1)
            layers.append(esm_matrix(changes, rows))
        norms = [np.linalg.norm(layer) for layer in layers]
        for index, (layer, norm) in enumerate(zip(layers, norms, strict=True)):
            merged = torch.cat([delta[f"{block_name(index)}{part}.weight"] for part in parts])
            close(merged, 0.7 * layer * (norm / np.mean(norms)) ** 2, 1e-7)


def test_esm_averages_tensors_other_than_matrices():
    problem = toy.clip_problem()
    delta = merged_delta("esm", problem, scale=0.5)
    for group, stacked in problem.vectors.items():
        if not group.removesuffix(".weight").endswith(MATRICES):
            close(delta[group], 0.5 * stacked.mean(0))


def test_esm_of_one_matrix_scales_with_the_task_vectors():
    changes, grams = gaussian(3, 9, 6), [moments(30, 6, seed)[1] for seed in (3, 5, 7)]

    def merged(factor: float) -> Tensor:
        scaled = [factor * change for change in changes]
        subspaces = [essential.essential_subspace(change, gram, 3) for change, gram in zip(scaled, grams, strict=True)]
        return essential.merge_essential(scaled, subspaces)

    close(merged(5.0), 5 * merged(1.0), 1e-10)
    assert not merged(0.0).any()


def test_layers_are_balanced_by_the_squares_of_their_relative_norms():
    layers = [gaussian(3, 4), 3 * gaussian(3, 4, seed=1), 0.2 * gaussian(3, 4, seed=2)]
    norms = torch.stack([layer.norm() for layer in layers])
    factors = [float((new / old).mean()) for new, old in zip(essential.balance_layers(layers), layers, strict=True)]
    assert factors == pytest.approx([float((norm / norms.mean()) ** 2) for norm in norms])
    assert np.mean(factors) >= 1  # Jensen
    close(essential.balance_layers(layers[:1])[0], layers[0])


def test_esm_merges_the_attention_output_like_tsv_m():
    problem = toy.clip_problem()
    delta, names = merged_delta("esm", problem), [f"{block_name(index)}attn.out_proj.weight" for index in (0, 1)]
    expected = essential.balance_layers([decorrelate(problem.vectors[name]) for name in names])
    for name, matrix in zip(names, expected, strict=True):
        close(delta[name], matrix)
