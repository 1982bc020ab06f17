"""The sensitivity study: one knob turned at a time, merges at other scales, and the ranges in the view."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from pipeline.merges import storage
from pipeline.merges.solution import Solution
from pipeline.merges.storage import Merges
from pipeline.methods import adamerging, distillation, samerging
from pipeline.models.suite import SuiteFolder
from pipeline.report.figures import render_figure
from pipeline.report.studies import Context
from pipeline.report.studies.sensitivity import measure_brittleness, tabulate_knobs, view
from pipeline.runtime import store
from pipeline.runtime.resumable import Resumable
from pipeline.runtime.schema import Schedule
from pipeline.runtime.stage import Job
from pipeline.steps.calibrate import Setting
from pipeline.steps.evaluate import predict_seed
from pipeline.studies._trials import score_trial
from pipeline.studies.sensitivity import COLUMNS, KNOBS, Params, score_knobs, score_rescaled, vary_knob
from stages.studies import sensitivity as stage
from tests.support import toy

pytestmark = pytest.mark.usefixtures("one_process")

GRID = Params(
    seeds=[0, 5], rho=[0.0, 0.5], temperature=[1.0], initial_coefficient=[0.2], lr=[10.0], steps=[0.01],
    scale=[0.5, 2.0],
)  # fmt: skip
SCHEDULE = Schedule(lr=0.01, steps=2, batch_size=4)
METHODS = {"samerging": samerging.Params(), "distillation": distillation.Params(), "adamerging": adamerging.Params()}


@pytest.fixture(scope="module")
def teachers(pristine_suite: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write random logits on the training examples of every task."""
    folder, suite = tmp_path_factory.mktemp("teachers"), SuiteFolder(pristine_suite)
    rng = np.random.default_rng(0)
    for task in suite.suite.tasks:
        shape = (len(suite.examples("train", task.name)), len(task.classes))
        store.write_array(folder / f"{task.name}.npy", rng.normal(size=shape).astype(np.float32))
    return folder


def make_setting(suite: Path, teachers: Path, method: str) -> Setting:
    """Make a setting of the method."""
    return Setting(suite, teachers, method, METHODS[method], SCHEDULE, "train", "float32")


def halfway(suite: SuiteFolder) -> Solution:
    """Coefficients halfway from the base to the first expert."""
    coefficients = torch.zeros(3, len(suite.suite.groups), dtype=torch.float64)
    coefficients[0] = 0.5
    return Solution(coefficients)


@pytest.mark.parametrize("method", METHODS)
def test_one_knob_is_turned_and_nothing_else(tmp_path: Path, method: str):
    base = make_setting(tmp_path, tmp_path, method)
    for knob in KNOBS[method]:
        variations = vary_knob(base, knob, getattr(GRID, knob))
        assert [variation.setting for variation in variations if variation.published] == [base]
        assert [variation.value for variation in variations] == sorted({variation.value for variation in variations})
        for variation in variations:
            part = variation.setting.schedule if knob in ("lr", "steps") else variation.setting.params
            before = base.schedule if knob in ("lr", "steps") else base.params
            assert getattr(part, knob) == variation.value
            assert part.model_copy(update={knob: getattr(before, knob)}) == before


def test_learning_rates_and_steps_are_factors_of_the_schedule(tmp_path: Path):
    base = make_setting(tmp_path, tmp_path, "adamerging")
    assert [variation.value for variation in vary_knob(base, "lr", [0.5, 1.0, 10.0])] == [0.005, 0.01, 0.1]
    assert [variation.value for variation in vary_knob(base, "steps", [0.01, 1.0, 1.6])] == [1, 2, 3]


def test_sharpness_of_radius_zero_is_distillation_and_equal_settings_run_once(
    pristine_suite: Path, teachers: Path, tmp_path: Path
):
    settings = [make_setting(pristine_suite, teachers, name) for name in ("samerging", "distillation")]
    rows = [*score_knobs(settings, 8, "test", GRID, Resumable(tmp_path))]
    frame = pd.DataFrame(rows, columns=COLUMNS)
    # Besides its own, every knob has one more value, and rho two: 1 + 6 and 1 + 3 settings, each with two seeds.
    assert len([*tmp_path.iterdir()]) == 2 * (7 + 4)
    zero = frame[(frame.knob == "rho") & (frame.value == "0")]
    plain = frame[(frame.method == "distillation") & (frame.knob == "lr") & (frame.published == 1)]
    pd.testing.assert_frame_equal(
        zero[["task", "seed", "correct", "total", "right"]].reset_index(drop=True),
        plain[["task", "seed", "correct", "total", "right"]].reset_index(drop=True),
    )
    turned = replace(settings[0], params=samerging.Params(rho=0.5))
    counts = score_trial(turned, 8, 5, "test")
    scores = frame[(frame.knob == "rho") & (frame.value == "0.5") & (frame.seed == 5)].set_index("task")
    assert {task: [*scores.loc[task, ["samples", "correct", "total", "right"]]] for task in scores.index} == counts


def test_a_factor_scales_the_delta(pristine_suite: Path, tmp_path: Path):
    suite = SuiteFolder(pristine_suite)
    samples = dict.fromkeys(suite.suite.task_names, 0)
    expert = Solution(2 * halfway(suite).coefficients)
    for name, solution in (("half", halfway(suite)), ("whole", expert)):
        storage.save(Merges((None,), samples, suite.suite.groups, [solution]), tmp_path / name)
    for factor, name in ((1.0, "half"), (2.0, "whole")):
        served = predict_seed(pristine_suite, tmp_path / name, 0, "test").correct()
        for task, (correct, total, right) in score_rescaled(
            pristine_suite, tmp_path / "half", 0, factor, "test"
        ).items():
            assert (correct, total) == (served[task].sum(), served[task].size)
            bits = np.unpackbits(np.frombuffer(bytes.fromhex(right), np.uint8), count=total)
            assert np.array_equal(bits, served[task][0])


@pytest.fixture
def job(pristine_suite: Path, teachers: Path, tmp_path: Path) -> Job:
    """The stage, ready to run."""
    suite = SuiteFolder(pristine_suite)
    for name in stage.MERGES:
        seeds = (0, 1) if name == "dare" else (None,)
        merges = Merges(
            seeds, dict.fromkeys(suite.suite.task_names, 0), suite.suite.groups, [halfway(suite) for _ in seeds]
        )
        storage.save(merges, tmp_path / name)
    params = samerging.Params().model_dump() | {
        **{f"calibrate.{name}": METHODS[name] for name in stage.BASELINES},
        **dict(zip(stage.SHARED, (SCHEDULE, "train", "float32"), strict=True)),
        **dict(zip(stage.SCOPE, (8, "test", GRID.model_copy(update={"seeds": [0]})), strict=True)),
    }
    inputs = (pristine_suite, teachers, *(tmp_path / name for name in stage.MERGES))
    return Job({"suite": "tiny"}, params, inputs, (tmp_path / "sensitivity",), Resumable(tmp_path / "cells"))


def test_the_whole_study_is_written_and_viewed(job: Job):
    assert set(job.params) == set(stage.STAGE.params)
    stage.run(job)
    rows = pd.read_csv(job.outputs[0] / "rows.csv", dtype={"right": "str"})
    assert list(rows) == list(COLUMNS)
    assert rows[rows.knob == "scale"].groupby(["method", "value"]).ngroups == 9 * 3
    assert sorted(rows[rows.method == "dare"].seed.unique()) == [0, 1]
    tasks = SuiteFolder(job.inputs[0]).suite.task_names
    titles = {name: name.capitalize() for name in rows.method.unique()}
    context = Context("tiny", tasks, titles, 30.0, 90.0, dict.fromkeys(tasks, 90.0), "train", "test", {}, 6.5, 1)
    study_view = view(rows, context)
    assert [*study_view.figures] == ["knobs", "scale", "brittleness"]
    assert all(
        render_figure(drawn.figure, "svg", "x", 100).startswith(b"<?xml") for drawn in study_view.figures.values()
    )
    assert len(study_view.tables["brittleness"].rows) == 5 + 3 + 3 + 9
    assert "ρ = 0.07 minus ρ = 0" in study_view.sentences[0] and "ρ = 0.5 minus ρ = 0" in study_view.sentences[1]
    assert "over the 21 test examples of these 3 tasks (1 seed) or" in study_view.sentences[2]
    assert all("(n = 1" in sentence for sentence in (*study_view.sentences[:2], *study_view.sentences[3:]))


def test_brittleness_is_measured_on_means_over_seeds():
    counts = {(0.1, 0): (50, 52), (1.0, 1): (60, 62), (2.0, 0): (60, 61), (3.0, 0): (20, 40)}
    rows = pd.DataFrame(
        [
            ("scale", value, published, "tiny", "ties", task, seed, 0, *toy.marked(right, 100))
            for (value, published), seed_counts in counts.items()
            for seed, right in enumerate(seed_counts)
            for task in ("a", "b")
        ],
        columns=COLUMNS,
    )
    (row,) = measure_brittleness(tabulate_knobs(rows, ("a", "b"))).itertuples(index=False)
    assert row == ("ties", "scale", 30.0, 61.0, 61.0, 31.0, 0.5, 4, 2)
