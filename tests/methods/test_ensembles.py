"""Ensembles: means of what the experts answer, computed expert by expert, and what they cost."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.merges.costs import count_costs, count_flops
from pipeline.merges.serving import Served, ensemble
from pipeline.merges.storage import load_models
from pipeline.methods import feature_ensemble, feature_ensemble_base, logit_ensemble
from pipeline.models.suite import SuiteFolder
from pipeline.models.task_vectors import TaskVectors, merge
from pipeline.models.weights import Weights
from pipeline.steps import evaluate
from tests.support import toy
from tests.support.toy_texts import PROBLEMS

ENSEMBLES = {
    "feature_ensemble": feature_ensemble,
    "feature_ensemble_base": feature_ensemble_base,
    "logit_ensemble": logit_ensemble,
}


def experts_of(problem: toy.Problem) -> list[Weights]:
    """Return whole experts of a toy problem, of lengths that differ."""
    return [
        {**problem.base, **{name: problem.base[name] + stacked[task] for name, stacked in problem.vectors.items()}}
        for task in range(3)
    ]


def served_of(name: str, problem: toy.Problem, experts: list[Weights]) -> Served:
    """Return the served model of an ensemble."""
    vectors = TaskVectors(problem.base, experts, [*problem.vectors], torch.float64)
    solution = ENSEMBLES[name].merge(vectors, ENSEMBLES[name].Params())
    weights = merge(problem.base, vectors, solution.coefficients)
    (served,) = ensemble.serve(Served(problem.encoder, weights, {}, ("0",)), problem.base, solution.extras.tensors)
    return served


def pooled(encoder, weights: Weights, examples: Tensor) -> Tensor:
    """Return features of any length, block by block."""
    hidden = encoder.embed(weights, examples)
    for index in range(encoder.depth):
        hidden = encoder.block(weights, index, hidden)
    return encoder.pool(weights, hidden)


def unit(features: Tensor) -> Tensor:
    """Divide every row by its length."""
    return features / features.square().sum(1, keepdim=True).sqrt()


@pytest.mark.parametrize("kind", PROBLEMS)
@pytest.mark.parametrize("name", ENSEMBLES)
def test_an_ensemble_is_the_mean_over_its_encoders(name: str, kind: str):
    problem = PROBLEMS[kind](dtype=torch.float64)
    experts, examples = experts_of(problem), problem.examples[0]
    encoders = [problem.base, *experts] if name == "feature_ensemble_base" else experts
    parts = [pooled(problem.encoder, weights, examples) for weights in encoders]
    scale = unit if problem.encoder.unit else (lambda features: features)
    expected = sum(map(scale, parts)) / len(parts) if name == "logit_ensemble" else scale(sum(parts) / len(parts))
    served = served_of(name, problem, experts)
    torch.testing.assert_close(served.encoder(served.weights, examples), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ENSEMBLES)
def test_the_order_of_experts_does_not_matter_and_equal_ones_are_one(name: str):
    problem = PROBLEMS["images"](dtype=torch.float64)
    experts, examples = experts_of(problem), problem.examples[0]
    first, second = (served_of(name, problem, order) for order in (experts, experts[::-1]))
    features = first.encoder(first.weights, examples)
    torch.testing.assert_close(second.encoder(second.weights, examples), features, rtol=0, atol=1e-10)
    same = served_of(name, problem, [problem.base] * 3)
    alone = problem.encoder(problem.base, examples)
    torch.testing.assert_close(same.encoder(same.weights, examples), alone, rtol=0, atol=1e-10)
    assert not torch.allclose(features, alone, atol=1e-3)


def test_longer_features_count_more_unless_logits_are_averaged():
    """The projection of one expert is not merged, so its features grow with its last norm."""
    problem = PROBLEMS["images"](dtype=torch.float64)
    experts, examples = experts_of(problem), problem.examples[0]
    for name in ("ln_post.weight", "ln_post.bias"):
        experts[1][name] = 1e6 * experts[1][name]
    loud = unit(pooled(problem.encoder, experts[1], examples))
    features, logits = (served_of(name, problem, experts) for name in ("feature_ensemble", "logit_ensemble"))
    torch.testing.assert_close(features.encoder(features.weights, examples), loud, rtol=0, atol=1e-4)
    assert (logits.encoder(logits.weights, examples) - loud).abs().max() > 1e-2


def test_an_encoder_that_is_no_transformer_is_refused():
    served = Served(toy.encoder, {}, {}, ("0",))
    with pytest.raises(TypeError, match="expected a Transformer, whose features can be averaged"):
        next(ensemble.serve(served, {}, {}))


@pytest.mark.parametrize(
    ("name", "encoders"), [("feature_ensemble", 3), ("feature_ensemble_base", 4), ("logit_ensemble", 3)]
)
def test_an_ensemble_costs_its_encoders(suite: SuiteFolder, tmp_path: Path, name: str, encoders: int):
    costs = count_costs(suite.folder, toy.data_free(name, suite, tmp_path))
    base = dict(suite.base())
    merged = sum(base[group].nbytes for group in suite.suite.groups)
    assert costs["encoders"] == 1
    assert costs["extra_bytes"] == (encoders - 1) * merged
    plain = count_flops(suite.suite.encoder(), base, suite.blank())
    assert costs["flops"] == dict.fromkeys(suite.suite.task_names, encoders * plain)


def test_an_ensemble_is_served_from_its_artefact(suite: SuiteFolder, tmp_path: Path):
    folder = toy.data_free("logit_ensemble", suite, tmp_path)
    (served,) = load_models(suite, folder, 0)
    assert served.tasks == suite.suite.task_names
    counts = evaluate.predict_seed(suite.folder, folder, 0, "test").counts(0)
    for task in suite.suite.task_names:
        images = torch.from_numpy(np.array(suite.examples("test", task)))
        experts = [{**suite.base(), **suite.expert(other)} for other in suite.suite.task_names]
        expected = torch.stack([suite.suite.encoder()(weights, images) for weights in experts]).mean(0)
        torch.testing.assert_close(served.encoder(served.weights, images), expected, rtol=0, atol=1e-5)
        labels = torch.from_numpy(np.array(suite.labels("test", task)))
        right = (expected @ suite.heads()[task].T).argmax(1) == labels
        assert counts[task] == (int(right.sum()), len(labels))
