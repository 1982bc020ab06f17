"""The landscape study: planes keep distances, losses are those of merged models, sharpness that of a dense Hessian."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import log_softmax
from torch import Tensor

from pipeline.calibration.objectives import distillation
from pipeline.merges import storage
from pipeline.merges.solution import Solution
from pipeline.merges.storage import Merges
from pipeline.models.suite import SuiteFolder
from pipeline.models.task_vectors import merge
from pipeline.report.figures import render_figure
from pipeline.report.studies import Context
from pipeline.report.studies.landscape import compute_rises, view
from pipeline.runtime import store
from pipeline.runtime.errors import BenchmarkError
from pipeline.runtime.resumable import Resumable
from pipeline.runtime.stage import Job
from pipeline.statistics.sampling import sample_indices
from pipeline.studies._landscape import (
    Degenerate,
    End,
    Place,
    axes,
    coordinates,
    estimate_spectrum,
    load_place,
    solve_shares,
)
from pipeline.studies.landscape import COEFFICIENT_METHODS, Params, map_landscape
from stages.studies import landscape as stage
from tests.support import toy
from tests.support.precision import roundings, tolerance

SEEDS = [0, 5]
PRINTED = 5e-6
"""Relative rounding of six digits."""
PARAMS = Params(
    images=4, pairs=[["distillation", "samerging"]], tasks=[[0, 1]], points=5, sharpness_images=4,
    coefficients=[0.1, 0.3], weights=[0.1], ascent_steps=3, directions=2, tolerance=1e-3, signs=3,
)  # fmt: skip


def random_coefficients(shape: tuple[int, int], name: str, seed: int) -> Tensor:
    """Draw coefficients in place of the solution of a method."""
    rng = torch.Generator().manual_seed(100 * COEFFICIENT_METHODS.index(name) + seed)
    return 0.3 + 0.1 * torch.randn(shape, generator=rng)


def has_gradient(suite: Path) -> Tensor:
    """Mark the coefficients that have a gradient [G]; no loss depends on the others."""
    return torch.tensor([not name.endswith("attn.k.bias") for name in SuiteFolder(suite).suite.groups])


@pytest.fixture(scope="module")
def artefacts(pristine_suite: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Write a merge for every method of the study, task arithmetic without a seed."""
    folder, suite = tmp_path_factory.mktemp("merges"), SuiteFolder(pristine_suite).suite
    for name in COEFFICIENT_METHODS:
        seeds = (None,) if name == "task_arithmetic" else tuple(SEEDS)
        solutions = [Solution(random_coefficients((3, len(suite.groups)), name, seed or 0)) for seed in seeds]
        storage.save(Merges(seeds, dict.fromkeys(suite.task_names, 4), suite.groups, solutions), folder / name)
    return {name: folder / name for name in COEFFICIENT_METHODS}


@pytest.fixture(scope="module")
def job(pristine_suite: Path, artefacts: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Job:
    """Run the stage."""
    folder = tmp_path_factory.mktemp("job")
    params = dict(zip(stage.SCOPE, (SEEDS, "train", 2.0, PARAMS), strict=True))
    inputs = (pristine_suite, *artefacts.values())
    landscape_job = Job({"suite": "tiny"}, params, inputs, (folder / "landscape",), Resumable(folder / "cells"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAMERGING_WORKERS", "1")
        stage.run(landscape_job)
    return landscape_job


@pytest.fixture
def tables(job: Job) -> dict[str, pd.DataFrame]:
    """Tables that the stage wrote."""
    return {path.stem: pd.read_csv(path, keep_default_na=False) for path in job.outputs[0].glob("*.csv")}


def held_out_solutions(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The solutions on held-out examples, by method, seed and task."""
    solutions = tables["solutions"]
    return solutions[solutions.split == "validation"].set_index(["method", "seed", "task"]).sort_index()


def evaluate_by_hand(
    suite: SuiteFolder, artefact: Path, index: int, seed: int, split: str
) -> dict[str, tuple[float, int]]:
    """Compute {task: (divergence, correct)} on four examples with NumPy and the served models."""
    (model,), results = storage.load_models(suite, artefact, index), {}
    for task in suite.suite.task_names:
        indices = sample_indices(len(suite.examples(split, task)), 4, seed, task).numpy()
        examples = torch.from_numpy(suite.examples(split, task)[indices])
        expert, head = {**suite.base(), **suite.expert(task)}, suite.heads()[task]
        with torch.no_grad():
            teacher, merged = ((model.encoder(w, examples) @ head.T).double().numpy() for w in (expert, model.weights))
        p, q = (log_softmax(logits / 2, axis=1) for logits in (teacher, merged))
        right = int((merged.argmax(1) == suite.labels(split, task)[indices]).sum())
        results[task] = (float((np.exp(p) * (p - q)).sum(1).mean()), right)
    return results


def loss_tolerance(suite: SuiteFolder, task: str) -> float:
    """Bound the difference of two float32 results of a task's loss.

    A divergence changes by at most 2 / temperature = 1 times the change of the logits, and these by at most the
    change of a feature of unit length times the length of the head's rows.
    """
    return tolerance(torch.float32, roundings(toy.CLIP), float(suite.heads()[task].norm(dim=1).max()))


@pytest.mark.parametrize("split", ["train", "validation"])
def test_solutions_have_the_loss_and_accuracy_of_the_served_models(
    tables: Mapping[str, pd.DataFrame], pristine_suite: Path, artefacts: Mapping[str, Path], split: str
):
    solutions = tables["solutions"].set_index(["method", "seed", "split", "task"])
    assert len(solutions) == 4 * 2 * 2 * 3
    for name, index, seed in (("samerging", 1, 5), ("task_arithmetic", 0, 5), ("distillation", 0, 0)):
        for task, (loss, right) in evaluate_by_hand(
            SuiteFolder(pristine_suite), artefacts[name], index, seed, split
        ).items():
            row = solutions.loc[name, seed, split, task]
            assert row.loss == pytest.approx(loss, rel=PRINTED, abs=loss_tolerance(SuiteFolder(pristine_suite), task))
            assert (row.correct, row.total) == (right, 4)


def test_segments_end_at_the_two_solutions(tables: Mapping[str, pd.DataFrame]):
    solutions = held_out_solutions(tables)
    segments = tables["segments"]
    assert sorted(segments.share.unique()) == [-0.5, 0, 0.5, 1, 1.5]
    for share, name in ((0, "distillation"), (1, "samerging")):
        ends = segments[segments.share == share].set_index(["seed", "task"])
        for seed in SEEDS:
            assert ends.loc[seed].loss.to_dict() == pytest.approx(solutions.loc[name, seed].loss.to_dict(), rel=1e-4)


def test_a_task_vector_alone_gives_its_expert(tables: Mapping[str, pd.DataFrame]):
    planes = tables["planes"][tables["planes"].kind == "tasks"]
    assert len(planes) == 5 * 5 * 2 and set(planes.plane) == {"cats-dogs"}
    losses = planes.set_index(["x", "y", "task"]).loss
    limit = tolerance(torch.float32, 3, 10)  # up to three classes, their log-probabilities up to 10 in size
    assert losses[1, 0, "cats"] == pytest.approx(0, abs=limit)
    assert losses[0, 1, "dogs"] == pytest.approx(0, abs=limit)
    assert min(losses[0, 0, "cats"], losses[0, 1, "cats"], losses[1, 1, "cats"]) > 1e-4


def test_planes_are_complete_and_their_points_keep_distances(
    tables: Mapping[str, pd.DataFrame], pristine_suite: Path, artefacts: Mapping[str, Path]
):
    planes = tables["planes"][tables["planes"].kind == "solutions"]
    assert len(planes) == 5 * 5 * 3 and planes.groupby(["x", "y"]).ngroups == 25
    points = tables["points"].set_index(["plane", "point"]).loc["distillation-samerging"]
    moving = has_gradient(pristine_suite)
    first, second = (storage.load(artefacts[name])[1][0, 0][:, moving] for name in ("distillation", "samerging"))
    between, away = (
        np.hypot(*(points.loc["samerging"] - points.loc["distillation"])),
        np.hypot(*points.loc["samerging"]),
    )
    assert (between, away) == pytest.approx((float((first - second).norm()), float(second.norm())), rel=1e-4)


def test_shares_invert_coordinates():
    first, second = torch.tensor([[3.0, 0], [4, 0]]), torch.tensor([[1.0, 2], [2, 0]])
    corners = coordinates(first, second)
    torch.testing.assert_close(corners, torch.tensor([[0, 0], [5, 0], [2.2, (9 - 2.2**2) ** 0.5]], dtype=torch.float64))
    torch.testing.assert_close(
        solve_shares(corners, corners), torch.tensor([[0.0, 0], [1, 0], [0, 1]], dtype=torch.float64)
    )
    point = torch.tensor([[1.5, -2.0]])
    ((a, b),) = solve_shares(corners, point).tolist()
    assert float((a * first + b * second).norm()) == pytest.approx(2.5)


def test_axes_make_a_square_around_all_points():
    xs, ys = axes(torch.tensor([[0.0, 0], [4, 0], [1, 2]]), 3)
    assert xs == [-1, 2, 5]
    assert ys == [-2, 1, 4]


def test_solutions_on_a_line_span_no_plane():
    with pytest.raises(Degenerate, match=r"adamerging and samerging lie on a line.*study\.landscape\.pairs"):
        coordinates(torch.ones(2, 3), 2 * torch.ones(2, 3), ("adamerging", "samerging"))


@pytest.mark.parametrize("pair", [[0, 3], [-1, 0], [1, 1]])
def test_tasks_that_do_not_exist_are_refused_before_any_work(
    pristine_suite: Path, artefacts: dict[str, Path], tmp_path: Path, pair: list[int]
):
    params = PARAMS.model_copy(update={"tasks": [pair]})
    with pytest.raises(BenchmarkError, match=r"study\.landscape\.tasks.*from 0 to 2"):
        map_landscape(pristine_suite, artefacts, SEEDS, "train", 2.0, params, Resumable(tmp_path))
    assert not any(tmp_path.iterdir())


def test_rises_start_at_the_solution_and_the_worst_is_positive(tables: Mapping[str, pd.DataFrame]):
    solutions = held_out_solutions(tables)
    rises = tables["rises"]
    for key, part in rises[rises.radius == 0].groupby(["method", "seed"]):
        for _, group in part.groupby(["space", "direction"]):
            losses = group.set_index("task").loss.to_dict()
            assert losses == pytest.approx(solutions.loc[key].loss.to_dict(), rel=1e-4)
    relative = compute_rises(rises)
    sums = relative.groupby(["method", "seed", "space", "direction", "radius"]).rise.sum()
    assert len(sums) == 4 * 2 * 2 * (2 + 1)
    worst, random = (sums.xs(direction, level="direction") for direction in ("worst", "random"))
    assert (worst > 0).all()
    assert (worst > random).all()  # in 27 dimensions and more, a random direction is far from the worst
    wide, narrow = (worst.xs("coefficients", level="space").xs(radius, level="radius") for radius in (0.3, 0.1))
    assert (wide > narrow).all()


def test_the_spectrum_agrees_with_the_dense_hessian(pristine_suite: Path, artefacts: Mapping[str, Path]):
    place = Place(pristine_suite, "validation", 3, 0, 2.0)
    spectrum = estimate_spectrum(place, End(artefacts["samerging"], 0), 1e-4, 20)
    problem, _ = load_place(place)
    moving = has_gradient(pristine_suite)
    point = random_coefficients((3, len(moving)), "samerging", 0)[:, moving].double()
    base, vectors = (
        {name: tensor.double() for name, tensor in tensors.items()} for tensors in (problem.base, problem.vectors)
    )

    def loss(flat: Tensor) -> Tensor:
        weights = merge(base, vectors, flat.view_as(point))
        parts = zip(problem.examples, problem.heads, problem.teachers, strict=True)
        return sum(
            distillation(2.0)(problem.encoder(weights, pool) @ head.double().T, targets.double())
            for pool, head, targets in parts
        )

    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        dense = torch.autograd.functional.hessian(loss, point.flatten())
    assert sum(spectrum["eigenvalue"]) == pytest.approx(float(torch.linalg.eigvalsh(dense)[-1]), rel=1e-3)
    assert abs(sum(spectrum["trace"]) - float(dense.trace())) < 4 * spectrum["error"][0]


def context(suite: SuiteFolder) -> Context:
    """Context of the report on the tiny suite."""
    tasks, titles = suite.suite.task_names, {name: name.replace("_", " ").capitalize() for name in COEFFICIENT_METHODS}
    return Context("tiny", tasks, titles, 30.0, 90.0, dict.fromkeys(tasks, 90.0), "train", "test", {}, 6.5, 1)


def test_the_view_states_the_difference_in_flatness_with_an_interval(
    tables: Mapping[str, pd.DataFrame], pristine_suite: Path
):
    study_view = view(tables, context(SuiteFolder(pristine_suite)))
    assert [*study_view.figures] == ["planes", "vectors", "segments", "rises"]
    assert all(
        render_figure(drawn.figure, "svg", "x", 100).startswith(b"<?xml") for drawn in study_view.figures.values()
    )
    curvature = tables["curvature"]
    traces = curvature[curvature.measure == "trace"].groupby(["method", "seed"]).value.sum().groupby("method").mean()
    (sentence,) = [text for text in study_view.sentences if text.startswith("Hessian trace")]
    assert (
        f"({traces['distillation']:.4g}): {traces['samerging'] - traces['distillation']:+.3g}, 95 % interval ["
        in sentence
    )
    assert sentence.endswith("(n = 2 seeds, 3 tasks).")
    assert "which calibration did not see" in study_view.figures["planes"].caption
    table = study_view.tables["sharpness"].rows
    assert list(table.method) == ["Adamerging", "Distillation", "Samerging", "Task arithmetic"]


def test_a_second_run_writes_the_same_bytes_from_stored_pieces(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SAMERGING_WORKERS", "1")
    second = Job(job.names, job.params, job.inputs, (tmp_path / "landscape",), job.work)
    times = {path: path.stat().st_mtime_ns for path in job.work.folder.iterdir()}
    stage.run(second)
    assert {path: path.stat().st_mtime_ns for path in job.work.folder.iterdir()} == times
    for path in job.outputs[0].iterdir():
        assert store.read_text(tmp_path / "landscape" / path.name) == store.read_text(path)
