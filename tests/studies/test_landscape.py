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
from pipeline.models.sampling import sample_indices
from pipeline.models.suite import SuiteFolder
from pipeline.models.task_vectors import merge
from pipeline.report.figures import render_figure
from pipeline.report.studies import Context
from pipeline.report.studies.landscape import compute_rises, view
from pipeline.runtime import store
from pipeline.runtime.errors import BenchmarkError
from pipeline.runtime.resumable import Resumable
from pipeline.runtime.stage import Job
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


def solved(shape: tuple[int, int], name: str, seed: int) -> Tensor:
    """Coefficients that stand for the solution of a method."""
    rng = torch.Generator().manual_seed(100 * COEFFICIENT_METHODS.index(name) + seed)
    return 0.3 + 0.1 * torch.randn(shape, generator=rng)


def with_gradient(suite: Path) -> Tensor:
    """Which coefficients have a gradient [G]: no loss depends on the others."""
    return torch.tensor([not name.endswith("attn.k.bias") for name in SuiteFolder(suite).suite.groups])


@pytest.fixture(scope="module")
def artefacts(pristine_suite: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A merge for every method of the study, task arithmetic without a seed."""
    folder, suite = tmp_path_factory.mktemp("merges"), SuiteFolder(pristine_suite).suite
    for name in COEFFICIENT_METHODS:
        seeds = (None,) if name == "task_arithmetic" else tuple(SEEDS)
        answers = [Solution(solved((3, len(suite.groups)), name, seed or 0)) for seed in seeds]
        storage.save(Merges(seeds, dict.fromkeys(suite.task_names, 4), suite.groups, answers), folder / name)
    return {name: folder / name for name in COEFFICIENT_METHODS}


@pytest.fixture(scope="module")
def job(pristine_suite: Path, artefacts: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Job:
    """The stage, run."""
    folder = tmp_path_factory.mktemp("job")
    params = dict(zip(stage.SCOPE, (SEEDS, "train", 2.0, PARAMS), strict=True))
    inputs = (pristine_suite, *artefacts.values())
    found = Job({"suite": "tiny"}, params, inputs, (folder / "landscape",), Resumable(folder / "cells"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAMERGING_WORKERS", "1")
        stage.run(found)
    return found


@pytest.fixture
def tables(job: Job) -> dict[str, pd.DataFrame]:
    """What the stage wrote."""
    return {path.stem: pd.read_csv(path, keep_default_na=False) for path in job.outputs[0].glob("*.csv")}


def held_out(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The solutions on held-out images, by method, seed and task."""
    found = tables["solutions"]
    return found[found.split == "validation"].set_index(["method", "seed", "task"]).sort_index()


def expected(suite: SuiteFolder, artefact: Path, index: int, seed: int, split: str) -> dict[str, tuple[float, int]]:
    """{task: (divergence, correct)} on four images, with NumPy and the models that evaluation serves."""
    (model,), found = storage.load_models(suite, artefact, index), {}
    for task in suite.suite.task_names:
        chosen = sample_indices(len(suite.images(split, task)), 4, seed, task).numpy()
        images = torch.from_numpy(suite.images(split, task)[chosen])
        expert, head = {**suite.base(), **suite.expert(task)}, suite.heads()[task]
        with torch.no_grad():
            taught, merged = ((model.encoder(w, images) @ head.T).double().numpy() for w in (expert, model.weights))
        p, q = (log_softmax(logits / 2, axis=1) for logits in (taught, merged))
        right = int((merged.argmax(1) == suite.labels(split, task)[chosen]).sum())
        found[task] = (float((np.exp(p) * (p - q)).sum(1).mean()), right)
    return found


def rounding(suite: SuiteFolder, task: str) -> float:
    """How far two float32 results of a task's loss may differ.

    A divergence moves by at most 2 / temperature of what the logits move by, that is by 1 of it; and they by what a
    feature of unit length does, times the length of the head's rows.
    """
    return tolerance(torch.float32, roundings(toy.CLIP), float(suite.heads()[task].norm(dim=1).max()))


@pytest.mark.parametrize("split", ["train", "validation"])
def test_solutions_have_the_loss_and_accuracy_of_the_models_that_are_served(
    tables: Mapping[str, pd.DataFrame], pristine_suite: Path, artefacts: Mapping[str, Path], split: str
):
    found = tables["solutions"].set_index(["method", "seed", "split", "task"])
    assert len(found) == 4 * 2 * 2 * 3
    for name, index, seed in (("samerging", 1, 5), ("task_arithmetic", 0, 5), ("distillation", 0, 0)):
        for task, (loss, right) in expected(SuiteFolder(pristine_suite), artefacts[name], index, seed, split).items():
            row = found.loc[name, seed, split, task]
            assert row.loss == pytest.approx(loss, rel=PRINTED, abs=rounding(SuiteFolder(pristine_suite), task))
            assert (row.correct, row.total) == (right, 4)


def test_segments_end_at_the_two_solutions(tables: Mapping[str, pd.DataFrame]):
    solutions = held_out(tables)
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
    same = tolerance(torch.float32, 3, 10)  # up to three classes, their log-probabilities up to 10 in size
    assert losses[1, 0, "cats"] == pytest.approx(0, abs=same)
    assert losses[0, 1, "dogs"] == pytest.approx(0, abs=same)
    assert min(losses[0, 0, "cats"], losses[0, 1, "cats"], losses[1, 1, "cats"]) > 1e-4


def test_planes_are_whole_and_their_points_keep_distances(
    tables: Mapping[str, pd.DataFrame], pristine_suite: Path, artefacts: Mapping[str, Path]
):
    planes = tables["planes"][tables["planes"].kind == "solutions"]
    assert len(planes) == 5 * 5 * 3 and planes.groupby(["x", "y"]).ngroups == 25
    points = tables["points"].set_index(["plane", "point"]).loc["distillation-samerging"]
    moving = with_gradient(pristine_suite)
    one, other = (storage.load(artefacts[name])[1][0, 0][:, moving] for name in ("distillation", "samerging"))
    between, away = (
        np.hypot(*(points.loc["samerging"] - points.loc["distillation"])),
        np.hypot(*points.loc["samerging"]),
    )
    assert (between, away) == pytest.approx((float((one - other).norm()), float(other.norm())), rel=1e-4)


def test_coordinates_and_shares_undo_each_other():
    first, second = torch.tensor([[3.0, 0], [4, 0]]), torch.tensor([[1.0, 2], [2, 0]])
    corners = coordinates(first, second)
    torch.testing.assert_close(corners, torch.tensor([[0, 0], [5, 0], [2.2, (9 - 2.2**2) ** 0.5]], dtype=torch.float64))
    torch.testing.assert_close(
        solve_shares(corners, corners), torch.tensor([[0.0, 0], [1, 0], [0, 1]], dtype=torch.float64)
    )
    place = torch.tensor([[1.5, -2.0]])
    ((a, b),) = solve_shares(corners, place).tolist()
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


def test_rises_start_at_the_solution_and_the_worst_is_no_fall(tables: Mapping[str, pd.DataFrame]):
    solutions = held_out(tables)
    rises = tables["rises"]
    for key, part in rises[rises.radius == 0].groupby(["method", "seed"]):
        for _, each in part.groupby(["space", "direction"]):
            losses = each.set_index("task").loss.to_dict()
            assert losses == pytest.approx(solutions.loc[key].loss.to_dict(), rel=1e-4)
    risen = compute_rises(rises)
    sums = risen.groupby(["method", "seed", "space", "direction", "radius"]).rise.sum()
    assert len(sums) == 4 * 2 * 2 * (2 + 1)
    worst, random = (sums.xs(direction, level="direction") for direction in ("worst", "random"))
    assert (worst > 0).all()
    assert (worst > random).all()  # of 27 and more dimensions: a random direction is far from the worst
    wide, narrow = (worst.xs("coefficients", level="space").xs(radius, level="radius") for radius in (0.3, 0.1))
    assert (wide > narrow).all()


def test_the_spectrum_is_that_of_the_dense_hessian(pristine_suite: Path, artefacts: Mapping[str, Path]):
    place = Place(pristine_suite, "validation", 3, 0, 2.0)
    found = estimate_spectrum(place, End(artefacts["samerging"], 0), 1e-4, 20)
    problem, _ = load_place(place)
    moving = with_gradient(pristine_suite)
    point = solved((3, len(moving)), "samerging", 0)[:, moving].double()
    base, vectors = ({name: tensor.double() for name, tensor in one.items()} for one in (problem.base, problem.vectors))

    def loss(flat: Tensor) -> Tensor:
        weights = merge(base, vectors, flat.view_as(point))
        parts = zip(problem.images, problem.heads, problem.teachers, strict=True)
        return sum(
            distillation(2.0)(problem.encoder(weights, pool) @ head.double().T, taught.double())
            for pool, head, taught in parts
        )

    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        dense = torch.autograd.functional.hessian(loss, point.flatten())
    assert sum(found["eigenvalue"]) == pytest.approx(float(torch.linalg.eigvalsh(dense)[-1]), rel=1e-3)
    assert abs(sum(found["trace"]) - float(dense.trace())) < 4 * found["error"][0]


def context(suite: SuiteFolder) -> Context:
    """What the report would show the study against."""
    tasks, titles = suite.suite.task_names, {name: name.replace("_", " ").capitalize() for name in COEFFICIENT_METHODS}
    return Context("tiny", tasks, titles, 30.0, 90.0, dict.fromkeys(tasks, 90.0), "train", "test", {}, 6.5, 1)


def test_the_view_says_which_solution_is_flatter_with_an_interval(
    tables: Mapping[str, pd.DataFrame], pristine_suite: Path
):
    shown = view(tables, context(SuiteFolder(pristine_suite)))
    assert [*shown.figures] == ["planes", "vectors", "segments", "rises"]
    assert all(render_figure(drawn.figure, "svg", "x", 100).startswith(b"<?xml") for drawn in shown.figures.values())
    curvature = tables["curvature"]
    traces = curvature[curvature.measure == "trace"].groupby(["method", "seed"]).value.sum().groupby("method").mean()
    (said,) = [one for one in shown.sentences if one.startswith("Hessian trace")]
    assert (
        f"({traces['distillation']:.4g}): {traces['samerging'] - traces['distillation']:+.3g}, 95 % interval [" in said
    )
    assert said.endswith("(n = 2 seeds, 3 tasks).")
    assert "which calibration did not see" in shown.figures["planes"].caption
    table = shown.tables["sharpness"].rows
    assert list(table.method) == ["Adamerging", "Distillation", "Samerging", "Task arithmetic"]


def test_a_second_run_writes_the_same_bytes_from_its_cells(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SAMERGING_WORKERS", "1")
    again = Job(job.names, job.params, job.inputs, (tmp_path / "landscape",), job.work)
    cells = {path: path.stat().st_mtime_ns for path in job.work.folder.iterdir()}
    stage.run(again)
    assert {path: path.stat().st_mtime_ns for path in job.work.folder.iterdir()} == cells
    for path in job.outputs[0].iterdir():
        assert store.read_text(tmp_path / "landscape" / path.name) == store.read_text(path)
