"""The protocol study: examples and logits that every run sees, and the view of made-up scores."""

from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.methods import adamerging, distillation, samerging
from pipeline.models.suite import SuiteFolder
from pipeline.report.studies import Context
from pipeline.report.studies import protocol as protocol_view
from pipeline.runtime import store
from pipeline.runtime.resumable import Resumable
from pipeline.runtime.schema import Schedule
from pipeline.steps.calibrate import draw_indices, load_problem
from pipeline.steps.teach import compute_teacher_logits
from pipeline.studies._teachers import write_teachers
from pipeline.studies._trials import TRIAL_COLUMNS, Trial, score_trials
from pipeline.studies.protocol import HELD_OUT, TRANSDUCTIVE, Params, SameSplit, choose_splits, list_protocol_trials
from tests.support import toy

SCHEDULE = Schedule(lr=0.02, steps=2, batch_size=2)
STUDY = Params(held_out="train", samples=[2, 7])
BETTER = (TRANSDUCTIVE, "samerging")
METHODS = {module.__name__.rsplit(".", 1)[1]: module.Params() for module in (adamerging, distillation, samerging)}


@pytest.fixture
def todo(pristine_suite: Path, tmp_path: Path) -> list[Trial]:
    """All runs of the study on the tiny suite."""
    work = Resumable(tmp_path / "cells")
    teachers = {
        protocol: (split, write_teachers(pristine_suite, split, tmp_path, work))
        for protocol, split in choose_splits(STUDY, "test").items()
    }
    return list_protocol_trials(pristine_suite, teachers, METHODS, SCHEDULE, "float32", STUDY.samples, [0, 1])


def test_teachers_are_the_experts_logits_on_the_split(pristine_suite: Path, tmp_path: Path):
    folder = write_teachers(pristine_suite, "test", tmp_path, Resumable(tmp_path / "cells"))
    for task in toy.TASKS:
        expected = compute_teacher_logits(pristine_suite, task, "test").numpy()
        assert np.array_equal(store.read_array(folder / f"{task}.npy"), expected)


def test_a_transductive_run_sees_scored_examples_and_their_logits(todo: list[Trial]):
    trial = next(candidate for candidate in todo if candidate.name == TRANSDUCTIVE and candidate.samples == 7)
    suite = SuiteFolder(trial.setting.suite)
    indices = draw_indices(suite, trial.setting.split, 7, 0)
    problem = load_problem(trial.setting, indices)
    for index, task in enumerate(toy.TASKS):
        examples = suite.examples("test", task)
        assert {example.numpy().tobytes() for example in problem.examples[index]} == {
            example.tobytes() for example in examples
        }
        expected = compute_teacher_logits(trial.setting.suite, task, "test")[indices[task]]
        assert problem.teachers[index].equal(expected)


def test_every_method_runs_under_both_protocols(todo: list[Trial]):
    assert len(todo) == len({*map(repr, todo)}) == 3 * 2 * 2 * 2
    runs = {(trial.name, trial.setting.split, trial.setting.teachers.name) for trial in todo}
    assert runs == {(HELD_OUT, "train", "train"), (TRANSDUCTIVE, "test", "test")}


def test_calibrating_on_the_evaluation_split_as_held_out_is_refused():
    params = STUDY.model_copy(update={"held_out": "validation"})
    with pytest.raises(SameSplit, match=r"study.protocol.held_out = 'validation': this is the evaluation_split"):
        choose_splits(params, "validation")


def test_the_report_shows_the_scores_of_the_study(todo: list[Trial], tmp_path: Path, monkeypatch):
    monkeypatch.setenv("SAMERGING_WORKERS", "1")
    rows = pd.DataFrame(score_trials(todo, "test", "protocol", Resumable(tmp_path / "cells")), columns=TRIAL_COLUMNS)
    assert len(rows) == len(todo) * len(toy.TASKS)
    assert (rows.total == toy.SIZES["test"]).all()
    study_view = protocol_view.view(rows, context())
    assert len(study_view.tables["protocol"].rows) == 3 * 2
    assert "TRANSDUCTIVE" in study_view.figures["protocol"].caption


def made_up() -> pd.DataFrame:
    """Scores in which transduction gains 2 points for SAMerging and nothing for distillation."""
    grid = product((HELD_OUT, TRANSDUCTIVE), ("distillation", "samerging"), (4, 16), toy.TASKS, (0, 1, 2))
    records = [
        (name, k, "tiny", method, task, seed, k, *toy.marked(700 + seed + 20 * ((name, method) == BETTER), 1000))
        for name, method, k, task, seed in grid
    ]
    return pd.DataFrame(records, columns=TRIAL_COLUMNS)


def context() -> Context:
    """Context of the report on the tiny suite."""
    titles = {"zeroshot": "Zero-shot", "individual": "Experts", "adamerging": "AdaMerging"}
    titles |= {"distillation": "Distillation", "samerging": "SAMerging"}
    experts = dict.fromkeys(toy.TASKS, 90.0)
    params = {"study.protocol": STUDY.model_dump()}
    return Context("tiny", tuple(toy.TASKS), titles, 40.0, 90.0, experts, "train", "test", params, 6.5, 1)


def test_the_view_recovers_the_planted_gain():
    study_view = protocol_view.view(made_up(), context())
    assert study_view.sentences[0].startswith(
        "Distillation, transductive minus held-out: k = 4: +0.00 points [+0.00, +0.00], which"
    )
    assert "k = 16: +2.00 points [+" in study_view.sentences[1]
    assert study_view.sentences[1].endswith(", which excludes zero (n = 3 seeds).")
    assert study_view.sentences[2].startswith("2 of 4 intervals exclude zero, where chance alone would give about 0.2.")
    table = study_view.tables["protocol"].rows.set_index(["Method", "Examples per task"])
    assert table.loc[("SAMerging", 16), ["Tasks like these", "Won : lost"]].tolist() == ["[+2.00, +2.00]", "3 : 0"]
