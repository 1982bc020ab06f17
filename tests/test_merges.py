"""The artefact of a merge: what is written comes back, and stands for the right models."""

from pathlib import Path

import pytest
import torch

from pipeline import merges, methods, store
from pipeline.errors import BenchmarkError
from pipeline.merges import Merges
from pipeline.suite import SuiteFolder
from tests import toy


@pytest.fixture
def suite(pristine_suite: Path) -> SuiteFolder:
    """The tiny suite, opened."""
    return SuiteFolder(pristine_suite)


def written(name: str, suite: SuiteFolder, folder: Path) -> Path:
    """The artefact of a data-free method with its defaults."""
    module = methods.load(name)
    merges.save(merges.data_free(module.merge(suite.vectors(), module.Params()), suite.suite), folder)
    return folder


def calibrated(suite: SuiteFolder) -> Merges:
    """What a calibrated method would give for two seeds."""
    rng = torch.Generator().manual_seed(0)
    tasks, groups = suite.suite.task_names, suite.suite.groups
    return Merges(
        seeds=(0, 7),
        samples=dict.fromkeys(tasks, 4),
        groups=groups,
        coefficients=torch.randn(2, 1, len(tasks), len(groups), generator=rng),
        losses=torch.tensor([[2.0, 1.0 / 3.0], [4.0, 0.5]]),
        draws={task: torch.tensor([[0, 1, 2, 3], [4, 5, 6, 7]]) for task in tasks},
    )


def test_zeroshot_stands_for_the_base(suite: SuiteFolder, tmp_path: Path):
    ((weights, tasks),) = merges.models(suite, written("zeroshot", suite, tmp_path), 0)
    assert tasks == suite.suite.task_names
    assert toy.same(weights, dict(suite.base()))


def test_individual_stands_for_every_expert_on_its_own_task(suite: SuiteFolder, tmp_path: Path):
    found = [*merges.models(suite, written("individual", suite, tmp_path), 0)]
    assert [tasks for _, tasks in found] == [(task,) for task in suite.suite.task_names]
    for weights, (task,) in found:
        expert = suite.expert(task)
        assert torch.equal(weights["proj"], suite.base()["proj"])
        assert all(torch.equal(weights[name], expert[name]) for name in suite.suite.groups)


def test_a_delta_is_added_to_the_base(suite: SuiteFolder, tmp_path: Path):
    folder = written("ties", suite, tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == ["delta-0.safetensors", "merge.json"]
    module = methods.load("ties")
    delta, base = module.merge(suite.vectors(), module.Params()), suite.base()
    ((weights, tasks),) = merges.models(suite, folder, 0)
    assert tasks == suite.suite.task_names
    assert {*weights} == {*base}
    assert all(torch.equal(weights[name], base[name] + delta[name]) for name in delta)
    assert torch.equal(weights["proj"], base["proj"])


def test_a_calibrated_artefact_comes_back(suite: SuiteFolder, tmp_path: Path):
    given = calibrated(suite)
    merges.save(given, tmp_path)
    about, coefficients = merges.load(tmp_path)
    assert about["form"] == "coefficients"
    assert about["seeds"] == [0, 7]
    assert about["samples"] == given.samples
    assert tuple(about["tasks"]) == suite.suite.task_names
    assert tuple(about["groups"]) == suite.suite.groups
    assert torch.equal(coefficients, given.coefficients)
    draws = store.TensorFile(tmp_path / "draws.safetensors")
    assert all(torch.equal(draws[task], chosen) for task, chosen in given.draws.items())
    losses = (tmp_path / "losses.csv").read_text().splitlines()
    assert losses == ["seed,step,loss", "0,0,2", "0,1,0.333333", "7,0,4", "7,1,0.5"]


def test_every_seed_has_its_own_model(suite: SuiteFolder, tmp_path: Path):
    given = calibrated(suite)
    merges.save(given, tmp_path)
    for index in range(2):
        ((weights, _),) = merges.models(suite, tmp_path, index)
        for group, name in enumerate(suite.suite.groups):
            base = suite.base()[name].double()
            deltas = [suite.expert(task)[name].double() - base for task in suite.suite.task_names]
            column = given.coefficients[index, 0, :, group].double()
            expected = base + sum(weight * delta for weight, delta in zip(column, deltas, strict=True))
            torch.testing.assert_close(weights[name], expected.float(), rtol=0, atol=1e-6)


def test_the_same_merge_gives_the_same_bytes(suite: SuiteFolder, tmp_path: Path):
    for folder in ("one", "two"):
        merges.save(calibrated(suite), tmp_path / folder)
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == ["coefficients.safetensors", "draws.safetensors", "losses.csv", "merge.json"]
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in names)


def test_coefficients_that_are_not_finite_are_refused(suite: SuiteFolder, tmp_path: Path):
    given = calibrated(suite)
    given.coefficients[1, 0, 0, 0] = float("nan")
    with pytest.raises(BenchmarkError, match="'coefficients' holds non-finite values"):
        merges.save(given, tmp_path)
    assert not [*tmp_path.iterdir()]
