"""The artefact of a merge: saved contents are restored and serve the right models."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline import methods
from pipeline.merges import storage
from pipeline.merges.serving import Served, adapters, masks
from pipeline.merges.solution import Extras, Solution
from pipeline.merges.storage import Merges
from pipeline.models.suite import SuiteFolder
from pipeline.runtime import store
from pipeline.runtime.errors import BenchmarkError
from tests.support import toy


def make_merges(suite: SuiteFolder) -> Merges:
    """Return merges of two seeds as from a calibrated method."""
    rng = torch.Generator().manual_seed(0)
    tasks, groups = suite.suite.task_names, suite.suite.groups
    return Merges(
        seeds=(0, 7),
        samples=dict.fromkeys(tasks, 4),
        groups=groups,
        solutions=[
            Solution(torch.randn(len(tasks), len(groups), generator=rng), losses=torch.tensor(losses))
            for losses in ([2.0, 1.0 / 3.0], [4.0, 0.5])
        ],
        draws={task: torch.tensor([[0, 1, 2, 3], [4, 5, 6, 7]]) for task in tasks},
    )


def test_zeroshot_serves_the_base(suite: SuiteFolder, tmp_path: Path):
    (served,) = storage.load_models(suite, toy.data_free("zeroshot", suite, tmp_path), 0)
    assert served.tasks == suite.suite.task_names
    assert toy.same(served.weights, dict(suite.base()))
    assert toy.same(dict(served.heads), dict(suite.heads()))


def test_individual_serves_every_expert_on_its_own_task(suite: SuiteFolder, tmp_path: Path):
    models = [*storage.load_models(suite, toy.data_free("individual", suite, tmp_path), 0)]
    assert [model.tasks for model in models] == [(task,) for task in suite.suite.task_names]
    for model in models:
        expert = suite.expert(model.tasks[0])
        assert torch.equal(model.weights["proj"], suite.base()["proj"])
        assert all(torch.equal(model.weights[name], expert[name]) for name in suite.suite.groups)


def test_a_delta_is_added_to_the_base(suite: SuiteFolder, tmp_path: Path):
    folder = toy.data_free("ties", suite, tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == ["delta-0.safetensors", "merge.json"]
    module = methods.load("ties")
    delta, base = module.merge(suite.vectors(), module.Params()), suite.base()
    (served,) = storage.load_models(suite, folder, 0)
    weights = served.weights
    assert served.tasks == suite.suite.task_names
    assert {*weights} == {*base}
    assert all(torch.equal(weights[name], base[name] + delta[name]) for name in delta)
    assert torch.equal(weights["proj"], base["proj"])


def test_a_calibrated_artefact_is_restored(suite: SuiteFolder, tmp_path: Path):
    merges = make_merges(suite)
    storage.save(merges, tmp_path)
    metadata, coefficients = storage.load(tmp_path)
    assert metadata["form"] == "coefficients"
    assert metadata["seeds"] == [0, 7]
    assert metadata["samples"] == merges.samples
    assert tuple(metadata["tasks"]) == suite.suite.task_names
    assert tuple(metadata["groups"]) == suite.suite.groups
    assert metadata["extras"] is None
    assert torch.equal(coefficients[:, 0], torch.stack([solution.coefficients for solution in merges.solutions]))
    draws = store.TensorFile(tmp_path / "draws.safetensors")
    assert all(torch.equal(draws[task], indices) for task, indices in merges.draws.items())
    losses = (tmp_path / "losses.csv").read_text().splitlines()
    assert losses == ["seed,step,loss", "0,0,2", "0,1,0.333333", "7,0,4", "7,1,0.5"]


def test_every_seed_has_its_own_model(suite: SuiteFolder, tmp_path: Path):
    merges = make_merges(suite)
    storage.save(merges, tmp_path)
    for index in range(2):
        (served,) = storage.load_models(suite, tmp_path, index)
        weights = served.weights
        for group, name in enumerate(suite.suite.groups):
            base = suite.base()[name].double()
            deltas = [suite.expert(task)[name].double() - base for task in suite.suite.task_names]
            column = merges.solutions[index].coefficients[:, group].double()
            expected = base + sum(weight * delta for weight, delta in zip(column, deltas, strict=True))
            torch.testing.assert_close(weights[name], expected.float(), rtol=0, atol=1e-6)


def test_the_same_merge_gives_the_same_bytes(suite: SuiteFolder, tmp_path: Path):
    for folder in ("one", "two"):
        storage.save(make_merges(suite), tmp_path / folder)
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == ["coefficients.safetensors", "draws.safetensors", "losses.csv", "merge.json"]
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in names)


def test_coefficients_that_are_not_finite_are_refused(suite: SuiteFolder, tmp_path: Path):
    merges = make_merges(suite)
    merges.solutions[1].coefficients[0, 0] = float("nan")
    with pytest.raises(BenchmarkError, match="'coefficients' holds non-finite values"):
        storage.save(merges, tmp_path)
    assert not [*tmp_path.iterdir()]


def test_extras_are_restored(suite: SuiteFolder, tmp_path: Path):
    """Heads, the simplest kind, on top of coefficients for each of two seeds."""
    merges = make_merges(suite)
    noise = torch.Generator().manual_seed(1)
    heads = [{task: torch.randn(t.shape, generator=noise) for task, t in suite.heads().items()} for _ in range(2)]
    extended = [
        replace(solution, extras=Extras("heads", seed_heads))
        for solution, seed_heads in zip(merges.solutions, heads, strict=True)
    ]
    storage.save(replace(merges, solutions=extended), tmp_path)
    assert storage.load(tmp_path)[0]["extras"] == "heads"
    storage.save(merges, tmp_path / "plain")
    for index, seed_heads in enumerate(heads):
        (served,) = storage.load_models(suite, tmp_path, index)
        (plain,) = storage.load_models(suite, tmp_path / "plain", index)
        assert toy.same(dict(served.heads), seed_heads)
        assert toy.same(served.weights, plain.weights)


def test_adapters_correct_the_features_of_their_task(suite: SuiteFolder):
    noise = torch.Generator().manual_seed(2)
    served = Served(suite.suite.encoder(), dict(suite.base()), suite.heads(), suite.suite.task_names)
    tensors = {f"{task}/down": torch.randn(3, 16, generator=noise) for task in served.tasks}
    tensors |= {f"{task}/up": torch.randn(16, 3, generator=noise) for task in served.tasks}
    images = torch.randint(256, (4, 14, 14, 3), generator=noise, dtype=torch.uint8)
    features = served.encoder(served.weights, images)
    models = [*adapters.serve(served, served.weights, tensors)]
    assert [model.tasks for model in models] == [(task,) for task in served.tasks]
    for model in models:
        (task,) = model.tasks
        expected = features - (features @ tensors[f"{task}/down"].T).clamp(min=0) @ tensors[f"{task}/up"].T
        torch.testing.assert_close(model.encoder(model.weights, images), expected)


def test_masks_keep_the_marked_entries(suite: SuiteFolder):
    base = dict(suite.base())
    noise = torch.Generator().manual_seed(3)
    groups = suite.suite.groups
    shared = {name: base[name] + torch.randn(base[name].shape, generator=noise) for name in groups}
    served = Served(suite.suite.encoder(), {**base, **shared}, suite.heads(), suite.suite.task_names)
    marked = {
        f"{task}/{name}": torch.rand(base[name].shape, generator=noise) < 0.5
        for task in served.tasks
        for name in groups
    }
    scales = {f"{task}/scale": torch.tensor(0.5 + index) for index, task in enumerate(served.tasks)}
    tensors = {name: masks.pack_mask(mask) for name, mask in marked.items()} | scales
    models = [*masks.serve(served, base, tensors)]
    assert [model.tasks for model in models] == [(task,) for task in served.tasks]
    for model in models:
        (task,) = model.tasks
        assert torch.equal(model.weights["proj"], base["proj"])
        for name in groups:
            expected = base[name] + scales[f"{task}/scale"] * marked[f"{task}/{name}"] * (shared[name] - base[name])
            torch.testing.assert_close(model.weights[name], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(), (1,), (7,), (8,), (3, 5), (2, 3, 4)])
def test_packed_masks_are_restored(shape: tuple[int, ...]):
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(4)) < 0.5
    assert torch.equal(masks.unpack_mask(masks.pack_mask(mask), mask.shape), mask)
    assert len(masks.pack_mask(mask)) == (mask.numel() + 7) // 8
