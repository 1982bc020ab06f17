"""Rescaling without labels: the best factor of a grid is applied, and nothing else of the merge changes."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy.special import log_softmax

from pipeline.merges import storage
from pipeline.merges.solution import Extras, Solution
from pipeline.merges.storage import Merges
from pipeline.models.suite import SuiteFolder
from pipeline.models.weights import Weights
from pipeline.runtime import store
from pipeline.runtime.errors import BenchmarkError
from pipeline.runtime.resumable import Resumable
from pipeline.runtime.stage import Job
from pipeline.statistics.sampling import sample_indices
from pipeline.steps.refinement import NotRefinable
from pipeline.steps.rescale import Rescale, measure_losses, rescale
from stages import rescale as stage

pytestmark = pytest.mark.usefixtures("one_process")
GRID = Rescale(samples=4, factors=[0.5, 1.0, 2.0, 3.0])
SEEDS = [0, 5]


@pytest.fixture
def teachers(suite: SuiteFolder, tmp_path: Path) -> Path:
    """Logits of the first expert on the training images of every task: a target that one model can reach."""
    return write_teachers(suite, tmp_path / "teachers")


@pytest.fixture
def precise_teachers(precise: SuiteFolder, tmp_path: Path) -> Path:
    """The same in float64."""
    return write_teachers(precise, tmp_path / "precise-teachers")


def write_teachers(suite: SuiteFolder, folder: Path) -> Path:
    """Write a folder with the first expert's logits."""
    ideal = first_expert(suite)
    for task in suite.suite.task_names:
        images = torch.from_numpy(np.array(suite.examples("train", task)))
        with torch.no_grad():
            logits = suite.suite.encoder()(ideal, images) @ suite.heads()[task].T
        store.write_array(folder / f"{task}.npy", logits.numpy())
    return folder


def first_expert(suite: SuiteFolder) -> Weights:
    """Return all weights of the first expert."""
    return {**suite.base(), **suite.expert("cats")}


def towards(suite: SuiteFolder, share: float) -> Solution:
    """Return coefficients of the merge at `share` of the way from the base to the first expert."""
    coefficients = torch.zeros(3, len(suite.suite.groups), dtype=torch.float64)
    coefficients[0] = share
    return Solution(coefficients)


def as_delta(suite: SuiteFolder, share: float) -> Solution:
    """Return the same merge as a delta."""
    base, full = suite.base(), first_expert(suite)
    return Solution(delta={name: share * (full[name] - base[name]) for name in suite.suite.groups})


def save_artefact(
    suite: SuiteFolder, folder: Path, *solutions: Solution, seeds: tuple[int | None, ...] = (None,)
) -> Path:
    """Save these solutions, with six images per task if there are seeds, and return the folder."""
    samples = dict.fromkeys(suite.suite.task_names, 0 if seeds == (None,) else 6)
    storage.save(Merges(seeds, samples, suite.suite.groups, solutions), folder)
    return folder


def weights_of(suite: SuiteFolder, artefact: Path, index: int = 0) -> Weights:
    """Return the weights of an artefact's only model."""
    (served,) = storage.load_models(suite, artefact, index)
    return dict(served.weights)


@pytest.mark.parametrize("form", [towards, as_delta])
def test_the_factor_that_restores_the_expert_is_found(
    precise: SuiteFolder, precise_teachers: Path, tmp_path: Path, form
):
    artefact = save_artefact(precise, tmp_path / "half", form(precise, 0.5))
    merges, rows = rescale(precise.folder, precise_teachers, artefact, "train", SEEDS, GRID)
    assert [(seed, factor) for seed, factor, _, chosen, _ in rows if chosen] == [(0, 2.0), (5, 2.0)]
    assert all((float(loss) < 1e-6) == (factor == 2.0) for _, factor, loss, _, _ in rows)
    storage.save(merges, tmp_path / "rescaled")
    for index in range(2):
        for name, weight in weights_of(precise, tmp_path / "rescaled", index).items():
            torch.testing.assert_close(weight, first_expert(precise)[name], rtol=0, atol=1e-14)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_the_loss_is_the_divergence_from_the_experts_summed_over_tasks(
    precise: SuiteFolder, precise_teachers: Path, tmp_path: Path, temperature: float
):
    artefact = save_artefact(precise, tmp_path / "half", towards(precise, 0.5))
    params = GRID.model_copy(update={"temperature": temperature})
    losses = measure_losses(precise.folder, precise_teachers, artefact, 0, 5, "train", params)
    base, full = dict(precise.base()), first_expert(precise)
    for factor, loss in zip(GRID.factors, losses, strict=True):
        expected = 0.0
        model = {name: base[name] + factor * 0.5 * (full[name] - base[name]) for name in base}
        for task in precise.suite.task_names:
            indices = sample_indices(12, 4, 5, task)
            images = torch.from_numpy(np.array(precise.examples("train", task)))[indices]
            merged = (precise.suite.encoder()(model, images) @ precise.heads()[task].T).numpy()
            teacher = store.read_array(precise_teachers / f"{task}.npy")[indices.numpy()]
            p, q = (log_softmax(logits / temperature, axis=1) for logits in (teacher, merged))
            expected += (np.exp(p) * (p - q)).sum(1).mean()
        assert loss == pytest.approx(expected, abs=1e-12)


def test_every_delta_of_a_calibrated_method_gets_a_factor_of_its_own(
    suite: SuiteFolder, teachers: Path, tmp_path: Path
):
    shares = {3: 0.5, 8: 1.0, 9: 2.0}
    starts = [as_delta(suite, share) for share in shares.values()]
    merges, rows = rescale(
        suite.folder, teachers, save_artefact(suite, tmp_path, *starts, seeds=(*shares,)), "train", SEEDS, GRID
    )
    factors = {seed: factor for seed, factor, _, chosen, _ in rows if chosen}
    assert factors == {seed: 1 / share for seed, share in shares.items()}
    assert merges.seeds == (3, 8, 9)
    assert {*merges.samples.values()} == {6}
    for solution in merges.solutions:
        for name, change in as_delta(suite, 1.0).delta.items():
            torch.testing.assert_close(solution.delta[name], change, rtol=0, atol=1e-6)


def test_every_seed_keeps_its_own_merge_and_factor(suite: SuiteFolder, teachers: Path, tmp_path: Path):
    artefact = save_artefact(suite, tmp_path / "two", towards(suite, 0.5), towards(suite, 1.0), seeds=(3, 8))
    merges, rows = rescale(suite.folder, teachers, artefact, "train", SEEDS, GRID)
    assert merges.seeds == (3, 8)
    assert [(seed, factor) for seed, factor, _, chosen, _ in rows if chosen] == [(3, 2.0), (8, 1.0)]
    for solution in merges.solutions:
        assert torch.equal(solution.coefficients, towards(suite, 1.0).coefficients)
        assert solution.coefficients.dtype == torch.float64


def test_the_larger_number_of_images_is_counted(suite: SuiteFolder, teachers: Path, tmp_path: Path):
    none = save_artefact(suite, tmp_path / "none", towards(suite, 0.5))
    more = save_artefact(suite, tmp_path / "more", towards(suite, 0.5), towards(suite, 0.5), seeds=(0, 5))
    for artefact, used in ((none, 4), (more, 6)):
        merges, _ = rescale(suite.folder, teachers, artefact, "train", SEEDS, GRID)
        assert merges.samples == dict.fromkeys(suite.suite.task_names, used)
        for task, indices in merges.draws.items():
            assert torch.equal(indices, torch.stack([sample_indices(12, used, seed, task) for seed in SEEDS]))


def test_an_end_of_the_grid_is_marked(suite: SuiteFolder, teachers: Path, tmp_path: Path):
    artefact = save_artefact(suite, tmp_path / "half", towards(suite, 0.5))
    _, rows = rescale(suite.folder, teachers, artefact, "train", [0], Rescale(samples=4, factors=[1.2, 0.5, 0.9]))
    assert [(factor, chosen, edge) for _, factor, _, chosen, edge in rows] == [(1.2, 1, 1), (0.5, 0, 1), (0.9, 0, 0)]


def test_the_stage_writes_every_loss_next_to_the_merge(suite: SuiteFolder, teachers: Path, tmp_path: Path):
    artefact, written = save_artefact(suite, tmp_path / "half", towards(suite, 0.5)), tmp_path / "half-rescaled"
    params = {"calibration_split": "train", "seeds": SEEDS, "rescale": GRID}
    stage.run(Job({}, params, (suite.folder, teachers, artefact), (written,), Resumable(tmp_path)))
    names = ["coefficients.safetensors", "draws.safetensors", "merge.json", "rescale.csv"]
    assert sorted(path.name for path in written.iterdir()) == names
    header, *rows = (line.split(",") for line in (written / "rescale.csv").read_text().splitlines())
    assert header == ["seed", "factor", "loss", "chosen", "edge"]
    losses = measure_losses(suite.folder, teachers, artefact, 0, 5, "train", GRID)
    assert rows[4:] == [
        ["5", str(factor), f"{loss:.6g}", str(int(factor == 2.0)), str(int(factor in {0.5, 3.0}))]
        for factor, loss in zip(GRID.factors, losses, strict=True)
    ]
    assert storage.load(written)[0]["extras"] is None


def test_labels_and_test_images_are_not_used(suite: SuiteFolder, teachers: Path, tmp_path: Path):
    artefact = save_artefact(suite, tmp_path / "half", towards(suite, 0.5))
    expected = measure_losses(suite.folder, teachers, artefact, 0, 0, "train", GRID)
    altered = shutil.copytree(suite.folder, tmp_path / "other")
    for task in suite.suite.task_names:
        store.write_array(altered / "images" / "test" / f"{task}.npy", 255 - suite.examples("test", task))
        for split in ("train", "validation", "test"):
            store.write_array(altered / "labels" / split / f"{task}.npy", np.zeros_like(suite.labels(split, task)))
    assert measure_losses(altered, teachers, artefact, 0, 0, "train", GRID) == expected
    assert measure_losses(altered, teachers, artefact, 0, 1, "train", GRID) != expected


def test_one_model_per_task_is_refused(suite: SuiteFolder, teachers: Path, tmp_path: Path):
    artefact = save_artefact(suite, tmp_path / "each", Solution(torch.rand(3, 3, len(suite.suite.groups))))
    with pytest.raises(NotRefinable, match=r"each: the merge has one model per task.*methods\.rescale"):
        rescale(suite.folder, teachers, artefact, "train", SEEDS, GRID)


def test_a_merge_with_extras_is_refused(suite: SuiteFolder, teachers: Path, tmp_path: Path):
    solution = Solution(towards(suite, 1.0).coefficients, extras=Extras("heads", dict(suite.heads())))
    artefact = save_artefact(suite, tmp_path / "own-heads", solution)
    with pytest.raises(NotRefinable, match="own-heads: the merge needs 'heads' at inference"):
        rescale(suite.folder, teachers, artefact, "train", SEEDS, GRID)


def test_a_loss_that_is_not_finite_is_refused(suite: SuiteFolder, teachers: Path, tmp_path: Path):
    artefact = save_artefact(suite, tmp_path / "half", towards(suite, 0.5))
    with pytest.raises(BenchmarkError, match=r"half: the loss at rescale\.factors = 1e\+38 is nan"):
        measure_losses(suite.folder, teachers, artefact, 0, 0, "train", Rescale(samples=4, factors=[1.0, 1e38]))


def test_factors_are_positive_and_differ():
    for factors in ([], [0.0], [-1.0], [1.0, 1.0]):
        with pytest.raises(ValidationError):
            Rescale(factors=factors)
