"""SVC: the identities of its formula, an oracle direction by direction, and what the stage keeps of a merge."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.merges import storage
from pipeline.merges.solution import Extras, Solution
from pipeline.merges.storage import Merges
from pipeline.models.suite import SuiteFolder
from pipeline.runtime.resumable import Resumable
from pipeline.runtime.stage import Job
from pipeline.steps.refinement import NotRefinable
from pipeline.steps.svc import Calibration, calibrate_matrix, calibrate_merges
from pipeline.toolbox.spectra import is_matrix
from stages import svc as stage
from tests.support import toy

TASKS = 3


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Draw Gaussian numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def save(suite: SuiteFolder, folder: Path, *solutions: Solution, seeds: tuple[int | None, ...] = (None,)) -> Path:
    """Save a merge and return its folder."""
    storage.save(Merges(seeds, dict.fromkeys(suite.suite.task_names, 0), suite.suite.groups, solutions), folder)
    return folder


def coefficients(suite: SuiteFolder, value: float = 0.3) -> Tensor:
    """The coefficients of task arithmetic."""
    return torch.full((TASKS, len(suite.suite.groups)), value, dtype=torch.float64)


@pytest.mark.parametrize("shape", [(5, 8), (8, 5), (6, 6)])
@pytest.mark.parametrize("alpha", [0.05, 1 / TASKS, 1.0])
def test_a_matrix_is_calibrated_direction_by_direction(shape: tuple[int, int], alpha: float):
    experts = draw(TASKS, *shape)
    merged = 0.3 * experts.sum(0) + 0.1 * draw(*shape, seed=1)
    left, values, right = np.linalg.svd(merged.numpy(), full_matrices=False)
    expected = np.zeros(shape)
    for direction, value, row in zip(left.T, values, right, strict=True):
        along = direction @ merged.numpy()
        shares = []
        for expert in experts.numpy():
            component = direction @ expert
            shares.append(max(alpha, along @ component / max(component @ component, 1e-12)))
        expected += value / np.mean(shares) * np.outer(direction, row)
    torch.testing.assert_close(calibrate_matrix(merged, experts, alpha).numpy(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("scale", [0.4, 1.0, 3.0])
def test_the_sum_of_equal_experts_is_one_expert(scale: float):
    expert = draw(5, 7)
    calibrated = calibrate_matrix(scale * TASKS * expert, expert.expand(TASKS, 5, 7), 1 / TASKS)
    torch.testing.assert_close(calibrated, expert, rtol=0, atol=1e-12)


def test_of_one_task_the_scale_is_taken_back():
    expert = draw(5, 7)
    for scale in (1.0, 2.5):
        torch.testing.assert_close(calibrate_matrix(scale * expert, expert[None], 1.0), expert, rtol=0, atol=1e-12)


def test_without_a_limit_the_scale_of_the_merge_does_not_matter():
    experts = draw(TASKS, 6, 9)
    small, large = (calibrate_matrix(scale * experts.sum(0), experts, 1e-12) for scale in (0.1, 1.0))
    torch.testing.assert_close(small, large, rtol=0, atol=1e-9)
    limited = calibrate_matrix(0.1 * experts.sum(0), experts, 1 / TASKS)
    assert limited.norm() < 0.9 * calibrate_matrix(experts.sum(0), experts, 1 / TASKS).norm()


def test_with_a_limit_of_one_every_direction_shrinks_or_stays():
    experts = draw(TASKS, 6, 9) + 2 * draw(6, 9, seed=4)
    merged = experts.sum(0)
    before, after = (torch.linalg.svdvals(matrix) for matrix in (merged, calibrate_matrix(merged, experts, 1.0)))
    assert (after <= before + 1e-12).all()
    assert after.sum() < 0.9 * before.sum()


def test_experts_in_orthogonal_row_spaces_do_not_accumulate():
    experts = torch.zeros(TASKS, 4, 12, dtype=torch.float64)
    for task in range(TASKS):
        experts[task, :, 4 * task : 4 * task + 4] = draw(4, 4, seed=task)
    merged = experts.sum(0)
    torch.testing.assert_close(calibrate_matrix(merged, experts, 1 / TASKS), merged, rtol=0, atol=1e-12)


def test_only_matrices_of_the_blocks_change(suite: SuiteFolder, tmp_path: Path):
    matrix, vectors = coefficients(suite), suite.vectors()
    (solution,) = calibrate_merges(
        suite.folder, save(suite, tmp_path, Solution(matrix)), "ties", Calibration()
    ).solutions
    for name in vectors:
        delta = torch.tensordot(matrix[:, 0].float(), vectors[name], dims=1)
        expected = calibrate_matrix(delta, vectors[name], 1 / TASKS) if is_matrix(name) else delta
        torch.testing.assert_close(solution.delta[name], expected, rtol=0, atol=1e-6)
        assert torch.equal(solution.delta[name], delta) != is_matrix(name)


def test_a_merge_given_by_its_delta_is_calibrated_alike(suite: SuiteFolder, tmp_path: Path):
    matrix, vectors = coefficients(suite), suite.vectors()
    delta = {name: torch.tensordot(matrix[:, 0].float(), vectors[name], dims=1) for name in vectors}
    forms = {"coefficients": Solution(matrix), "delta": Solution(delta=delta)}
    folders = [save(suite, tmp_path / name, solution) for name, solution in forms.items()]
    (first,), (second,) = (calibrate_merges(suite.folder, path, "ties", Calibration()).solutions for path in folders)
    assert toy.same(first.delta, second.delta)


def test_alpha_is_that_of_the_method(suite: SuiteFolder, tmp_path: Path):
    artefact = save(suite, tmp_path, Solution(coefficients(suite)))

    def calibrated(method: str, **alpha: float) -> dict[str, Tensor]:
        (solution,) = calibrate_merges(suite.folder, artefact, method, Calibration(alpha=alpha)).solutions
        return dict(solution.delta)

    assert toy.same(calibrated("ties"), calibrated("ties", ties=1 / TASKS, dare=0.7))
    assert not toy.same(calibrated("ties"), calibrated("ties", ties=0.7))
    (published,) = calibrate_merges(suite.folder, artefact, "tsv_m", Calibration()).solutions
    assert toy.same(published.delta, calibrated("ties", ties=1.0))


def test_the_stage_keeps_seeds_and_sees_no_examples(suite: SuiteFolder, tmp_path: Path):
    solutions = [Solution(coefficients(suite, value)) for value in (0.3, 0.6)]
    artefact, written = save(suite, tmp_path / "two", *solutions, seeds=(3, 8)), tmp_path / "two-svc"
    job = Job({"method": "two"}, {"svc": Calibration()}, (suite.folder, artefact), (written,), Resumable(tmp_path))
    stage.run(job)
    record, _ = storage.load(written)
    assert record["seeds"] == [3, 8]
    assert {*record["samples"].values()} == {0}
    assert sorted(path.name for path in written.iterdir()) == [
        "delta-0.safetensors",
        "delta-1.safetensors",
        "merge.json",
    ]
    without = calibrate_merges(suite.folder, save(suite, tmp_path / "once", solutions[0]), "once", Calibration())
    assert without.seeds == (None,)


def test_models_per_task_and_extras_are_refused(suite: SuiteFolder, tmp_path: Path):
    each = save(suite, tmp_path / "each", Solution(torch.rand(TASKS, TASKS, len(suite.suite.groups))))
    with pytest.raises(NotRefinable, match=r"each: the merge has one model per task.*methods\.svc"):
        calibrate_merges(suite.folder, each, "each", Calibration())
    tuned = save(suite, tmp_path / "tuned", Solution(coefficients(suite), extras=Extras("heads", dict(suite.heads()))))
    with pytest.raises(NotRefinable, match="tuned: the merge needs 'heads' at inference"):
        calibrate_merges(suite.folder, tuned, "tuned", Calibration())
