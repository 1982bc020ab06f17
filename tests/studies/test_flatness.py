"""The substitutes for SAM's second pass: closed forms on a quadratic, and the study on a small suite."""

from collections import Counter
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor

from pipeline.calibration import descent
from pipeline.calibration.objectives import distillation
from pipeline.calibration.problem import Problem
from pipeline.methods import samerging
from pipeline.models.suite import SuiteFolder
from pipeline.report.studies import Context
from pipeline.report.studies.flatness import view
from pipeline.runtime import store
from pipeline.runtime.resumable import Resumable
from pipeline.runtime.schema import Schedule
from pipeline.steps.calibrate import Setting
from pipeline.steps.teach import compute_teacher_logits
from pipeline.studies import flatness
from pipeline.studies.flatness import (
    Batch,
    Moment,
    Params,
    TooFew,
    average_tail,
    descend_by_rule,
    list_variants,
    measure_rise,
    score_variants,
    task_losses,
)
from tests.support import toy

RHO = 0.3
PARAMS = samerging.Params(rho=RHO, initial_coefficient=0.2)
STUDY = Params(samples=6, held_out=3, periods=[2, 3], averaged=0.5)
SCHEDULE = Schedule(lr=0.05, steps=6, batch_size=4)
OBJECTIVE = distillation(PARAMS.temperature)
POINT = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
MATRICES = tuple(torch.diag(torch.tensor(values, dtype=torch.float64)) for values in ([4.0, 1, 1], [1.0, 9, 2]))
TOTAL = sum(MATRICES)


def quadratic(matrix: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
    """x'Ax / 2 and Ax."""
    return at @ matrix @ at / 2, matrix @ at


BATCH = Batch(partial(quadratic, TOTAL), [partial(quadratic, matrix) for matrix in MATRICES])


def moment(step: int = 0, epsilon: Tensor | None = None, seed: int = 0) -> Moment:
    """A step of a run."""
    return Moment(step, seed, torch.zeros_like(POINT) if epsilon is None else epsilon)


def sharp_slope(matrix: Tensor, at: Tensor) -> Tensor:
    """The gradient that SAM descends on a quadratic: A (x + rho Ax / |Ax|)."""
    slope = matrix @ at
    return matrix @ (at + RHO * slope / slope.norm())


def test_sam_and_one_perturbation_per_task_have_their_closed_forms():
    shared = flatness.sam(BATCH, POINT, moment(), RHO).slope
    separate = flatness.sam_per_task(BATCH, POINT, moment(), RHO).slope
    torch.testing.assert_close(shared, sharp_slope(TOTAL, POINT))
    torch.testing.assert_close(separate, sum(sharp_slope(matrix, POINT) for matrix in MATRICES))
    assert not torch.allclose(shared, separate)


def test_sam_every_third_step_is_plain_in_between():
    slopes = [flatness.sam_every(3, BATCH, POINT, moment(step), RHO).slope for step in range(5)]
    plain = TOTAL @ POINT
    for slope, expected in zip(
        slopes, (sharp_slope(TOTAL, POINT), plain, plain, sharp_slope(TOTAL, POINT), plain), strict=True
    ):
        torch.testing.assert_close(slope, expected)


def test_a_carried_perturbation_follows_the_previous_gradient():
    first = flatness.carried(BATCH, POINT, moment(), RHO)
    torch.testing.assert_close(first.slope, TOTAL @ POINT)
    torch.testing.assert_close(first.epsilon, RHO * first.slope / first.slope.norm())
    second = flatness.carried(BATCH, POINT, moment(1, first.epsilon), RHO)
    torch.testing.assert_close(second.slope, sharp_slope(TOTAL, POINT))  # equals SAM's, as the point has not moved


def test_smoothing_moves_by_rho_and_is_plain_descent_on_average():
    steps = [flatness.smoothed(BATCH, POINT, moment(step), RHO).slope for step in range(2000)]
    shifts = torch.linalg.solve(TOTAL, torch.stack(steps).T).T - POINT
    torch.testing.assert_close(shifts.norm(dim=1), torch.full((2000,), RHO, dtype=torch.float64))
    assert shifts.mean(0).norm() < 4 * RHO / 2000**0.5
    assert not torch.equal(steps[0], flatness.smoothed(BATCH, POINT, moment(0, seed=1), RHO).slope)


def test_the_rise_on_a_quadratic_has_its_closed_form():
    slope = TOTAL @ POINT
    losses, rises = measure_rise(lambda at: torch.stack([quadratic(m, at)[0] for m in MATRICES]), slope, POINT, RHO)
    epsilon = RHO * slope / slope.norm()
    expected = torch.stack([epsilon @ matrix @ POINT + epsilon @ matrix @ epsilon / 2 for matrix in MATRICES])
    torch.testing.assert_close(losses, torch.stack([quadratic(matrix, POINT)[0] for matrix in MATRICES]))
    torch.testing.assert_close(rises, expected)


def test_the_rise_is_maximised_inside_the_radius_too():
    def bump(at: Tensor) -> Tensor:
        return -(at - 0.5).square()

    _, rise = measure_rise(bump, torch.ones(1), torch.zeros(1), 1.0)
    torch.testing.assert_close(rise, torch.tensor([0.25]))


def test_task_losses_sum_to_the_total_loss(problem: Problem):
    point = torch.full((3, len(toy.GROUPS)), 0.3, dtype=torch.float64)
    loss, _ = descent.coefficient_gradient(problem, OBJECTIVE, point, toy.whole(problem))
    torch.testing.assert_close(task_losses(problem, OBJECTIVE, point).sum(), loss)


@pytest.mark.parametrize(("name", "sharpness"), [("plain", "none"), ("sam", "sam")])
def test_plain_and_sam_equal_the_methods_bit_for_bit(problem: Problem, name: str, sharpness: str):
    params = PARAMS.model_copy(update={"sharpness": sharpness})
    expected = samerging.calibrate(problem, SCHEDULE, 5, params).coefficients
    run = descend_by_rule(problem, OBJECTIVE, SCHEDULE, 5, PARAMS, list_variants(STUDY)[name].rule)
    assert torch.equal(run.path[-1], expected)


def test_every_rule_has_its_number_of_passes(problem: Problem):
    whole, part = 12, 4
    expected = {
        "plain": {whole: 6},
        "sam": {whole: 12},
        "every 2": {whole: 9},
        "every 3": {whole: 8},
        "carried": {whole: 6},
        "per task": {part: 36},
        "smoothed": {whole: 6},
        "averaged": {whole: 6},
    }
    passes = {
        name: Counter(descend_by_rule(problem, OBJECTIVE, SCHEDULE, 0, PARAMS, variant.rule).passes)
        for name, variant in list_variants(STUDY).items()
    }
    assert passes == expected


def test_every_rule_is_plain_descent_at_radius_zero(problem: Problem):
    flat = PARAMS.model_copy(update={"rho": 0.0})
    paths = [
        descend_by_rule(problem, OBJECTIVE, SCHEDULE, 0, flat, variant.rule).path[-1]
        for variant in list_variants(STUDY).values()
    ]
    for path in paths[1:]:
        torch.testing.assert_close(path, paths[0])


@pytest.fixture
def setting(pristine_suite: Path, tmp_path: Path) -> Setting:
    """SAMerging on the tiny suite, with its teachers."""
    for task in toy.TASKS:
        store.write_array(
            tmp_path / "teachers" / f"{task}.npy", compute_teacher_logits(pristine_suite, task, "train").numpy()
        )
    schedule = Schedule(lr=0.02, steps=3, batch_size=2)
    return Setting(pristine_suite, tmp_path / "teachers", "samerging", PARAMS, schedule, "train", "float32")


def test_the_study_writes_a_row_per_variant_seed_and_task(setting: Setting, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("SAMERGING_WORKERS", "1")
    rows = pd.DataFrame(
        score_variants(setting, STUDY, [0, 1], "test", Resumable(tmp_path / "cells")), columns=flatness.COLUMNS
    )
    rows = rows.astype({"loss": float, "rise": float})
    assert len(rows) == len(list_variants(STUDY)) * 2 * len(toy.TASKS)
    assert (rows.samples == STUDY.samples).all()
    assert (rows.total == toy.SIZES["test"]).all()
    assert (rows.groupby(["setting", "seed"]).rise.sum() > 0).all()
    assert rows[rows.setting == "sam"].passed.unique().tolist() == [2 * 3 * 3 * 2]
    study_view = view(rows, context())
    assert [*study_view.tables["flatness"].rows["Rule"]][:2] == ["plain", "SAM"]
    assert "n = 2 seeds" in study_view.sentences[0]
    assert {*study_view.figures} == {"flatness"}


def test_averaging_takes_the_last_iterates():
    path = torch.arange(8.0)[:, None]
    assert [float(average_tail(path, share)) for share in (0.0, 0.1, 0.5, 1.0)] == [7, 7, 5.5, 3.5]


@pytest.mark.parametrize(("drawn", "expected"), [(9, 6), (6, 4), (3, 2), (2, 1), (1, 0)])
def test_a_small_pool_is_split_in_proportion(drawn: int, expected: int):
    assert flatness.count_fitted(drawn, STUDY) == expected


def test_too_few_examples_are_refused_before_anything_runs(setting: Setting, tmp_path: Path):
    message = r"cats has 12 examples in its train split, too few to share between samples = 6 and held_out = 90"
    with pytest.raises(TooFew, match=message):
        score_variants(setting, STUDY.model_copy(update={"held_out": 90}), [0], "test", Resumable(tmp_path / "cells"))


def test_held_out_and_calibration_examples_are_disjoint(setting: Setting, monkeypatch: pytest.MonkeyPatch):
    problems: dict[str, Problem] = {}

    def record_descent(part: Problem, *others: object) -> flatness.Descent:
        problems["fitted"] = part
        return descend_by_rule(part, *others)

    def record_losses(part: Problem, *others: object) -> Tensor:
        problems["held"] = part
        return task_losses(part, *others)

    monkeypatch.setattr(flatness, "descend_by_rule", record_descent)
    monkeypatch.setattr(flatness, "task_losses", record_losses)
    flatness.measure_variant(setting, STUDY, "plain", 0, "test")
    suite = SuiteFolder(setting.suite)
    for index, task in enumerate(toy.TASKS):
        pool = {example.tobytes() for example in suite.examples("train", task)}
        fitted, held_out = (
            {example.numpy().tobytes() for example in problems[part].examples[index]} for part in ("fitted", "held")
        )
        assert (len(fitted), len(held_out)) == (STUDY.samples, STUDY.held_out)
        assert not fitted & held_out
        assert fitted | held_out <= pool


def context() -> Context:
    """Context of the report on the tiny suite."""
    return Context(
        suite="tiny",
        tasks=tuple(toy.TASKS),
        titles={},
        floor=40.0,
        ceiling=90.0,
        experts=dict.fromkeys(toy.TASKS, 90.0),
        calibration_split="train",
        evaluation_split="test",
        params={"rho": RHO},
        width=6.5,
        decimals=1,
    )
