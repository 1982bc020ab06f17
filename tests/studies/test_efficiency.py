"""The view of data efficiency on made-up scores."""

from itertools import product

import pandas as pd
import pytest

from pipeline.report.studies import Context
from pipeline.report.studies.efficiency import view
from pipeline.statistics.accuracy import ScoresError
from pipeline.studies._trials import TRIAL_COLUMNS
from tests.support import toy

LOSS = {"distillation": {1: 200, 4: 15, 16: 5, 64: 0}, "samerging": {1: 200, 4: 5, 16: 0, 64: 0}}
"""{method: {calibration examples: right answers lost of 1,000}}."""


def rows() -> pd.DataFrame:
    """Scores in which seeds differ, but lose equally with fewer examples."""
    grid = product(LOSS, (1, 4, 16, 64), toy.TASKS, (0, 1, 2))
    records = [
        ("", k, "tiny", method, task, seed, min(k, 40), *toy.marked(800 + 3 * seed - LOSS[method][k], 1000))
        for method, k, task, seed in grid
    ]
    return pd.DataFrame(records, columns=TRIAL_COLUMNS)


def context(floor: float = 40.0) -> Context:
    """Context of the report on the tiny suite."""
    titles = {
        "zeroshot": "Zero-shot",
        "individual": "Experts",
        "distillation": "Distillation",
        "samerging": "SAMerging",
    }
    experts = dict.fromkeys(toy.TASKS, 90.0)
    return Context("tiny", tuple(toy.TASKS), titles, floor, 90.0, experts, "train", "test", {}, 6.5, 1)


def test_the_view_names_the_fewest_examples_that_suffice():
    sentences = view(rows(), context()).sentences
    assert "no number below 64 does so well that its interval includes zero" in sentences[0]
    assert "from 16 on less than a point is lost (16: -0.50 points [-" in sentences[0]
    assert (
        "from 16 on every interval of the difference to 64 includes zero (16: +0.00 [+0.00, +0.00] points)"
        in sentences[1]
    )
    assert "from 4 on less than a point is lost" in sentences[1]
    assert "(n = 3 seeds)" in sentences[1]


def test_sharpness_is_compared_at_every_number_of_images():
    study_view = view(rows(), context())
    assert "k = 1: +0.00 [+0.00, +0.00]; k = 4: +1.00 [+" in study_view.sentences[2]
    assert "2 of 4 intervals exclude zero, where chance alone would give about 0.2" in study_view.sentences[2]
    table = study_view.tables["accuracies"].rows.set_index("Examples per task")
    assert table["Tasks like these"].tolist() == [f"[+{gain}, +{gain}]" for gain in ("0.00", "1.00", "0.50", "0.00")]


def test_the_second_panel_is_in_per_cent_of_the_gap():
    right = view(rows(), context(40.0)).figures["efficiency"].figure.axes[1]
    heights = right.lines[0].get_ydata()
    assert heights.tolist() == pytest.approx([-40, -3, -1])  # 20, 1.5 and 0.5 points of a gap of 50
    caption = view(rows(), context(90.0)).figures["efficiency"].caption
    assert "in points" in caption
    assert "A task with fewer examples uses all it has (cats, dogs, fish)." in caption


def test_a_single_number_of_examples_has_no_comparison():
    study_view = view(rows()[lambda scores: scores.k == 64], context())
    assert study_view.sentences[0].startswith("SAMerging minus distillation")
    assert len(study_view.tables["accuracies"].rows) == 1


def test_a_run_without_one_of_its_tasks_is_refused():
    with pytest.raises(ScoresError, match="expected cats, dogs, fish, each once"):
        view(rows().iloc[1:], context())
