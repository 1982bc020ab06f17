"""Robustness: every merge on the same corrupted images, and the view of made-up drops."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import ValidationError

from pipeline import methods
from pipeline.merges import storage
from pipeline.models.suite import SuiteFolder
from pipeline.report.figures import render_figure
from pipeline.report.studies import Context
from pipeline.report.studies.robustness import TITLES, view
from pipeline.runtime.resumable import Resumable
from pipeline.runtime.stage import Job
from pipeline.statistics.sampling import generator, sample_indices
from pipeline.steps import evaluate
from pipeline.steps import merge as merge_step
from pipeline.studies._corruptions import CORRUPTIONS, corrupt
from pipeline.studies.robustness import COLUMNS, Params, score_corruptions
from stages.studies import robustness as stage

pytestmark = pytest.mark.usefixtures("one_process")

GRID = Params(corruptions=["contrast", "gaussian_noise"], severities=[1, 5], images=100, seed=0)


@pytest.fixture
def artefacts(pristine_suite: Path, tmp_path: Path) -> list[Path]:
    """Write merges of the tiny suite in every form: coefficients of one model and of T, a delta."""
    suite, folders = SuiteFolder(pristine_suite), []
    for name in ("zeroshot", "individual", "ties"):
        method = methods.load(name)
        merges = merge_step.merge_data_free(method, suite.vectors(), method.Params(), suite.suite.task_names)
        folders.append(tmp_path / "merges" / name)
        storage.save(merges, folders[-1])
    return folders


@pytest.fixture
def work(tmp_path: Path) -> Resumable:
    """A folder for pieces of work."""
    return Resumable(tmp_path / "cells")


def test_clean_images_score_as_evaluation_does(pristine_suite, artefacts, work):
    grid = GRID.model_copy(update={"corruptions": ["contrast"], "severities": [1]})
    rows = score_corruptions(pristine_suite, artefacts, "test", grid, work)
    predictions = {path: evaluate.predict_seeds(pristine_suite, path, "test", "x") for path in artefacts}
    expected = [
        row for path, answers in predictions.items() for row in evaluate.count_correct("tiny", path.name, path, answers)
    ]
    assert [row[2:] for row in rows if row[:2] == ("clean", 0)] == expected


def test_texts_have_no_rows(text_suite: Path, work: Resumable):
    assert score_corruptions(text_suite, [], "test", GRID, work) == []


def test_corrupted_counts_by_hand(pristine_suite, artefacts, work):
    suite = SuiteFolder(pristine_suite)
    params = GRID.model_copy(update={"images": 4})
    rows = score_corruptions(pristine_suite, artefacts[:1], "test", params, work)
    counts = {row[4]: row[-2:] for row in rows if row[:2] == ("gaussian_noise", 5)}
    for task in suite.suite.task_names:
        indices = sample_indices(7, 4, 0, task).numpy()
        rng = np.random.default_rng(generator(0, "gaussian_noise", 5, task).initial_seed())
        images = corrupt(suite.examples("test", task)[indices], "gaussian_noise", 5, rng)
        with torch.no_grad():
            features = suite.suite.encoder()(dict(suite.base()), torch.from_numpy(images))
        classes = (features @ suite.heads()[task].T).argmax(1).numpy()
        assert counts[task] == ((classes == suite.labels("test", task)[indices]).sum(), 4)


def test_a_case_does_not_depend_on_other_cases(pristine_suite, artefacts, work, tmp_path):
    grid = GRID.model_copy(update={"corruptions": ["gaussian_noise"], "severities": [5]})
    rows = score_corruptions(pristine_suite, artefacts[::2], "test", GRID, work)
    single = score_corruptions(pristine_suite, artefacts[::2], "test", grid, Resumable(tmp_path / "others"))
    assert single == [row for row in rows if row[:2] in {("clean", 0), ("gaussian_noise", 5)}]


def test_the_stage_writes_a_row_per_case_method_and_task(pristine_suite, artefacts, work, tmp_path):
    folders = [shutil.copytree(artefacts[0], tmp_path / "all" / name) for name in stage.METHODS]
    output = tmp_path / "robustness"
    grid = GRID.model_copy(update={"corruptions": ["jpeg"], "severities": [3]})
    stage.run(
        Job({}, {"evaluation_split": "test", "study.robustness": grid}, (pristine_suite, *folders), (output,), work)
    )
    frame = pd.read_csv(output / "rows.csv")
    assert tuple(frame) == COLUMNS
    assert [*dict.fromkeys(frame.method)] == [*stage.METHODS]
    assert len(frame) == 2 * len(stage.METHODS) * 3
    assert (frame.groupby("task").total.nunique() == 1).all()


@pytest.mark.parametrize("wrong", [{"corruptions": ["fog"]}, {"severities": [6]}, {"severities": []}, {"images": 0}])
def test_impossible_grids_are_refused(wrong):
    with pytest.raises(ValidationError):
        Params(**(GRID.model_dump() | wrong))


def scores(gain, tasks=("a", "b"), seeds=(0, 1)):
    """Experts lose 10 points, merges 20; SAMerging leads distillation by `gain` on corrupted images only."""
    rows = []
    levels = {"zeroshot": (40, 30), "individual": (90, 80), "average": (70, 50), "distillation": (80, 60)}
    levels["samerging"] = (80, 60 + gain)
    for case in (("clean", 0), ("contrast", 1), ("contrast", 5), ("jpeg", 1), ("jpeg", 5)):
        for name, correct in levels.items():
            for seed in seeds if name in {"distillation", "samerging"} else (None,):
                for task in tasks:
                    rows.append((*case, "s", name, task, seed, 0, correct[case[0] != "clean"], 100))
    return pd.DataFrame(rows, columns=COLUMNS)


def context(width=6.5):
    titles = {"zeroshot": "Zero-shot", "individual": "Experts", "average": "Average", "distillation": "Distillation"}
    titles["samerging"] = "SAMerging"
    return Context("s", ("a", "b"), titles, 40.0, 90.0, {"a": 90.0, "b": 90.0}, "train", "test", {}, width, 1)


@pytest.mark.parametrize(("gain", "verdict"), [(3, "excludes zero"), (0, "includes zero")])
def test_the_view_states_the_drop_saved_by_sharpness(gain, verdict):
    text = " ".join(view(scores(gain), context()).sentences)
    assert f"SAMerging minus Distillation on corrupted images: {gain:+.2f} points" in text
    assert (
        f"What sharpness saves of the drop: {gain:+.2f} points, 95 % interval [{gain:+.2f}, {gain:+.2f}], which "
        in text
    )
    assert f"{verdict} (n = 2 seeds x 2 tasks)" in text.split("saves of the drop")[1]
    assert f"{2 * (gain > 0)} of 2 exclude zero" in text


def test_the_table_has_means_over_severities_and_the_drop():
    (frame,) = view(scores(3), context()).tables.values()
    table, caption = frame.rows, frame.caption
    table = table.set_index("Method")
    assert table.loc["SAMerging", ["Clean", "Contrast", "JPEG", "Corrupted", "Drop"]].tolist() == [
        "80.0", "63.0", "63.0", "63.0", "17.0"
    ]  # fmt: skip
    assert table.loc["Experts", "Drop"] == "10.0"
    assert "severities 1, 5" in caption
    assert "200 images of 2 tasks of the test split; 2 seeds" in caption


def test_the_figure_has_a_panel_per_corruption_and_reproducible_bytes():
    (drawn,) = view(scores(3), context()).figures.values()
    figure = drawn.figure
    panels = [axes for axes in figure.axes if axes.axison]
    assert [axes.get_title() for axes in panels] == ["Contrast", "JPEG"]
    line = next(line for line in panels[0].lines if line.get_label() == "SAMerging")
    assert line.get_xydata().tolist() == [[0, 80], [1, 63], [5, 63]]
    redrawn = view(scores(3), context()).figures["robustness"].figure
    assert render_figure(figure, "svg", "x", 100) == render_figure(redrawn, "svg", "x", 100)


def test_every_corruption_has_a_title():
    assert [*TITLES] == [*CORRUPTIONS]
