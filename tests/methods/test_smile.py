"""SMILE: its experts, its router and the served model, against token-by-token oracles."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.merges import storage
from pipeline.merges.serving import Served, routed
from pipeline.merges.solution import Solution
from pipeline.methods import smile
from pipeline.methods.smile import Params, merge
from pipeline.models.encoder import Transformer
from pipeline.models.suite import SuiteFolder
from pipeline.models.task_vectors import TaskVectors
from pipeline.models.weights import Weights
from pipeline.steps import evaluate
from pipeline.steps import merge as merge_step
from tests.support import toy
from tests.support.toy_texts import PROBLEMS

MATRICES = ("attn.q", "attn.k", "attn.v", "attn.out_proj", "mlp.c_fc", "mlp.c_proj")


def is_matrix(name: str) -> bool:
    """Return whether a tensor is a matrix of a block or its bias."""
    return any(f".{matrix}." in name for matrix in MATRICES)


def served_of(solution: Solution, problem: toy.Problem) -> Served:
    """Return the served model of a merge of a toy problem."""
    plain = Served(problem.encoder, problem.base, {}, ("0", "1", "2"))
    (served,) = routed.serve(plain, problem.base, solution.extras.tensors)
    return served


def moved_matrices(problem: toy.Problem, tasks: int) -> tuple[TaskVectors, list[Weights]]:
    """Return experts of a toy problem that differ from the base only in matrices and their biases."""
    groups = [*problem.vectors]
    experts = [
        {
            name: problem.base[name] + (stacked[task] if is_matrix(name) else 0)
            for name, stacked in problem.vectors.items()
        }
        for task in range(tasks)
    ]
    return TaskVectors(problem.base, experts, groups, torch.float64), experts


def oracle(
    encoder: Transformer, base: Weights, vectors: Mapping[str, Tensor], params: Params, examples: Tensor
) -> Tensor:
    """Compute the routed model's features token by token from NumPy's SVD of every task vector."""

    def decompose(stem: str) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        factors = []
        for change, bias in zip(vectors[f"{stem}.weight"], vectors[f"{stem}.bias"], strict=True):
            left, values, right = np.linalg.svd(change.double().numpy())
            top = slice(params.rank)
            low_rank = left[:, : len(values)][:, top] * values[top] @ right[: len(values)][top]
            factors.append((low_rank, right[: min(params.gate_rank, params.rank)], bias.double().numpy()))
        return factors

    def multiply(stem: str, x: Tensor) -> Tensor:
        experts, out = decompose(stem), []
        for token in x.reshape(-1, x.shape[-1]).double().numpy():
            best = max(experts, key=lambda candidate: np.linalg.norm(candidate[1] @ token))
            weight, bias = (base[f"{stem}.{kind}"].double().numpy() for kind in ("weight", "bias"))
            out.append(weight @ token + bias + best[0] @ token + best[2])
        return torch.from_numpy(np.array(out)).to(x.dtype).view(*x.shape[:-1], -1)

    hidden = encoder.embed(base, examples)
    for index in range(encoder.depth):
        hidden = encoder.block_by(base, index, hidden, multiply)
    return encoder.finish(base, hidden)


def test_an_expert_is_the_best_approximation_of_its_rank():
    """Eckart-Young: the squared error of a rank-k expert is the sum of squares of the other singular values."""
    problem = toy.clip_problem()
    vectors, _ = moved_matrices(problem, 3)
    tensors = merge(vectors, Params(rank=5, gate_rank=2)).extras.tensors
    stems = {name.rpartition("/")[0] for name in tensors} - {""}
    assert stems == {name.removesuffix(".weight") for name in vectors if is_matrix(name) and name.endswith(".weight")}
    for stem in stems:
        down, up = tensors[f"{stem}/down"], tensors[f"{stem}/up"]
        assert torch.equal(tensors[f"{stem}/bias"], vectors[f"{stem}.bias"])
        for task, change in enumerate(vectors[f"{stem}.weight"]):
            dropped = np.linalg.svd(change.numpy(), compute_uv=False)[5:]
            error = float((change - up[task].T @ down[task]).square().sum())
            assert error == pytest.approx(float((dropped**2).sum()), rel=1e-10)
            torch.testing.assert_close(down[task] @ down[task].T, torch.eye(5, dtype=torch.float64), rtol=0, atol=1e-12)


def test_a_matrix_with_fewer_singular_values_keeps_them_all():
    vectors, _ = moved_matrices(toy.clip_problem(), 2)
    tensors = merge(vectors, Params(rank=1000)).extras.tensors
    stem = "transformer.resblocks.1.mlp.c_fc"
    product = tensors[f"{stem}/up"].mT @ tensors[f"{stem}/down"]
    torch.testing.assert_close(product, vectors[f"{stem}.weight"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("gate_rank", [1, 7])
def test_one_task_of_full_rank_is_its_expert(gate_rank: int):
    problem = toy.clip_problem()
    vectors, (expert,) = moved_matrices(problem, 1)
    served = served_of(merge(vectors, Params(rank=1000, gate_rank=gate_rank)), problem)
    expected = problem.encoder({**problem.base, **expert}, problem.examples[0])
    torch.testing.assert_close(served.encoder(served.weights, problem.examples[0]), expected, rtol=0, atol=1e-12)
    assert (expected - problem.encoder(problem.base, problem.examples[0])).abs().max() > 1e-3


def test_tensors_other_than_matrices_stay_at_the_base():
    problem = toy.clip_problem()
    vectors, experts = moved_matrices(problem, 3)
    moved_experts = [{name: t if is_matrix(name) else t + 1 for name, t in expert.items()} for expert in experts]
    solution = merge(vectors, Params())
    moved_solution = merge(TaskVectors(problem.base, moved_experts, [*vectors], torch.float64), Params())
    assert not solution.coefficients.any()
    assert toy.same(solution.extras.tensors, moved_solution.extras.tensors)


def test_the_router_takes_the_expert_whose_gate_passes_most():
    gates = torch.eye(6, dtype=torch.float64).view(3, 2, 6)  # expert t looks at coordinates 2t and 2t + 1
    x = torch.tensor([[3.0, 0, 0, 0, 0, 0], [1, 1, 0, -2, 1, 1], [0, 0, 2, 2, -2, -3]], dtype=torch.float64)
    assert routed.route(x, gates).tolist() == [0, 1, 2]
    assert routed.route(-5 * x.view(1, 3, 6), gates).tolist() == [[0, 1, 2]]
    assert routed.route(x, gates[:1]).tolist() == [0, 0, 0]


def test_only_the_chosen_expert_acts():
    rng = torch.Generator().manual_seed(0)
    down, up, bias, x = (
        torch.randn(shape, generator=rng, dtype=torch.float64) for shape in ((4, 3, 6), (4, 3, 5), (4, 5), (3, 20, 6))
    )
    corrections = routed.correction(x, down, up, bias, gate_rank=2)
    routed_tasks = set()
    for place in np.ndindex(3, 20):
        task = max(range(4), key=lambda t: float((down[t, :2] @ x[place]).norm()))
        routed_tasks.add(task)
        torch.testing.assert_close(
            corrections[place], up[task].T @ (down[task] @ x[place]) + bias[task], rtol=0, atol=1e-13
        )
    assert routed_tasks == {0, 1, 2, 3}


@pytest.mark.parametrize("kind", PROBLEMS)
@pytest.mark.parametrize("params", [Params(rank=3, gate_rank=1), Params(rank=4, gate_rank=4)])
def test_the_served_model_equals_the_oracle(params: Params, kind: str):
    problem = PROBLEMS[kind](spread=0.2)
    vectors, _ = moved_matrices(problem, 3)
    served = served_of(merge(vectors, params), problem)
    examples = problem.examples[0][:3]
    expected = oracle(problem.encoder, problem.base, vectors, params, examples)
    torch.testing.assert_close(served.encoder(served.weights, examples), expected, rtol=0, atol=1e-11)
    assert (expected - problem.encoder(problem.base, examples)).abs().max() > 1e-3


def test_the_experts_are_part_of_the_served_weights():
    """The served encoder holds no tensors itself: zeros in the weights remove the experts."""
    problem = toy.clip_problem()
    served = served_of(merge(moved_matrices(problem, 3)[0], Params(rank=3, gate_rank=3)), problem)
    without = {name: torch.zeros_like(t) if name not in problem.base else t for name, t in served.weights.items()}
    expected = problem.encoder(problem.base, problem.examples[0])
    torch.testing.assert_close(served.encoder(without, problem.examples[0]), expected, rtol=0, atol=1e-12)


def test_smile_is_served_from_its_artefact(pristine_suite: Path, tmp_path: Path):
    suite, params = SuiteFolder(pristine_suite), Params(rank=4, gate_rank=2)
    vectors = suite.vectors()
    storage.save(merge_step.merge_data_free(smile, vectors, params, suite.suite.task_names), tmp_path)
    (served,) = storage.load_models(suite, tmp_path, 0)
    assert served.tasks == suite.suite.task_names
    counts = evaluate.predict_seed(pristine_suite, tmp_path, 0, "test").counts(0)
    base = dict(suite.base())
    for task in suite.suite.task_names:
        images = torch.from_numpy(np.array(suite.examples("test", task)))
        expected = oracle(suite.suite.encoder(), base, vectors, params, images)
        torch.testing.assert_close(served.encoder(served.weights, images), expected, rtol=0, atol=1e-5)
        labels = torch.from_numpy(np.array(suite.labels("test", task)))
        right = (expected @ suite.heads()[task].T).argmax(1) == labels
        assert counts[task] == (int(right.sum()), len(labels))
