"""Representation Surgery: adapters start as the identity and learn the expert's features, one task at a time."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.merges import storage
from pipeline.merges.serving.adapters import correct
from pipeline.merges.solution import Solution
from pipeline.merges.storage import Merges
from pipeline.models.examples import encode
from pipeline.models.suite import SuiteFolder
from pipeline.statistics.sampling import generator, sample_indices
from pipeline.steps.refinement import NotRefinable
from pipeline.steps.surgery import Surgery, apply_surgery, fit_adapter, initialise_adapter
from tests.support import toy

pytestmark = pytest.mark.usefixtures("one_process")
SHORT = Surgery(rank=8, steps=4, batch_size=4)
SEEDS = [0, 5]


def noise(seed: int, *shape: int) -> Tensor:
    """Return normal numbers in float64."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def features_of(suite: SuiteFolder, folder: Path, index: int = 0) -> dict[str, Tensor]:
    """Return {task: features of its training images} from the artefact's models."""
    return {
        task: encode(model.encoder, model.weights, suite.examples("train", task), torch.device("cpu"))
        for model in storage.load_models(suite, folder, index)
        for task in model.tasks
    }


def test_an_initial_adapter_corrects_nothing():
    features = noise(0, 7, 6)
    assert torch.equal(correct(features, *initialise_adapter(features, 4, generator(0))), features)


def test_the_first_matrix_is_initialised_like_a_linear_layer():
    down, up = initialise_adapter(noise(0, 1, 400), 300, generator(0))
    bound = 1 / math.sqrt(400)
    assert (down.shape, up.shape, down.dtype) == ((300, 400), (400, 300), torch.float64)
    assert 0.999 * bound < down.abs().max() <= bound
    assert float(down.std()) == pytest.approx(bound / math.sqrt(3), rel=0.01)  # uniform on [-bound, bound]
    assert not up.any()
    rng = torch.Generator().manual_seed(4)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        layer = torch.nn.Linear(5, 3, bias=False, dtype=torch.float64)
    assert torch.equal(initialise_adapter(noise(0, 1, 5), 3, rng)[0], layer.weight)


def test_an_encoder_equal_to_the_expert_is_not_corrected():
    features = noise(0, 9, 6)
    down, up, losses = fit_adapter(features, features, SHORT, generator(0))
    assert torch.equal(losses, torch.zeros(4, dtype=torch.float64))
    assert torch.equal(down, initialise_adapter(features, 8, generator(0))[0])
    assert not up.any()


def test_the_first_step_is_adams_on_the_mean_distance():
    features, targets = noise(0, 8, 6), noise(1, 8, 6)
    params = Surgery(rank=3, lr=0.01, steps=1, batch_size=8)
    down, up, losses = fit_adapter(features, targets, params, generator(0))
    z, goal, first = (
        tensor.numpy() for tensor in (features, targets, initialise_adapter(features, 3, generator(0))[0])
    )
    assert losses.tolist() == pytest.approx([np.abs(z - goal).mean()], abs=1e-14)
    slope = -np.sign(z - goal).T @ np.maximum(z @ first.T, 0) / z.size
    np.testing.assert_allclose(up.numpy(), -0.01 * slope / (np.abs(slope) + 1e-8), rtol=0, atol=1e-12)
    np.testing.assert_array_equal(down.numpy(), first)  # U = 0 hides D from the first gradient


def test_a_planted_correction_is_learned():
    features = noise(0, 64, 8)
    targets = correct(features, noise(1, 2, 8), noise(2, 8, 2))
    _, _, losses = fit_adapter(features, targets, Surgery(rank=8, lr=0.03, steps=400, batch_size=64), generator(0))
    assert losses[-1] < 0.1 * losses[0]


def test_the_result_is_that_of_the_last_step():
    features, targets = noise(0, 8, 6), noise(1, 8, 6)
    whole = {"rank": 3, "lr": 0.01, "batch_size": 8}
    down, up, _ = fit_adapter(features, targets, Surgery(steps=3, **whole), generator(0))
    *_, losses = fit_adapter(features, targets, Surgery(steps=4, **whole), generator(0))
    distance = (correct(features, down, up) - targets).abs().mean()
    assert float(losses[3]) == pytest.approx(float(distance), abs=1e-14)


def test_batches_have_the_requested_size():
    """With batches of one image of two, the losses before the first step are those of one image."""
    features, targets = noise(0, 2, 6), noise(1, 2, 6)
    *_, losses = fit_adapter(features, targets, Surgery(rank=3, lr=1e-12, steps=2, batch_size=1), generator(0))
    distances = (features - targets).abs().mean(1)
    torch.testing.assert_close(losses.sort().values, distances.sort().values, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["task_arithmetic", "ties", "individual"])
def test_each_task_gets_adapters_on_the_same_merge(precise: SuiteFolder, tmp_path: Path, name: str):
    start = toy.data_free(name, precise, tmp_path / "start")
    merges = apply_surgery(precise.folder, start, "train", 6, SEEDS, SHORT)
    storage.save(merges, tmp_path / "after")
    metadata, _ = storage.load(tmp_path / "after")
    assert (metadata["extras"], metadata["seeds"]) == ("adapters", SEEDS)
    assert metadata["samples"] == dict.fromkeys(precise.suite.task_names, 6)
    assert metadata["form"] == storage.load(start)[0]["form"]
    before = features_of(precise, start)
    for index, solution in enumerate(merges.solutions):
        adapters = solution.extras.tensors
        after = features_of(precise, tmp_path / "after", index)
        for task in precise.suite.task_names:
            expected = correct(before[task], adapters[f"{task}/down"], adapters[f"{task}/up"])
            assert adapters[f"{task}/up"].any() != (name == "individual")
            torch.testing.assert_close(after[task], expected, rtol=0, atol=1e-14)


def test_experts_need_no_surgery(suite: SuiteFolder, tmp_path: Path):
    merges = apply_surgery(suite.folder, toy.data_free("individual", suite, tmp_path), "train", 6, SEEDS, SHORT)
    for solution in merges.solutions:
        assert torch.equal(solution.losses, torch.zeros(4))


def test_losses_are_summed_over_tasks(precise: SuiteFolder, tmp_path: Path):
    start = toy.data_free("task_arithmetic", precise, tmp_path)
    whole = Surgery(rank=3, steps=1, batch_size=6)
    solution = apply_surgery(precise.folder, start, "train", 6, [5], whole).solutions[0]
    expected = 0.0
    for task, features in features_of(precise, start).items():
        weights = {**precise.base(), **precise.expert(task)}
        targets = encode(precise.suite.encoder(), weights, precise.examples("train", task), torch.device("cpu"))
        indices = sample_indices(12, 6, 5, task)
        expected += float((features[indices] - targets[indices]).abs().mean())
    assert solution.losses.tolist() == pytest.approx([expected], abs=1e-12)


def test_every_seed_of_a_merge_has_its_own_adapters(suite: SuiteFolder, tmp_path: Path):
    matrices = [torch.full((3, len(suite.suite.groups)), value) for value in (0.2, 0.4)]
    start = Merges((3, 8), dict.fromkeys(suite.suite.task_names, 7), suite.suite.groups, [*map(Solution, matrices)])
    storage.save(start, tmp_path)
    merges = apply_surgery(suite.folder, tmp_path, "train", 5, SEEDS, SHORT)
    assert merges.seeds == (3, 8)
    assert merges.samples == dict.fromkeys(suite.suite.task_names, 7)
    assert all(
        torch.equal(solution.coefficients, matrix) for solution, matrix in zip(merges.solutions, matrices, strict=True)
    )
    first, second = (solution.extras.tensors for solution in merges.solutions)
    assert not torch.equal(first["cats/down"], second["cats/down"])
    assert not torch.equal(first["cats/down"], first["dogs/down"])
    again = apply_surgery(suite.folder, tmp_path, "train", 5, SEEDS, SHORT)
    assert toy.same(again.solutions[1].extras.tensors, second)


def test_surgery_on_extras_is_refused(suite: SuiteFolder, tmp_path: Path):
    start = toy.data_free("task_arithmetic", suite, tmp_path / "start")
    storage.save(apply_surgery(suite.folder, start, "train", 6, SEEDS, SHORT), tmp_path / "after")
    with pytest.raises(NotRefinable, match="after: the merge needs 'adapters' at inference"):
        apply_surgery(suite.folder, tmp_path / "after", "train", 6, SEEDS, SHORT)
