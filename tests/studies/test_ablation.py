"""The ablation: its corners equal the methods, its view recovers planted effects, and it runs on a small suite."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from pipeline.calibration import descent
from pipeline.calibration.problem import Problem
from pipeline.methods import adamerging, adamerging_taskwise, distillation, samerging
from pipeline.report.studies import Context
from pipeline.report.studies.ablation import view
from pipeline.runtime import store
from pipeline.runtime.resumable import Resumable
from pipeline.runtime.schema import Schedule
from pipeline.steps.calibrate import Setting
from pipeline.steps.teach import compute_teacher_logits
from pipeline.studies import ablation
from pipeline.studies._trials import TRIAL_COLUMNS
from pipeline.studies.ablation import list_combinations, score_combinations, solve_combination
from tests.support import toy

PARAMS = samerging.Params(rho=0.3, initial_coefficient=0.3)
PLAIN = PARAMS.model_copy(update={"sharpness": "none"})
SCHEDULE = Schedule(lr=0.05, steps=4, batch_size=4)
START = {"initial_coefficient": 0.3, "weight_decay": PARAMS.weight_decay}


def test_every_combination_is_listed_once():
    combinations = [*list_combinations()]
    assert len({*combinations}) == len(combinations) == 2 * 3 * 2
    assert combinations[0] == ("entropy", "none", "task")


@pytest.mark.parametrize(
    ("method", "params", "own", "objective", "granularity"),
    [
        (adamerging, adamerging.Params(**START), PLAIN, "entropy", "layer"),
        (adamerging_taskwise, adamerging_taskwise.Params(**START), PLAIN, "entropy", "task"),
        (distillation, distillation.Params(**START), PLAIN, "distillation", "layer"),
        (samerging, PARAMS, PARAMS, "distillation", "layer"),
    ],
)
def test_the_corners_equal_the_methods_bit_for_bit(problem: Problem, method, params, own, objective, granularity):
    expected = method.calibrate(problem, SCHEDULE, 1, params)
    solution = solve_combination(problem, SCHEDULE, 1, own, objective, granularity)
    assert torch.equal(solution.coefficients, expected.coefficients)


def test_all_combinations_have_different_solutions(problem: Problem):
    solutions = {
        variant.name: solve_combination(
            problem,
            SCHEDULE,
            0,
            PARAMS.model_copy(update={"sharpness": variant.sharpness}),
            variant.objective,
            variant.granularity,
        ).coefficients
        for variant in list_combinations()
    }
    assert len({tuple(coefficients.flatten().tolist()) for coefficients in solutions.values()}) == len(solutions)
    for name, coefficients in solutions.items():
        assert bool((coefficients == coefficients[:, :1]).all()) == name.endswith("task")


@pytest.mark.parametrize("objective", ablation.OBJECTIVES)
def test_sharpness_without_a_second_merge_has_no_effect(
    problem: Problem, objective: str, monkeypatch: pytest.MonkeyPatch
):
    """A second pass at the weights of the first changes nothing, as the view states of the released code."""
    plain = solve_combination(problem, SCHEDULE, 0, PLAIN, objective, "layer")
    sharp_gradient = descent.sharp_gradient

    def merged_once(function, point, rho, sharpness):
        first = function(point)
        return sharp_gradient(lambda _: first, point, rho, sharpness)

    monkeypatch.setattr(descent, "sharp_gradient", merged_once)
    assert torch.equal(
        solve_combination(problem, SCHEDULE, 0, PARAMS, objective, "layer").coefficients, plain.coefficients
    )


def scores(seeds: int = 3) -> pd.DataFrame:
    """Scores in which distillation is worth 10 points, layers 4, and SAM 2 with distillation alone."""
    rng = np.random.default_rng(0)
    noise = {(seed, task): int(rng.integers(-20, 20)) for seed in range(seeds) for task in toy.TASKS}
    records = []
    for variant in list_combinations():
        gain = 100 * (variant.objective == "distillation") + 40 * (variant.granularity == "layer")
        gain += 20 * (variant.sharpness == "sam" and variant.objective == "distillation")
        records += [
            (variant.name, 8, "tiny", "samerging", task, seed, 8, *toy.marked(600 + gain + noise[seed, task], 1000))
            for seed in range(seeds)
            for task in toy.TASKS
        ]
    return pd.DataFrame(records, columns=TRIAL_COLUMNS)


def context() -> Context:
    """Context of the report on the tiny suite."""
    params = {"rho": 0.07, "temperature": 2.0, "weight_decay": 0.0005, "study.ablation": {"initial_coefficient": 0.3}}
    experts = dict.fromkeys(toy.TASKS, 90.0)
    return Context("tiny", tuple(toy.TASKS), {}, 40.0, 90.0, experts, "train", "test", params, 6.5, 1)


def test_the_view_recovers_the_planted_effects():
    study_view = view(scores(), context())
    effects = study_view.tables["effects"].rows.set_index(["Effect", "Where"])
    expected = {
        ("distillation minus entropy", "all"): ("+10.67", "[+10.67, +10.67]", "3 : 0"),
        ("layer-wise minus task-wise", "all"): ("+4.00", "[+4.00, +4.00]", "3 : 0"),
        ("SAM minus no sharpness", "all"): ("+1.00", "[+1.00, +1.00]", "3 : 0"),
        ("SAM minus no sharpness", "distillation, layer-wise"): ("+2.00", "[+2.00, +2.00]", "3 : 0"),
        ("SAM minus no sharpness", "entropy, layer-wise"): ("+0.00", "[+0.00, +0.00]", "0 : 0"),
    }
    for effect, (mean, like, won) in expected.items():
        row = effects.loc[effect]
        low, high = map(float, row["Points"].split(" ", 1)[1].strip("[]").split(", "))
        assert row["Points"].split()[0] == mean
        assert low < float(mean) < high or float(mean) == 0 == low == high, "examples differ where anything does"
        assert (row["Tasks like these"], row["Won : lost"]) == (like, won)
    assert len(effects) == (1 + 6) + 2 * (1 + 4) + (1 + 6)
    assert "which excludes zero; better on 3 and worse on 0 of 3 tasks (n = 3 seeds)" in study_view.sentences[0]
    assert "working SAM changes that by +2.00 points [" in study_view.sentences[4]
    assert "over the 3,000 test examples of these 3 tasks and 3 seeds or" in study_view.sentences[5]
    combinations = study_view.tables["combinations"].rows
    released = combinations[combinations[""] == "as the released code computes"]
    assert released[["Objective", "Sharpness", "Granularity"]].to_numpy().tolist() == [
        ["distillation", "no sharpness", "layer-wise"]
    ]
    assert "rho 0.07" in study_view.figures["ablation"].caption


def test_the_study_writes_a_row_per_combination_seed_and_task(pristine_suite: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("SAMERGING_WORKERS", "1")
    for task in toy.TASKS:
        store.write_array(
            tmp_path / "teachers" / f"{task}.npy", compute_teacher_logits(pristine_suite, task, "train").numpy()
        )
    schedule = Schedule(lr=0.05, steps=2, batch_size=2)
    setting = Setting(pristine_suite, tmp_path / "teachers", "samerging", PARAMS, schedule, "train", "float32")
    rows = pd.DataFrame(
        score_combinations(setting, 4, [3], "test", Resumable(tmp_path / "cells")), columns=TRIAL_COLUMNS
    )
    assert len(rows) == 12 * len(toy.TASKS)
    assert rows.setting.nunique() == 12
    assert (rows.total == toy.SIZES["test"]).all()
    assert (rows.samples == 4).all()
    assert view(rows, context()).sentences
