"""Number of tasks: the subsets, merges that see no other task, and the view of made-up scores."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline import methods
from pipeline.merges.serving import Served
from pipeline.methods import samerging
from pipeline.models.suite import SuiteError, SuiteFolder
from pipeline.report.figures import render_figure
from pipeline.report.studies import Context
from pipeline.report.studies.tasks import view
from pipeline.runtime import store
from pipeline.runtime.resumable import Resumable
from pipeline.runtime.schema import Schedule
from pipeline.runtime.stage import Job
from pipeline.steps.calibrate import Setting, calibrate
from pipeline.steps.evaluate import open_split, predict_classes
from pipeline.studies.tasks import COLUMNS, Params, draw_subsets, score_subset, score_subset_calibration
from stages.studies import tasks as stage

pytestmark = pytest.mark.usefixtures("one_process")

GRID = Params(sizes=[2, 4, 6, 9], subsets=4, left_out=2, seed=0, seeds=[0, 1])
SCHEDULE = Schedule(lr=0.01, steps=2, batch_size=2)
TASKS = tuple("abcdefgh")


@pytest.fixture
def teachers(pristine_suite: Path, tmp_path: Path) -> Path:
    """Write random logits for every task."""
    for task in SuiteFolder(pristine_suite).suite.tasks:
        logits = np.random.default_rng(len(task.classes)).normal(size=(12, len(task.classes))).astype(np.float32)
        store.write_array(tmp_path / "teachers" / f"{task.name}.npy", logits)
    return tmp_path / "teachers"


def make_setting(folder: Path, teachers: Path, tasks: tuple[str, ...] | None = None) -> Setting:
    """Make a setting of SAMerging."""
    return Setting(folder, teachers, "samerging", samerging.Params(), SCHEDULE, "train", "float32", tasks)


def test_all_tasks_are_in_equally_many_subsets_of_a_size():
    subsets = draw_subsets(TASKS, GRID)
    assert [len(subset) for subset in subsets] == [2] * 4 + [4] * 4 + [6] * 4 + [8]
    assert len({*subsets}) == len(subsets)
    assert subsets[-1] == TASKS
    for size in (2, 4, 6):
        members = [task for subset in subsets if len(subset) == size for task in subset]
        assert {members.count(task) for task in TASKS} == {4 * size // 8}
    assert all([*subset] == sorted(subset) for subset in subsets)


def test_subsets_depend_on_their_seed_alone():
    assert draw_subsets(TASKS, GRID) == draw_subsets(TASKS, GRID)
    assert draw_subsets(TASKS, GRID) != draw_subsets(TASKS, GRID.model_copy(update={"seed": 1}))


@given(st.integers(1, 4), st.integers(2, 6), st.integers(0, 5))
def test_folds_leave_out_every_task_once(left_out, folds, seed):
    tasks = tuple(map(str, range(left_out * folds)))
    subsets = draw_subsets(tasks, Params(sizes=[], subsets=1, left_out=left_out, seed=seed, seeds=[0]))
    left = [task for subset in subsets for task in tasks if task not in subset]
    assert sorted(left) == (sorted(tasks) if len(tasks) - left_out >= 2 else [])


@given(st.integers(2, 20), st.integers(1, 30), st.integers(1, 5), st.lists(st.integers(2, 20), max_size=5, unique=True))
def test_subsets_are_distinct_and_every_task_is_left_out_by_some(total, number, left_out, sizes):
    tasks = tuple(map(str, range(total)))
    subsets = draw_subsets(tasks, Params(sizes=sizes, subsets=number, left_out=left_out, seed=0, seeds=[0]))
    assert len({*subsets}) == len(subsets)
    if total - left_out >= 2:
        folds = [subset for subset in subsets if len(subset) == total - left_out]
        assert all(any(task not in fold for fold in folds) for task in tasks)


def test_an_unknown_task_is_refused(pristine_suite):
    with pytest.raises(SuiteError, match=r"tiny: no task 'birds'; expected some of cats, dogs, fish"):
        SuiteFolder(pristine_suite, ("cats", "birds"))


def test_a_part_of_a_suite_keeps_its_order(pristine_suite):
    part = SuiteFolder(pristine_suite, ("fish", "cats"))
    assert part.suite.task_names == ("cats", "fish")
    assert part.vectors().task_names == ("cats", "fish")
    first = part.suite.groups[0]
    assert torch.equal(part.vectors()[first], SuiteFolder(pristine_suite).vectors()[first][[0, 2]])


def test_an_average_of_a_subset_is_scored_on_every_task(pristine_suite):
    suite = SuiteFolder(pristine_suite)
    vectors, base = suite.vectors(torch.float64), dict(suite.base())
    middle = {name: (base[name] + vectors[name][:2].mean(0)).float() for name in vectors}
    served = Served(suite.suite.encoder(), base | middle, suite.heads(), suite.suite.task_names)
    expected = predict_classes([served], open_split(suite, "train"), "x").counts(0)
    counts = score_subset(pristine_suite, "average", methods.load("average").Params(), ("cats", "dogs"), "train")
    assert counts == {task: [0, *expected[task]] for task in ("cats", "dogs", "fish")}


def test_calibration_on_a_subset_ignores_the_other_tasks(pristine_suite, teachers, tmp_path):
    merged = ("cats", "fish")
    smaller = shutil.copytree(pristine_suite, tmp_path / "smaller")
    SuiteFolder(smaller).suite.only(merged).save(smaller)
    (smaller / "experts" / "dogs.safetensors").unlink()
    (teachers / "dogs.npy").rename(teachers / "kept.npy")
    part = calibrate(make_setting(pristine_suite, teachers, merged), 6, 0)
    assert part.coefficients.shape[0] == 2
    assert torch.equal(part.coefficients, calibrate(make_setting(smaller, teachers), 6, 0).coefficients)


def test_only_merged_tasks_use_calibration_images(pristine_suite, teachers):
    rows = score_subset_calibration(make_setting(pristine_suite, teachers, ("cats", "fish")), 6, 0, "test")
    assert {task: task_scores[0] for task, task_scores in rows.items()} == {"cats": 6, "dogs": 0, "fish": 6}
    assert {task_scores[2] for task_scores in rows.values()} == {7}


def test_the_stage_merges_and_scores_every_subset(pristine_suite, teachers, tmp_path, at_root):
    output, grid = tmp_path / "tasks", GRID.model_copy(update={"sizes": [2], "subsets": 1, "seeds": [0]})
    params = {key: methods.load(key.partition(".")[2]).Params() for key in (*stage.FREE, *stage.BASELINES)}
    params |= samerging.Params().model_dump()
    params |= {"schedule.{suite}": SCHEDULE, "calibration_split": "train", "precision": "float32"}
    params |= {"study.tasks": grid, "samples_per_task": 6, "evaluation_split": "test"}
    stage.run(Job({}, params, (pristine_suite, teachers), (output,), Resumable(tmp_path / "cells")))
    frame = pd.read_csv(output / "rows.csv")
    assert tuple(frame) == COLUMNS
    assert not frame.duplicated(["subset", "method", "task", "seed"]).any()
    assert frame.groupby("method").subset.nunique().to_dict() == {
        **dict.fromkeys(("zeroshot", "individual"), 1),
        **dict.fromkeys(("average", "task_arithmetic", "ties", "tsv_m", "adamerging", "distillation", "samerging"), 2),
    }
    assert (
        frame.merged == [task in subset.split("+") for task, subset in zip(frame.task, frame.subset, strict=True)]
    ).all()
    assert (frame["size"] == frame.subset.str.count(r"\+") + 1).all()
    whole = score_subset_calibration(make_setting(pristine_suite, teachers), 6, 0, "test")
    samerging_rows = frame[(frame.method == "samerging") & (frame["size"] == 3)].set_index("task")
    assert samerging_rows[["samples", "correct", "total"]].T.to_dict("list") == whole


def scores(inside=(90, 80), outside=50):
    """Scores of two folds of two tasks and of all four; SAMerging leads distillation by 4 points, zero-shot has 40."""
    folds, whole, rows = ("a+b", "c+d"), "a+b+c+d", []
    rows += [
        (whole, 4, 1, "s", name, t, None, 0, n, 100)
        for name, n in (("zeroshot", 40), ("individual", 100))
        for t in "abcd"
    ]
    for subset in (*folds, whole):
        for name, lead in {
            "average": -10,
            "task_arithmetic": -20,
            "ties": -20,
            "tsv_m": -20,
            "distillation": -4,
            "samerging": 0,
        }.items():
            for seed in (0, 1) if name in {"distillation", "samerging"} else (None,):
                for task in "abcd":
                    merged = task in subset
                    correct = (inside[subset == whole] if merged else outside) + lead
                    rows.append((subset, subset.count("+") + 1, int(merged), "s", name, task, seed, 0, correct, 100))
    return pd.DataFrame(rows, columns=COLUMNS)


def context():
    names = ("zeroshot", "individual", "average", "task_arithmetic", "ties", "tsv_m", "distillation", "samerging")
    return Context(
        "s", tuple("abcd"), {name: name.upper() for name in names}, 40.0, 100.0, {}, "train", "test", {}, 6.5, 1
    )


def test_the_view_states_the_cost_of_more_tasks_and_the_gain_of_the_others():
    text = " ".join(view(scores(), context()).sentences)
    assert "from 2 tasks (n = 2 subsets) to 4 (n = 1 subset; 2 seeds" in text
    assert "SAMERGING 90.0 → 80.0" in text
    assert "With 2 tasks SAMERGING minus DISTILLATION +4.00 points" in text
    assert (
        "minus AVERAGE +10.00 points, 95 % interval [+10.00, +10.00], which excludes zero (n = 2 seeds x 2 subsets)"
        in text
    )
    assert "merges of 2 tasks against zero-shot: AVERAGE +0.00 points" in text
    assert (
        "SAMERGING +10.00 points, 95 % interval [+10.00, +10.00], which excludes zero (n = 2 seeds x 2 merges)" in text
    )


def test_subsets_that_share_tasks_have_no_interval():
    """Two subsets of which one task is in both: their difference is stated without one, there and outside."""
    frame = scores()
    shifted = {"a+b": "a+b", "c+d": "b+c", "a+b+c+d": "a+b+c+d"}
    frame = frame.assign(
        subset=frame.subset.map(shifted),
        merged=[int(task in shifted[subset]) for task, subset in zip(frame.task, frame.subset, strict=True)],
    )
    study_view = view(frame, context())
    text = " ".join(study_view.sentences)
    assert "With 2 tasks SAMERGING minus DISTILLATION +4.00 points, no interval (n = 2 seeds x 2 subsets)" in text
    left_out = [sentence for sentence in study_view.sentences if sentence.startswith("On tasks left out")]
    assert len(left_out) == 2
    assert not any("95 % interval" in sentence for sentence in left_out)
    assert study_view.figures["tasks"].figure.axes


def test_accuracy_is_normalised_by_each_tasks_expert():
    frame = scores()
    frame.loc[(frame.method == "individual") & (frame.task == "a"), "correct"] = 50
    (table,) = view(frame, context()).tables.values()
    methods_table = table.rows
    row = methods_table.set_index("Method").loc["SAMERGING"]
    assert row["4 tasks"] == f"{(80 / 0.5 + 3 * 80) / 4:.1f}"
    assert row["Left out"] == "+10.0 [+10.0, +10.0]"


def test_the_figure_has_both_panels_and_reproducible_bytes():
    drawn = view(scores(), context()).figures["tasks"]
    figure, caption = drawn.figure, drawn.caption
    assert "subsets of each size: 2: 2, 4: 1" in caption
    assert [[*axes.get_xticks()] for axes in figure.axes] == [[2, 4], [2]]
    redrawn = view(scores(), context()).figures["tasks"].figure
    assert render_figure(figure, "svg", "x", 100) == render_figure(redrawn, "svg", "x", 100)


def test_a_study_of_the_whole_suite_alone_has_a_view():
    frame = scores()
    study_view = view(frame[frame["size"] == 4], context())
    assert "Left out" not in study_view.tables["tasks"].rows
    assert render_figure(study_view.figures["tasks"].figure, "svg", "x", 100)
